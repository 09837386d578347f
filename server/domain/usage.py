"""Usage: how many runs an organization has started in a period, and what its plan says to that.

A period is the one that the organization's subscription is billed for, or else the calendar month in UTC. A run belongs
to the period in which it started, also where that is told late, so that counting the runs again gives the same.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from server.domain.plans import Plan, Plans

# Percent of the quota at which the organization is told, once in a period.
ALMOST_USED_UP, USED_UP = 80, 100
DECEMBER = 12
# Runs that never end are forgotten at last, and then nobody can count them again.
COUNTABLE = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` to just before `end`."""

    start: datetime
    end: datetime

    @property
    def last_second(self) -> datetime:
        """The end as it is shown: 2024-01-31T23:59:59Z."""
        return self.end - timedelta(seconds=1)

    @property
    def is_calendar_month(self) -> bool:
        """Whether it is what counts where nothing is billed."""
        return self == calendar_month(self.start)

    def __contains__(self, at: datetime) -> bool:
        return self.start <= at < self.end


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The runs that an organization has started in a period."""

    period: Period
    executions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cap:
    """Requests may start no run before `until`: the plan's quota of executions is used up."""

    plan: str
    quota: int
    until: datetime


def calendar_month(at: datetime) -> Period:
    """The month of a moment, in UTC."""
    start = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    year, month = (start.year + 1, 1) if start.month == DECEMBER else (start.year, start.month + 1)
    return Period(start, start.replace(year=year, month=month))


def period_of(at: datetime, billed: Collection[Period]) -> Period:
    """The period to which a moment belongs: of those that are billed the one that began last, else the month."""
    covering = [period for period in billed if at in period]
    return max(covering, key=lambda period: period.start, default=calendar_month(at))


def belongs_until(at: datetime, billed: Collection[Period]) -> datetime:
    """The moment up to which all that starts from `at` on belongs to the same period as `at`."""
    later = [period.start for period in billed if period.start > at]
    return min([period_of(at, billed).end, *later])


def countable_since(plans: Plans, now: datetime) -> datetime:
    """The moment since which every run is kept that started then or later, whatever plan an organization had."""
    days = plans.fewest_runs_days
    return now - (COUNTABLE if days is None else min(COUNTABLE, timedelta(days=days)))


def pct(executions: int, quota: int | None) -> float | None:
    """The share of the quota in percent, with one decimal; more than 100 past it. None where there is no quota."""
    if quota is None:
        return None
    return round(100 * executions / quota, 1) if quota else float(USED_UP)


def reaches(executions: int, quota: int, percent: int) -> bool:
    """Whether so much of the quota is used."""
    return 100 * executions >= percent * quota


def cap_of(plan: Plan, usage: Usage) -> Cap | None:
    """What keeps requests from starting runs. None: nothing does."""
    quota = plan.executions_per_month
    if not plan.executions_hard_cap or quota is None or not reaches(usage.executions, quota, USED_UP):
        return None
    return Cap(plan=plan.name, quota=quota, until=usage.period.end)
