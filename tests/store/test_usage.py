"""Counts of runs: what is added, what is told of it, and what counting again gives."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.events import EventKind
from server.domain.plans import Plans
from server.domain.usage import Period, calendar_month
from server.services.usage import Recomputed, recompute
from server.store import migrate
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.organizations import Organization
from server.store.sealing import Sealer
from server.store.tables import OrganizationRow, RunRow
from server.store.usage import Quotas
from tests.store.rows import NOW, add, instance
from tests.support.databases import databases

ORG, OTHER = "org_one", "org_two"
MONTH = calendar_month(NOW)
PLANS = Plans.parse(
    "[free]\nexecutions_per_month = 10\nexecutions_hard_cap = true\n"
    "[larger]\nexecutions_per_month = 100\nexecutions_hard_cap = true\n[soft]\nexecutions_per_month = 10\n[unlimited]\n"
)
A_MINUTE = timedelta(minutes=1)
EVER = datetime.min.replace(tzinfo=UTC)
AGREES = Recomputed((), 0)


@pytest.fixture
async def counting(tmp_path: Path, database_kind: str) -> AsyncIterator[Database]:
    """A database that knows the quotas."""
    quotas = Quotas(PLANS, lambda: NOW)
    async with Database(create_engine(databases.url(tmp_path)), Sealer(bytes(32)), quotas) as database:
        await migrate.upgrade(database.engine)
        async with database.write() as tx:
            for org_id in (ORG, OTHER):
                await tx.organizations.add(Organization(id=org_id, name="One", plan="free", created_at=NOW))
            await tx.commit()
        await add(database, instance(1), instance(2), instance(3, org_id=OTHER))
        yield database


async def start(database: Database, runs: int, at: datetime = NOW, org_id: str = ORG) -> None:
    async with database.write() as tx:
        await tx.usage.add_starts(org_id, [at] * runs)
        await tx.commit()


async def executions(database: Database, at: datetime = NOW, org_id: str = ORG) -> int:
    async with database.read() as tx:
        return (await tx.usage.current(org_id, at)).executions


async def told(database: Database) -> list[tuple[EventKind, dict[str, Any]]]:
    async with database.read() as tx:
        found = await tx.events.of_org(ORG, limit=100)
    assert {one.instance_id for one in found} <= {None}
    return [(EventKind(one.kind), dict(one.details)) for one in found]


async def changed(database: Database) -> list[str | None]:
    async with database.read() as tx:
        return [change.instance_id for change in await tx.changes.after(0, 1000)]


async def set_plan(database: Database, plan: str, period: Period | None = None) -> None:
    async with database.write() as tx:
        row = await tx._session.get_one(OrganizationRow, ORG)
        row.plan = plan
        row.period_start, row.period_end = (period.start, period.end) if period else (None, None)
        await tx.commit()


async def test_starts_add_up_in_the_period_in_which_they_began(counting: Database) -> None:
    await start(counting, 2)
    await start(counting, 0)
    await start(counting, 1, MONTH.end - timedelta(microseconds=1))
    await start(counting, 4, MONTH.end)
    late = MONTH.start - A_MINUTE
    await start(counting, 3, late)
    assert [await executions(counting, at) for at in (NOW, MONTH.end, late)] == [3, 4, 3]
    assert await executions(counting, org_id=OTHER) == 0
    async with counting.write() as tx:
        await tx.usage.add_starts(ORG, [NOW, late, MONTH.end, NOW])
    assert await executions(counting) == 3, "it was not committed"


async def test_a_subscriptions_period_is_what_counts_and_stays_so(counting: Database) -> None:
    first = Period(NOW - timedelta(days=20), NOW + timedelta(days=10))
    second = Period(first.end, first.end + timedelta(days=30))
    await set_plan(counting, "free", first)
    await start(counting, 5)
    await set_plan(counting, "free", second)
    await start(counting, 1, second.start)
    await start(counting, 1, first.end - A_MINUTE)
    await start(counting, 1, first.start - A_MINUTE)
    async with counting.read() as tx:
        for at, period, count in (
            (NOW, first, 6),
            (second.start, second, 1),
            (first.start - A_MINUTE, calendar_month(first.start), 1),
        ):
            found = await tx.usage.current(ORG, at)
            assert (found.period, found.executions) == (period, count)


async def test_each_threshold_is_told_once_in_a_period(counting: Database) -> None:
    for _ in range(7):
        await start(counting, 1)
    assert await told(counting) == []
    for _ in range(5):
        await start(counting, 1)
    period = {"period_start": "2026-01-01T00:00:00Z", "period_end": "2026-01-31T23:59:59Z"}
    assert await told(counting) == [
        (EventKind.QUOTA_80, {"executions": 8, "quota": 10, "pct": 80.0, **period}),
        (EventKind.QUOTA_100, {"executions": 10, "quota": 10, "pct": 100.0, **period}),
    ]
    await start(counting, 10, MONTH.end)
    assert [kind for kind, _ in await told(counting)][2:] == [EventKind.QUOTA_80, EventKind.QUOTA_100]


async def test_a_larger_quota_is_told_of_again_and_a_smaller_one_is_not(counting: Database) -> None:
    await start(counting, 9)
    await set_plan(counting, "larger")
    await start(counting, 80)
    await set_plan(counting, "free")
    await start(counting, 1)
    await set_plan(counting, "larger")
    await start(counting, 1)
    assert [(kind, details["quota"]) for kind, details in await told(counting)] == [
        (EventKind.QUOTA_80, 10),
        (EventKind.QUOTA_80, 100),
        (EventKind.QUOTA_100, 10),
    ]


async def test_nothing_is_told_without_a_quota(counting: Database) -> None:
    await set_plan(counting, "unlimited")
    await start(counting, 1000)
    assert (await told(counting), await changed(counting)) == ([], [])


async def test_what_is_told_is_stored_with_the_count_or_not_at_all(counting: Database) -> None:
    async with counting.write() as tx:
        await tx.usage.add_starts(ORG, [NOW] * 10)
    assert (await told(counting), await changed(counting), await executions(counting)) == ([], [], 0)


async def test_the_proxies_hear_of_each_instance_when_the_last_run_is_used(counting: Database) -> None:
    await start(counting, 9)
    assert await changed(counting) == []
    await start(counting, 1)
    assert sorted(map(str, await changed(counting))) == ["inst_1", "inst_2"]
    await start(counting, 5)
    assert len(await changed(counting)) == 2, "they know"


async def test_the_proxies_hear_nothing_where_runs_go_on(counting: Database) -> None:
    await set_plan(counting, "soft")
    await start(counting, 20)
    assert await changed(counting) == []
    assert [kind for kind, _ in await told(counting)] == [EventKind.QUOTA_80, EventKind.QUOTA_100]


async def test_batches_at_once_lose_nothing_and_tell_once(counting: Database) -> None:
    async def batches(number: int) -> None:
        for _ in range(10):
            await start(counting, 1, NOW if number % 2 else MONTH.end)

    await asyncio.gather(*(batches(number) for number in range(8)))
    assert [await executions(counting, at) for at in (NOW, MONTH.end)] == [40, 40]
    assert len(await told(counting)) == 4
    assert len(await changed(counting)) == 4


# Counting again.


async def recount(database: Database, since: datetime = EVER, *, check: bool = False) -> Recomputed:
    return await recompute(database, since, lambda: NOW, check=check)


async def ran(database: Database, starts: list[datetime], org_id: str = ORG, *, counted: bool = True) -> None:
    """Rows of runs, as the ingest of run events writes them, and their counts."""
    async with database.write() as tx:
        for number, at in enumerate(starts):
            run = RunRow(
                instance_id=f"inst_{org_id}",
                run_id=f"{number}-{at.timestamp()}",
                org_id=org_id,
                sequence="s",
                state="completed",
                started_at=at,
                updated_at=at,
                step_id="",
                transitions="[]",
                cut=False,
            )
            tx._session.add(run)
        await tx._session.flush()
        if counted:
            await tx.usage.add_starts(org_id, starts)
        await tx.commit()


def some_starts(seed: int, count: int = 60) -> list[datetime]:
    """Moments in the five months around NOW, the bounds of periods among them."""
    rng = random.Random(seed)
    bounds = [MONTH.start, MONTH.end, MONTH.start - timedelta(microseconds=1), MONTH.end - timedelta(microseconds=1)]
    return bounds + [NOW + timedelta(seconds=rng.randrange(-6_000_000, 6_000_000)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
async def test_counting_again_agrees(counting: Database, seed: int) -> None:
    """Whatever periods there were, as long as each was known before a run of it was counted."""
    starts = some_starts(seed)
    cut = NOW - timedelta(days=10)
    await ran(counting, [at for at in starts if at < cut])
    await ran(counting, starts, OTHER)
    for begins in (0, 13):
        period = Period(cut + timedelta(days=begins), cut + timedelta(days=begins + 30))
        await set_plan(counting, "free", period)
        until = cut + timedelta(days=13) if begins == 0 else datetime.max.replace(tzinfo=UTC)
        await ran(counting, [at for at in starts if period.start <= at < until])
    assert await recount(counting, check=True) == AGREES
    assert await recount(counting) == AGREES


async def test_what_differs_is_told_and_set_right_and_the_proxies_hear_of_it(counting: Database) -> None:
    last_month = MONTH.start - A_MINUTE
    await ran(counting, [NOW] * 3 + [last_month] * 2, counted=False)
    await ran(counting, [NOW] * 4, OTHER)
    await start(counting, 8)
    await start(counting, 1, MONTH.end)
    found = await recount(counting, check=True)
    assert [(one.org_id, one.period.start.month, one.counted, one.found) for one in found.differences] == [
        (ORG, 12, 0, 2),
        (ORG, 1, 8, 3),
        (ORG, 2, 1, 0),
    ]
    assert await executions(counting) == 8, "a comparison changes nothing"
    assert await recount(counting) == found
    assert [await executions(counting, at) for at in (last_month, NOW, MONTH.end)] == [2, 3, 0]
    assert sorted(map(str, await changed(counting))) == ["inst_1", "inst_2"]
    assert await recount(counting, check=True) == AGREES


async def test_a_period_that_is_entered_late_gets_its_runs(counting: Database) -> None:
    period = Period(NOW - timedelta(hours=1), NOW + timedelta(days=30))
    await ran(counting, [NOW, NOW - timedelta(hours=2)])
    await set_plan(counting, "free", period)
    assert await executions(counting) == 0
    found = await recount(counting)
    assert [(one.period, one.counted, one.found) for one in found.differences] == [(MONTH, 2, 1), (period, 0, 1)]
    assert [await executions(counting, at) for at in (NOW, period.start - A_MINUTE)] == [1, 1]


async def test_periods_whose_first_runs_may_be_gone_are_left_alone(counting: Database) -> None:
    await start(counting, 5)
    await start(counting, 5, MONTH.end)
    for check in (True, False):
        found = await recount(counting, MONTH.start + A_MINUTE, check=check)
        assert ([one.counted for one in found.differences], found.left_alone) == ([5], 1)
    assert [await executions(counting, at) for at in (NOW, MONTH.end)] == [5, 0]


async def test_counting_again_while_batches_come_in_loses_none(counting: Database) -> None:
    async def batches() -> None:
        for number in range(20):
            await ran(counting, [NOW + timedelta(seconds=number)])

    async def recounts() -> None:
        for _ in range(10):
            await recount(counting)

    await asyncio.gather(batches(), recounts())
    assert await executions(counting) == 20
    assert await recount(counting, check=True) == AGREES
