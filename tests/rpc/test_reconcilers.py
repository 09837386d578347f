"""Several servers work on the instances of one Postgres."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from server.app import open_database
from server.domain.instances import Deadlines, Desired, Instance, Phase, Region
from server.domain.restarts import RestartPolicy
from server.providers.runtime.base import EngineSpec, Observation
from server.services.identifiers import utc_now
from server.services.propagation import Propagation
from server.store.database import Database
from server.store.dialects import Turn
from server.store.instances import EngineKeys
from server.store.organizations import Organization
from server.store.tables import InstanceRow
from server.workers.housekeeping import sweep
from server.workers.leases import LEASE, MARGIN, Lease, LeaseLost, Leases
from server.workers.reconcile import Reconciler
from tests.support.calls import eventually
from tests.support.databases import databases
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

INSTANCES = 40


@pytest.fixture(scope="module")
def database_kind() -> Iterator[str]:
    """On SQLite there is one server."""
    with databases.of("postgres") as kind:
        yield kind


@dataclass
class WatchfulRuntime(MemoryRuntime):
    """Notes how many are at one instance at once."""

    at: Counter[str] = field(default_factory=Counter)
    most: int = 0

    async def observe(self, instance_id: str) -> Observation:
        self.at[instance_id] += 1
        self.most = max(self.most, self.at[instance_id])
        await asyncio.sleep(random.uniform(0, 0.01))
        self.at[instance_id] -= 1
        return await super().observe(instance_id)

    async def run(self, spec: EngineSpec) -> Observation:
        self.at[spec.instance_id] += 1
        self.most = max(self.most, self.at[spec.instance_id])
        await asyncio.sleep(random.uniform(0, 0.01))
        self.at[spec.instance_id] -= 1
        return await super().run(spec)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[list[Database]]:
    """The same database, as three servers have it."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_database(settings(tmp_path))) for _ in range(3)]


async def add_instances(database: Database, count: int) -> None:
    now = utc_now()
    async with database.write() as tx:
        await tx.organizations.add(Organization(id="org_one", name="One", plan="free", created_at=now))
        for number in range(count):
            one = Instance(
                id=f"inst_{number}",
                org_id="org_one",
                name=f"name-{number}",
                region=Region.WASHINGTON,
                desired=Desired.RUNNING,
                phase=Phase.PROVISIONING,
                created_at=now,
                updated_at=now,
            )
            keys = EngineKeys(engine_key="k", encryption_key="e")
            await tx.instances.add(one, keys, due_at=now, deadline_at=now + timedelta(minutes=5))
        await tx.commit()


def reconciler(database: Database, runtime: MemoryRuntime, owner: str, fast_s: float = 0) -> Reconciler:
    """One whose clock is so much fast."""
    return Reconciler(
        database=database,
        runtime=runtime,
        propagation=Propagation(database, clock=utc_now, confirm_timeout=0.5),
        clock=lambda: datetime.now(UTC) + timedelta(seconds=fast_s),
        step_ended=lambda claim, result, seconds: None,
        owner=owner,
        changed=lambda _: None,
        deadlines=Deadlines(),
        restarts=RestartPolicy(),
    )


async def phases(database: Database) -> Counter[str]:
    async with database.read() as tx:
        return Counter(one.phase for one in await tx.instances.of_org("org_one"))


async def test_no_two_are_at_one_instance_whatever_their_clocks_say(shared: list[Database]) -> None:
    await add_instances(shared[0], INSTANCES)
    runtime = WatchfulRuntime(start_looks=3)
    workers = [
        asyncio.create_task(reconciler(database, runtime, f"server-{number}", fast_s=fast_s).run())
        for number, (database, fast_s) in enumerate(zip(shared, (0, 90, -90), strict=True))
    ]

    async def all_run() -> bool:
        return (await phases(shared[0]))[Phase.RUNNING] == INSTANCES

    await eventually(all_run, 60)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert runtime.most == 1
    assert Counter(spec.instance_id for spec in runtime.started).most_common(1)[0][1] == 1


