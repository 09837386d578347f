"""Queries about usage: how many runs an organization has started, period by period."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain import usage
from server.domain.events import Event, EventKind
from server.domain.plans import Plan, Plans
from server.domain.usage import ALMOST_USED_UP, USED_UP, Period, belongs_until, pct, period_of, reaches
from server.store.changes import Changes
from server.store.dialects import insert
from server.store.events import Events
from server.store.instances import Instances
from server.store.tables import OrganizationRow, RunRow, UsageRow

_KEY = (col(UsageRow.org_id), col(UsageRow.period_start))
_PERIOD = (col(UsageRow.period_start), col(UsageRow.period_end))
TOLD = {
    ALMOST_USED_UP: (col(UsageRow.told_80), EventKind.QUOTA_80),
    USED_UP: (col(UsageRow.told_100), EventKind.QUOTA_100),
}


@dataclass(frozen=True, slots=True)
class Quotas:
    """What is needed to tell an organization, and the proxies, that a quota is used up."""

    plans: Plans
    clock: Callable[[], datetime]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """What was counted of a period as runs came in, and how many rows of runs there are."""

    org_id: str
    period: Period
    counted: int
    found: int


@dataclass(frozen=True, slots=True)
class _Owner:
    """The plan of an organization, and the periods of its that are billed."""

    plan: str
    billed: tuple[Period, ...]


class Usage:
    """The counts' repository."""

    def __init__(
        self, session: AsyncSession, quotas: Quotas | None, *, instances: Instances, events: Events, changes: Changes
    ) -> None:
        self._session = session
        self._quotas = quotas
        self._instances = instances
        self._events = events
        self._changes = changes

    async def add_starts(self, org_id: str, starts: Sequence[datetime]) -> None:
        """Counts runs that were never counted before, by the moments at which they started.

        In the same transaction the organization is told that much of its quota is used, and the proxies that no more
        runs may be started. So this comes last, or nearly: see Changes.append.
        """
        if not starts:
            return
        owner = await self._owner(org_id)
        counts = Counter(period_of(at, owner.billed) for at in starts)
        # In one order: two batches that add to the same rows must not wait for each other in a circle.
        periods = sorted(counts, key=lambda period: period.start)
        ended = [await self._add(org_id, owner, period, counts[period]) for period in periods]
        if self._quotas is not None and any(ended):
            await self.caps_changed(org_id, self._quotas.clock())

    async def _add(self, org_id: str, owner: _Owner, period: Period, starts: int) -> bool:
        """Says whether these were the starts after which no more are allowed in the period."""
        inserting = insert(self._session, UsageRow).values(
            org_id=org_id, period_start=period.start, period_end=period.end, executions=starts
        )
        more = col(UsageRow.executions) + inserting.excluded.executions
        adding: Any = inserting.on_conflict_do_update(index_elements=list(_KEY), set_={"executions": more})
        columns = (col(UsageRow.executions), *(told for told, _ in TOLD.values()))
        executions, *told = (await self._session.exec(adding.returning(*columns))).one()
        if self._quotas is None:
            return False
        plan = self._quotas.plans[owner.plan]
        now = usage.Usage(period=period, executions=executions)
        await self._tell(org_id, plan, now, dict(zip(TOLD, told, strict=True)), self._quotas.clock())
        return usage.cap_of(plan, now) is not None and usage.cap_of(plan, _less(now, starts)) is None

    async def _tell(self, org_id: str, plan: Plan, now: usage.Usage, told: dict[int, int | None], at: datetime) -> None:
        """Notes the events that are due. One is told again in a period only for a quota that is larger by then."""
        quota = plan.executions_per_month
        if quota is None:
            return
        due = [
            percent
            for percent in TOLD
            if reaches(now.executions, quota, percent) and (told[percent] is None or (told[percent] or 0) < quota)
        ]
        if due:
            values: dict[Any, Any] = {TOLD[percent][0]: quota for percent in due}
            await self._session.exec(update(UsageRow).where(*_is(org_id, now.period)).values(values))
            await self._events.append([_event(org_id, TOLD[percent][1], now, quota, at) for percent in due])

    async def caps_changed(self, org_id: str, now: datetime) -> None:
        """Has the proxies ask again whether requests may start runs of this organization: its last step, as append."""
        for instance in await self._instances.of_org(org_id):
            await self._changes.append(now, instance_id=instance.id)

    async def current(self, org_id: str, now: datetime) -> usage.Usage:
        """The usage in the period of this moment."""
        period = period_of(now, (await self._owner(org_id)).billed)
        query: Any = select(col(UsageRow.executions)).where(*_is(org_id, period))
        return usage.Usage(period=period, executions=(await self._session.exec(query)).scalar_one_or_none() or 0)

    async def _owner(self, org_id: str) -> _Owner:
        """The organization of this id, which must be there."""
        subscription = (col(OrganizationRow.period_start), col(OrganizationRow.period_end))
        query: Any = (
            select(col(OrganizationRow.plan), *subscription, *_PERIOD)
            .join_from(OrganizationRow, UsageRow, col(UsageRow.org_id) == col(OrganizationRow.id), isouter=True)
            .where(col(OrganizationRow.id) == org_id)
        )
        rows = (await self._session.exec(query)).all()
        bounds = {bound for _, *times in rows for bound in (tuple(times[:2]), tuple(times[2:])) if None not in bound}
        periods = (Period(start, end) for start, end in bounds)
        return _Owner(rows[0][0], tuple(period for period in periods if not period.is_calendar_month))

    async def organizations(self, since: datetime) -> list[str]:
        """Those that have started a run, or were counted one, in periods from `since` on."""
        ran = select(col(RunRow.org_id)).where(col(RunRow.started_at) >= since)
        query: Any = ran.union(select(col(UsageRow.org_id)).where(col(UsageRow.period_start) >= since))
        return sorted((await self._session.exec(query)).scalars().all())

    async def periods_before(self, since: datetime) -> int:
        """How many counts there are of periods that began before this moment."""
        counting: Any = select(func.count()).select_from(UsageRow).where(col(UsageRow.period_start) < since)
        return int((await self._session.exec(counting)).scalar_one())

    async def differences(self, org_id: str, since: datetime) -> list[Recount]:
        """The periods from `since` on in which there are more or fewer runs than were counted. Changes nothing."""
        found = await self._runs(org_id, since)
        counted = await self._counted(org_id, since)
        return [
            Recount(org_id=org_id, period=period, counted=counted.get(period, 0), found=found[period])
            for period in sorted({*found, *counted}, key=lambda period: period.start)
            if counted.get(period, 0) != found[period]
        ]

    async def recount(self, org_id: str, since: datetime, now: datetime) -> list[Recount]:
        """Makes what was counted from `since` on what the rows of runs say. Gives what was different.

        Batches that are being counted meanwhile wait, and add to the result.
        """
        for period in await self._runs(org_id, since):
            row = {"org_id": org_id, "period_start": period.start, "period_end": period.end, "executions": 0}
            await self._session.exec(insert(self._session, UsageRow).values(row).on_conflict_do_nothing())
        locking: Any = select(*_KEY).where(col(UsageRow.org_id) == org_id)
        await self._session.exec(locking.order_by(col(UsageRow.period_start)).with_for_update())
        # Only now, for what was committed before the rows were locked is counted in them already.
        changed = await self.differences(org_id, since)
        for one in changed:
            setting = update(UsageRow).where(*_is(org_id, one.period)).values(executions=one.found)
            await self._session.exec(setting)
        if changed:
            await self.caps_changed(org_id, now)
        return changed

    async def _counted(self, org_id: str, since: datetime) -> dict[Period, int]:
        query: Any = select(*_PERIOD, col(UsageRow.executions)).where(
            col(UsageRow.org_id) == org_id, col(UsageRow.period_start) >= since
        )
        return {Period(start, end): executions for start, end, executions in await self._session.exec(query)}

    async def _runs(self, org_id: str, since: datetime) -> Counter[Period]:
        """How many rows of runs there are in each period that began at `since` or later."""
        billed = (await self._owner(org_id)).billed
        found: Counter[Period] = Counter()
        at = await self._first_start(org_id, since)
        while at is not None:
            period, until = period_of(at, billed), belongs_until(at, billed)
            within = and_(col(RunRow.org_id) == org_id, col(RunRow.started_at) >= at, col(RunRow.started_at) < until)
            counting: Any = select(func.count()).select_from(RunRow).where(within)
            if period.start >= since:
                found[period] += (await self._session.exec(counting)).scalar_one()
            at = await self._first_start(org_id, until)
        return found

    async def _first_start(self, org_id: str, since: datetime) -> datetime | None:
        query: Any = select(func.min(RunRow.started_at)).where(
            col(RunRow.org_id) == org_id, col(RunRow.started_at) >= since
        )
        started: datetime | None = (await self._session.exec(query)).scalar_one()
        return started


def _is(org_id: str, period: Period) -> Iterable[Any]:
    return col(UsageRow.org_id) == org_id, col(UsageRow.period_start) == period.start


def _less(now: usage.Usage, starts: int) -> usage.Usage:
    return usage.Usage(period=now.period, executions=now.executions - starts)


def _event(org_id: str, kind: EventKind, now: usage.Usage, quota: int, at: datetime) -> Event:
    details: dict[str, str | int | float] = {
        "executions": now.executions,
        "quota": quota,
        "pct": pct(now.executions, quota) or 0.0,
        "period_start": f"{now.period.start:%Y-%m-%dT%H:%M:%SZ}",
        "period_end": f"{now.period.last_second:%Y-%m-%dT%H:%M:%SZ}",
    }
    return Event(org_id=org_id, instance_id=None, kind=kind, at=at, details=details)
