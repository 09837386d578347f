"""Moving a SQLite database into Postgres: everything or nothing."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from server.domain.answers import Answers
from server.domain.api_keys import ApiKey
from server.domain.deployments import Deployment
from server.domain.deployments import Phase as DeploymentPhase
from server.domain.events import Event, EventKind
from server.domain.policies import Policy, PolicyFields
from server.domain.runs import Run, RunEvent, Transition
from server.errors import DatabaseUnavailable
from server.store import migrate, transfer
from server.store.database import Database
from server.store.decisions import DecisionRecord
from server.store.deployments import DeploymentSecrets
from server.store.dialects import create_engine
from server.store.idempotency import CallKey, StoredAnswer
from server.store.metrics import Minute
from server.store.organizations import Organization
from server.store.proxies import KnownProxy
from server.store.sealing import Sealer
from server.store.tables import metadata
from server.store.traffic import Bucket
from server.store.transfer import TransferFailed
from tests.store.rows import KEYS, NOW, add, instance
from tests.support.databases import databases

KEY = ApiKey(
    id="key_1", org_id="org_one", name="k", environment="live", prefix="orc8_live_x", sha256=bytes(32), created_at=NOW
)
FIELDS = PolicyFields(provider="api-key", slug="hook", allow=({"org_id": "org_one"},), trigger_secret="a-secret")
POLICY = Policy(id="pol_1", instance_id="inst_1", fields=FIELDS, created_at=NOW, updated_at=NOW)
CALL = CallKey(org_id="org_one", method="/orch8cloud.v1.InstancesService/CreateInstance", key="k-1")
ANSWER = StoredAnswer(body=b"an answer", headers=(("etag", '"1"'),), version=3)
RECORDS = 1_234

SECRETS = DeploymentSecrets(trigger="t", values={"token": "s"})
DEPLOYMENT = Deployment(
    id="dep_1",
    org_id="org_one",
    instance_id="inst_1",
    template_id="tmpl_1",
    name="dunning",
    phase=DeploymentPhase.RUNNING,
    slug="dunning-1",
    policy_id="pol_1",
    config={"url": "ü"},
    credentials={"token": "cred_1"},
    sequence={"id": "1", "blocks": []},
    schedule=None,
    created_at=NOW,
    updated_at=NOW,
)


@pytest.fixture(scope="module")
def database_kind() -> Iterator[str]:
    with databases.of("postgres") as kind:
        yield kind


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A database with rows in every table."""
    path = tmp_path / "orch8.db"
    async with Database(create_engine(f"sqlite:///{path}"), Sealer(bytes(32))) as database:
        await migrate.upgrade(database.engine)
        async with database.write() as tx:
            await tx.organizations.add(Organization(id="org_one", name="Ünal 🚀", plan="free", created_at=NOW))
            await tx.commit()
        await add(database, instance(1), instance(2))
        async with database.write() as tx:
            await tx.policies.save(
                Policy(id="pol_1", instance_id="inst_1", fields=FIELDS, created_at=NOW, updated_at=NOW)
            )
            await tx.api_keys.add(KEY)
            await tx.traffic.add([bucket(minute) for minute in range(3)])
            answers = Answers(Counter({"2xx": 3}), Counter({7: 2, 90: 1}))
            await tx.metrics.add([Minute(instance_id="inst_1", at=NOW, allowed=3, denied=1, answers=answers)])
            await tx.decisions.add([record(number) for number in range(RECORDS)])
            await tx.deployments.add(DEPLOYMENT, SECRETS, NOW)
            await tx.usage.add_starts("org_one", [NOW])
            await tx.events.append([event(number) for number in range(4)])
            lease = {"lease_until": NOW + timedelta(hours=1), "forgotten": NOW - timedelta(days=1)}
            await tx.idempotency.claim(CALL, fingerprint=bytes(32), owner="me", now=NOW, **lease)
            await tx.idempotency.answer(CALL, "me", ANSWER)
            await tx.runs.put("org_one", "inst_1", [Run.begin(RunEvent("run-1", Transition(1, 1, "ü")))])
            await tx.proxies.save(KnownProxy(id="p", stale_limit_ms=1, server_id="", session="s"))
            await tx.proxies.beat("srv", 1)
            for number in range(7):
                await tx.changes.append(NOW + timedelta(minutes=number), instance_id="inst_1")
            await tx.commit()
        async with database.write() as tx:
            assert await tx.events.shrink("org_one", 3, 1, runs=False) == 1
            await tx.commit()
        # Number 8 was given and taken back: nobody may ever see it again.
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE sqlite_sequence SET seq = 8 WHERE name = 'changes'")
    return path


@pytest.fixture
def target(tmp_path: Path, database_kind: str) -> str:
    return databases.url(tmp_path)


