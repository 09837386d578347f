import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError, StatementError

from server.domain.api_keys import ApiKey
from server.domain.instances import Desired, Phase
from server.domain.policies import Policy, PolicyFields
from server.store import dialects, migrate
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.sealing import SealBroken, Sealer
from server.store.tables import metadata
from server.store.traffic import Bucket
from tests.store.rows import KEYS, NOW, add, instance
from tests.support.databases import databases


async def test_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    async with database.engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert differences == []
    assert set(metadata.tables) <= set(tables)


async def test_migrations_go_back_and_forth_and_a_newer_database_is_refused(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.run_sync(migrate._command, "downgrade", "base")
    await migrate.upgrade(database.engine)
    await migrate.upgrade(database.engine)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(migrate.SchemaTooNew):
        await migrate.upgrade(database.engine)


async def test_servers_that_start_together_migrate_once() -> None:
    postgres = databases.postgres()
    url = postgres.url(name := postgres.create())
    engines = [create_engine(url) for _ in range(3)]
    await asyncio.gather(*(migrate.upgrade(engine) for engine in engines))
    for engine in engines:
        await engine.dispose()
    assert postgres.run("SELECT version_num FROM alembic_version", name) == migrate.newest()
    postgres.drop(name)


async def test_rows_come_back_as_they_went_in_with_times_in_utc(database: Database) -> None:
    await add(database, instance())
    async with database.read() as tx:
        assert await tx.instances.find("inst_1") == instance()
        assert await tx.instances.keys("inst_1") == KEYS


async def test_secrets_are_sealed_and_open_only_in_their_place(database: Database) -> None:
    await add(database, instance(1), instance(2))
    async with database.engine.begin() as connection:
        stored = (await connection.exec_driver_sql("SELECT engine_key FROM instances")).scalars().all()
        assert not any(b"engine-secret" in value for value in stored)
        assert stored[0] != stored[1]
        other = "(SELECT engine_key FROM instances WHERE id = 'inst_2')"
        await connection.exec_driver_sql(f"UPDATE instances SET engine_key = {other} WHERE id = 'inst_1'")
    async with database.read() as tx:
        with pytest.raises(SealBroken):
            await tx.instances.keys("inst_1")


async def test_leaving_without_commit_takes_everything_back(database: Database) -> None:
    async with database.write() as tx:
        await tx.instances.add(instance(), KEYS, due_at=NOW, deadline_at=NOW)
    async with database.read() as tx:
        assert await tx.instances.of_org("org_one") == []


async def test_name_is_unique_among_live_instances_only(database: Database) -> None:
    await add(database, instance(1, name="same"))
    with pytest.raises(IntegrityError):
        await add(database, instance(2, name="same"))
    async with database.write() as tx:
        await tx.instances.want("inst_1", Desired.DELETED, Phase.DELETING, NOW, NOW)
        await tx.commit()
    await add(database, instance(2, name="same"))
    async with database.read() as tx:
        assert [one.id for one in await tx.instances.of_org("org_one")] == ["inst_2"]


async def test_concurrent_writers_lose_no_update(database: Database) -> None:
    async def append() -> None:
        for _ in range(20):
            async with database.write("org_one") as tx:
                latest = await tx.changes.latest()
                change = await tx.changes.append(NOW, instance_id=f"inst_{latest}")
                assert change.version == latest + 1
                await tx.commit()

    await asyncio.gather(*(append() for _ in range(8)))
    async with database.read() as tx:
        assert await tx.changes.latest() == 160


async def test_nobody_sees_a_version_before_every_lower_one(database: Database) -> None:
    """A slow transaction has numbered its change; a fast one must not overtake it."""

    async def append(instance_id: str) -> None:
        async with database.write() as tx:
            await tx.changes.append(NOW, instance_id=instance_id)
            await tx.commit()

    async with database.write() as slow:
        await slow.changes.append(NOW, instance_id="slow")
        fast = [asyncio.create_task(append(f"fast_{number}")) for number in range(3)]
        await asyncio.wait(fast, timeout=0.3)
        async with database.read() as tx:
            assert await tx.changes.after(0, 10) == []
        await slow.commit()
    await asyncio.gather(*fast)
    async with database.write() as taken_back:
        await taken_back.changes.append(NOW, instance_id="nothing")
    await append("last")
    async with database.read() as tx:
        found = await tx.changes.after(0, 10)
    assert [change.instance_id for change in found][::4] == ["slow", "last"]
    assert sorted(change.version for change in found) == [change.version for change in found]


async def test_changes_since_a_version_are_complete_or_refused(database: Database) -> None:
    async with database.write() as tx:
        for number in range(5):
            await tx.changes.append(NOW + timedelta(minutes=number), instance_id=f"inst_{number}")
        await tx.commit()
    async with database.write() as tx:
        assert [change.version for change in await tx.changes.since(2, 10) or ()] == [3, 4, 5]
        assert await tx.changes.since(5, 10) == []
        assert await tx.changes.since(2, 2) is None, "too many"
        assert await tx.changes.since(0, 10) is None
        await tx.changes.forget(NOW + timedelta(minutes=3))
        assert await tx.changes.since(2, 10) is None, "not all are kept"
        assert [change.version for change in await tx.changes.since(4, 10) or ()] == [5]
        await tx.changes.forget(NOW + timedelta(days=1))
        assert await tx.changes.latest() == 5, "the version survives"


async def test_due_instance_is_claimed_by_one_worker_until_its_lease_ends(database: Database) -> None:
    await add(database, instance())
    lease = timedelta(seconds=30)
    async with database.write() as tx:
        (claim,) = await tx.instances.claim_due("a", NOW, lease, 10)
        assert await tx.instances.claim_due("b", NOW, lease, 10) == []
        assert await tx.instances.next_due(NOW) is None
        await tx.commit()
    async with database.write() as tx:
        (again,) = await tx.instances.claim_due("b", NOW + timedelta(seconds=31), lease, 10)
        assert not await tx.instances.record(claim, "a", instance(phase=Phase.RUNNING)), "the lease is lost"
        assert await tx.instances.record(again, "b", instance(phase=Phase.RUNNING, host="h", port=1))
        await tx.instances.release("inst_1", "b", due_at=None, attempts=0)
        assert await tx.instances.claim_due("b", NOW + timedelta(days=1), lease, 10) == []


async def test_what_a_step_found_is_dropped_where_the_wish_has_changed(database: Database) -> None:
    await add(database, instance())
    async with database.write() as tx:
        (claim,) = await tx.instances.claim_due("a", NOW, timedelta(seconds=30), 10)
        await tx.instances.want("inst_1", Desired.DELETED, Phase.DELETING, NOW, NOW)
        assert not await tx.instances.record(claim, "a", instance(phase=Phase.RUNNING))
        assert await tx.instances.revisions(["inst_1"]) == {"inst_1": (2, Desired.DELETED)}


async def test_last_use_of_a_key_never_goes_back(database: Database) -> None:
    key = ApiKey(
        id="key_1",
        org_id="org_one",
        name="k",
        environment="live",
        prefix="orc8_live_x",
        sha256=bytes(32),
        created_at=NOW,
    )
    async with database.write() as tx:
        await tx.api_keys.add(key)
        await tx.api_keys.touch({"key_1": NOW + timedelta(hours=1), "key_unknown": NOW})
        await tx.api_keys.touch({"key_1": NOW})
        await tx.api_keys.touch({})
        await tx.commit()
    async with database.read() as tx:
        found = await tx.api_keys.by_digest(bytes(32))
    assert found is not None
    assert found.last_used_at == NOW + timedelta(hours=1)


def bucket(minute: datetime, requests: int, **changes: object) -> Bucket:
    values: dict[str, object] = {
        "minute": minute,
        "instance_id": "inst_1",
        "key_id": "key_1",
        "policy_id": None,
        "status": 200,
        "requests": requests,
    }
    return Bucket(**(values | changes))  # type: ignore[arg-type]


async def test_traffic_adds_up_whoever_reports_it(database: Database) -> None:
    minute = NOW.replace(second=0, microsecond=0)

    async def add(*found: Bucket) -> None:
        async with database.write() as tx:
            await tx.traffic.add(found)
            await tx.commit()

    later, denied = minute + timedelta(minutes=1), {"key_id": None, "status": 401}
    await asyncio.gather(*(add(bucket(minute, 2), bucket(later, 1), bucket(minute, 2**31 - 1, **denied)) for _ in "ab"))
    await add(bucket(minute, 5), bucket(minute, 5, policy_id="pol_1"), bucket(minute, 9, instance_id="inst_2"))
    await add()
    async with database.read() as tx:
        found = await tx.traffic.totals(["inst_1"], minute)
        assert {(one.key_id, one.policy_id, one.status): one.requests for one in found} == {
            (None, None, 401): 2 * (2**31 - 1),
            ("key_1", None, 200): 2 * 2 + 2 + 5,
            ("key_1", "pol_1", 200): 5,
        }
        (newest,) = await tx.traffic.totals(["inst_1", "inst_2"], later)
        assert newest.requests == 2
    async with database.write() as tx:
        assert await tx.traffic.forget(later, 3) == 3
        assert await tx.traffic.forget(later, 3) == 1
        assert await tx.traffic.forget(later, 3) == 0
        assert await tx.traffic.totals(["inst_1", "inst_2"], minute) == [newest]


async def test_naive_times_are_refused(database: Database) -> None:
    async with database.write() as tx:
        with pytest.raises(StatementError, match="naive"):
            await tx.changes.append(datetime(2026, 1, 1), instance_id="x")  # noqa: DTZ001


async def test_many_rows_that_are_added_at_once_come_back_as_they_went_in(database: Database) -> None:
    await add(database, instance())
    fields = PolicyFields(provider="api-key", slug="hook", allow=({"org_id": "org_one"},), trigger_secret="a-secret")
    policies = [
        Policy(id=f"pol_{number}", instance_id="inst_1", fields=fields, created_at=NOW, updated_at=NOW)
        for number in range(3)
    ]
    keys = [
        ApiKey(
            id=f"key_{number}",
            org_id="org_one",
            name=f"key {number}",
            environment="live",
            prefix="orc8_live_abcdefgh",
            sha256=bytes([number]) * 32,
            created_at=NOW,
            expires_at=NOW + timedelta(days=number) if number else None,
        )
        for number in range(3)
    ]
    async with database.write() as tx:
        await tx.policies.add_all(policies)
        await tx.api_keys.add_all(keys)
        await tx.commit()
    async with database.read() as tx:
        assert await tx.policies.of_instance("inst_1") == policies[::-1]
        assert await tx.api_keys.of_org("org_one") == keys[::-1]


async def test_writers_queue_up_and_none_of_them_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself would turn away who has waited for the busy timeout, which a loaded machine reaches."""
    monkeypatch.setattr(dialects, "PRAGMAS", ("journal_mode=WAL", "busy_timeout=0"))
    async with Database(create_engine(f"sqlite:///{tmp_path}/orch8.db"), Sealer(bytes(32))) as database:
        await migrate.upgrade(database.engine)

        async def write(number: int) -> int:
            async with database.write() as tx:
                change = await tx.changes.append(NOW, instance_id=f"inst_{number}")
                await tx.commit()
            return change.version

        assert await asyncio.gather(*(write(number) for number in range(20))) == list(range(1, 21))


async def test_what_was_committed_survives_a_power_cut(database: Database, database_kind: str) -> None:
    """SQLite promises that for synchronous = FULL (2) only; a revocation that has answered must stand."""
    asked, durable = ("PRAGMA synchronous", 2) if database_kind == "sqlite" else ("SHOW synchronous_commit", "on")
    async with database.engine.connect() as connection:
        assert (await connection.exec_driver_sql(asked)).scalar_one() == durable