async def test_server_that_starts_leaves_the_others_their_leases(shared: list[Database], tmp_path: Path) -> None:
    await add_instances(shared[0], 2)
    lease = timedelta(seconds=30)
    async with shared[0].write() as tx:
        (held,) = await tx.instances.claim_due("alive", await tx.now(utc_now()), lease, 1)
        await tx.commit()
    async with open_database(settings(tmp_path)) as starting, starting.write() as tx:
        now = await tx.now(utc_now())
        claims = await tx.instances.claim_due("new", now, lease, 10)
        assert [claim.instance.id for claim in claims] == [f"inst_{1 - int(held.instance.id[-1])}"]
        later = await tx.instances.claim_due("new", now + lease + timedelta(seconds=1), lease, 10)
        assert held.instance.id in [claim.instance.id for claim in later], "a dead one's lease ends"


async def test_what_a_killed_server_was_at_goes_on_elsewhere_within_seconds(shared: list[Database]) -> None:
    await add_instances(shared[0], 1)
    killed = Leases(shared[0], utc_now, "killed")
    assert len(await killed.claim(10)) == 1
    worker = asyncio.create_task(reconciler(shared[1], MemoryRuntime(), "alive").run())

    async def runs() -> bool:
        return (await phases(shared[2]))[Phase.RUNNING] == 1

    # A lease, a look, and what a slow machine needs.
    await eventually(runs, LEASE.total_seconds() + 10)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def lease_of(database: Database, instance_id: str) -> datetime:
    async with database.engine.connect() as connection:
        query = select(InstanceRow.lease_until).where(col(InstanceRow.id) == instance_id)
        found: datetime = (await connection.execute(query)).scalar_one()
        return found


async def test_lease_grows_while_the_work_goes_on(shared: list[Database]) -> None:
    await add_instances(shared[0], 1)
    leases = Leases(shared[0], utc_now, "one")
    (lease,) = await leases.claim(10)
    before, until = await lease_of(shared[1], "inst_0"), lease.until
    async with leases.holding(lease):
        await leases.renew()
        assert lease.limit is not None
        assert lease.limit.when() == lease.until
        assert lease.until > until
    assert await lease_of(shared[1], "inst_0") > before
    leases.drop(lease)
    grown = await lease_of(shared[1], "inst_0")
    await leases.renew()
    assert await lease_of(shared[1], "inst_0") == grown


async def forever(leases: Leases, lease: Lease) -> None:
    async with leases.holding(lease):
        await asyncio.Event().wait()


async def test_work_ends_once_its_lease_may_be_over(shared: list[Database]) -> None:
    """The one that took it over goes on; renewing does not take it back."""
    await add_instances(shared[0], 1)
    slow = Leases(shared[0], utc_now, "slow", MARGIN)
    (lost,) = await slow.claim(10)
    other = Leases(shared[1], utc_now, "other")
    taken: list[Lease] = []

    async def take() -> bool:
        taken.extend(await other.claim(10))
        return bool(taken)

    await eventually(take)
    await slow.renew()
    with pytest.raises(LeaseLost):
        await forever(slow, lost)
    async with other.holding(taken[0]):
        await other.renew()


async def test_wish_that_comes_while_a_step_ends_is_not_lost(shared: list[Database]) -> None:
    """The step looks whether the wish has changed, and then says when the instance is due: nobody wishes in between."""
    await add_instances(shared[0], 1)
    now = utc_now()

    async def wish() -> None:
        async with shared[1].write("org_one") as tx:
            await tx.instances.want("inst_0", Desired.DELETED, Phase.DELETING, now, now)
            await tx.commit()

    async with shared[0].write() as tx:
        await tx.instances.claim_due("one", await tx.now(now), timedelta(seconds=30), 1)
        await tx.commit()
    async with shared[0].write() as tx:
        assert await tx.instances.revision("inst_0") == 1
        wishing = asyncio.create_task(wish())
        await asyncio.wait({wishing}, timeout=0.3)
        await tx.instances.release("inst_0", "one", due_at=None, attempts=0)
        await tx.commit()
    await wishing
    async with shared[2].read() as tx:
        assert await tx.instances.next_due(now) is not None


async def test_one_server_at_a_time_keeps_house(shared: list[Database]) -> None:
    old = utc_now() - timedelta(days=2)

    async def kept() -> int:
        async with shared[0].read() as tx:
            return len(await tx.changes.after(0, 10))

    async with shared[0].write() as tx:
        for number in range(3):
            await tx.changes.append(old, instance_id=f"inst_{number}")
        await tx.commit()
    async with shared[1].write() as tx:
        assert await tx.try_turn(Turn.HOUSEKEEPING)
        await sweep(shared[2], utc_now)
        assert await kept() == 3
    await asyncio.gather(*(sweep(database, utc_now) for database in shared))
    assert await kept() == 1