def bucket(minute: int) -> Bucket:
    at = NOW.replace(second=0, microsecond=0) + timedelta(minutes=minute)
    return Bucket(minute=at, instance_id="inst_1", key_id=None, policy_id=None, status=200, requests=2**40)


def event(number: int) -> Event:
    return Event(
        org_id="org_one", instance_id="inst_1", kind=EventKind.RUNNING, at=NOW, details={"number": number, "why": "ü"}
    )


def record(number: int) -> DecisionRecord:
    return DecisionRecord(id=f"dec_{number:020x}", org_id="org_one", instance_id="inst_1", at=NOW, record=bytes(300))


async def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    engine = create_engine(url)
    async with engine.connect() as connection:
        found = {
            table.name: [tuple(row) for row in await connection.execute(table.select().order_by(*table.primary_key))]
            for table in metadata.sorted_tables
        }
    await engine.dispose()
    return found


async def test_everything_is_moved_as_it_is_and_goes_on(source: Path, target: str) -> None:
    told: list[tuple[str, int, int]] = []
    await transfer.transfer(source, target, lambda *news: told.append(news))
    moved = await rows(target)
    assert moved == await rows(f"sqlite:///{source}")
    assert all(moved.values()), "each table had rows"
    assert {name for name, done, total in told if done == total} == set(metadata.tables)
    assert [done for name, done, _ in told if name == "decisions"] == [500, 1000, RECORDS]
    async with Database(create_engine(target), Sealer(bytes(32))) as database, database.write() as tx:
        assert await tx.instances.keys("inst_1") == KEYS
        (policy,) = await tx.policies.of_instance("inst_1")
        assert policy.fields == FIELDS
        assert await tx.deployments.get("org_one", "dep_1") == DEPLOYMENT
        assert await tx.deployments.secrets("dep_1") == SECRETS
        assert (await tx.changes.append(NOW, instance_id="inst_1")).version == 9
        lease = {"lease_until": NOW, "forgotten": NOW - timedelta(days=1)}
        again = await tx.idempotency.claim(CALL, fingerprint=bytes(32), owner="you", now=NOW, **lease)
        assert (again.owner, again.answer) == ("me", ANSWER)
        await tx.events.append([event(4)])
        await tx.commit()
        assert [str(one.cursor) for one in await tx.events.of_org("org_one", limit=10)] == ["2", "3", "4", "5"]


async def test_target_with_rows_is_refused_and_left_alone(source: Path, target: str) -> None:
    await transfer.transfer(source, target, lambda *_: None)
    before = await rows(target)
    with pytest.raises(TransferFailed, match="not empty"):
        await transfer.transfer(source, target, lambda *_: None)
    assert await rows(target) == before


async def test_what_goes_wrong_moves_nothing_and_it_can_be_run_again(source: Path, target: str) -> None:
    def break_off(table: str, moved: int, _total: int) -> None:
        if (table, moved) == ("decisions", 1000):
            raise DatabaseUnavailable

    with pytest.raises(TransferFailed, match="nothing was moved"):
        await transfer.transfer(source, target, break_off)
    assert not any((await rows(target)).values())
    await transfer.transfer(source, target, lambda *_: None)
    assert await rows(target) == await rows(f"sqlite:///{source}")


async def test_text_that_postgres_cannot_store_is_named(source: Path, target: str) -> None:
    with sqlite3.connect(source) as connection:
        connection.execute("UPDATE organizations SET name = 'a' || char(0) || 'b'")
    connection.close()
    with pytest.raises(TransferFailed, match=r"table organizations: name of \['org_one'\] holds a NUL"):
        await transfer.transfer(source, target, lambda *_: None)


async def test_database_that_a_server_works_on_is_refused(source: Path, target: str) -> None:
    async with Database(create_engine(f"sqlite:///{source}"), Sealer(bytes(32))) as serving:
        async with serving.read() as tx:
            await tx.changes.latest()
        with pytest.raises(TransferFailed, match="in use"):
            await transfer.transfer(source, target, lambda *_: None)
    await transfer.transfer(source, target, lambda *_: None)


async def test_no_server_starts_on_the_source_meanwhile(source: Path, target: str) -> None:
    found: list[BaseException] = []

    def start(table: str, _moved: int, _total: int) -> None:
        if table == "organizations":
            with sqlite3.connect(source, timeout=0) as other, pytest.raises(sqlite3.OperationalError) as caught:
                other.execute("SELECT * FROM organizations")
            other.close()
            found.append(caught.value)

    await transfer.transfer(source, target, start)
    assert "locked" in str(found[0])


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100])
async def test_source_that_is_no_database_is_one_sentence(tmp_path: Path, target: str, content: bytes | None) -> None:
    path = tmp_path / "other.db"
    if content:
        path.write_bytes(content)
    with pytest.raises(TransferFailed, match=r"other\.db"):
        await transfer.transfer(path, target, lambda *_: None)
