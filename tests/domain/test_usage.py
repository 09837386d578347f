"""Periods, shares of a quota, and when no more runs may be started."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from server.domain.plans import Plans
from server.domain.usage import (
    Period,
    Usage,
    belongs_until,
    calendar_month,
    cap_of,
    countable_since,
    pct,
    period_of,
    reaches,
)


def day(month: int, number: int, year: int = 2026) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


BILLED = Period(day(11, 15), day(12, 15))
PLANS = Plans.parse(
    "[free]\nexecutions_per_month = 10\nexecutions_hard_cap = true\n"
    "[soft]\nexecutions_per_month = 10\n[none]\nexecutions_per_month = 0\nexecutions_hard_cap = true\n[unlimited]\n"
)


@pytest.mark.parametrize(
    ("at", "start", "end", "last"),
    [
        (datetime(2024, 1, 1, tzinfo=UTC), day(1, 1, 2024), day(2, 1, 2024), "2024-01-31T23:59:59+00:00"),
        (datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), day(2, 1, 2024), day(3, 1, 2024), "2024-02-29T23:59:59+00:00"),
        (datetime(2025, 12, 31, 12, tzinfo=UTC), day(12, 1, 2025), day(1, 1), "2025-12-31T23:59:59+00:00"),
        # In UTC it is still the month before.
        (
            datetime(2026, 5, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            day(4, 1),
            day(5, 1),
            "2026-04-30T23:59:59+00:00",
        ),
    ],
)
def test_without_a_subscription_the_period_is_the_calendar_month_in_utc(
    at: datetime, start: datetime, end: datetime, last: str
) -> None:
    period = period_of(at, ())
    assert period == Period(start, end) == calendar_month(at)
    assert at in period
    assert period.end not in period
    assert period.last_second.isoformat() == last


def test_a_billed_period_goes_before_the_month_and_the_last_that_began_before_others() -> None:
    newer = Period(day(11, 20), day(12, 20))
    assert period_of(day(11, 15), [BILLED]) == BILLED
    assert period_of(day(11, 14), [BILLED]) == calendar_month(day(11, 14))
    assert period_of(day(12, 15), [BILLED]) == calendar_month(day(12, 15))
    assert period_of(day(11, 21), [newer, BILLED]) == period_of(day(11, 21), [BILLED, newer]) == newer
    assert period_of(day(11, 19), [newer, BILLED]) == BILLED


def test_the_time_line_falls_into_stretches_of_one_period_each() -> None:
    newer = Period(day(11, 20), day(12, 20))
    at, stretches = day(11, 1), []
    while at < day(1, 1, 2027):
        until = belongs_until(at, [BILLED, newer])
        stretches.append((period_of(at, [BILLED, newer]), at, until))
        at = until
    assert stretches == [
        (calendar_month(day(11, 1)), day(11, 1), day(11, 15)),
        (BILLED, day(11, 15), day(11, 20)),
        (newer, day(11, 20), day(12, 20)),
        (calendar_month(day(12, 20)), day(12, 20), day(1, 1, 2027)),
    ]


@pytest.mark.parametrize(
    ("plans", "days"),
    [
        ("[free]\nruns_days = 35\n[pro]\nruns_days = 90", 35),
        ("[free]\n[pro]\nruns_days = 90", 90),
        ("[free]", 400),
        ("[free]\nruns_days = 500", 400),
    ],
)
def test_runs_can_be_counted_again_for_as_long_as_every_plan_keeps_them(plans: str, days: int) -> None:
    assert countable_since(Plans.parse(plans), day(5, 4)) == day(5, 4) - timedelta(days=days)


@pytest.mark.parametrize(
    ("executions", "quota", "share"),
    [(45_200, 100_000, 45.2), (0, 1000, 0.0), (1, 3000, 0.0), (2, 3000, 0.1), (1034, 1000, 103.4), (0, 0, 100.0)],
)
def test_share_has_one_decimal_and_may_be_more_than_all(executions: int, quota: int, share: float) -> None:
    assert pct(executions, quota) == share


def test_without_a_quota_there_is_no_share() -> None:
    assert pct(5, None) is None


@pytest.mark.parametrize(("executions", "percent", "reached"), [(7, 80, False), (8, 80, True), (9, 100, False)])
def test_a_threshold_is_reached_with_the_run_that_makes_it_full(executions: int, percent: int, reached: bool) -> None:
    assert reaches(executions, 10, percent) == reached


@pytest.mark.parametrize(
    ("plan", "executions", "capped"),
    [
        ("free", 9, False),
        ("free", 10, True),
        ("free", 11, True),
        ("soft", 11, False),
        ("none", 0, True),
        ("unlimited", 10**9, False),
    ],
)
def test_only_a_plan_with_a_hard_cap_keeps_runs_from_starting(plan: str, executions: int, capped: bool) -> None:
    cap = cap_of(PLANS[plan], Usage(period=BILLED, executions=executions))
    assert (cap is not None) == capped
    if cap is not None:
        assert (cap.plan, cap.quota, cap.until) == (plan, PLANS[plan].executions_per_month, BILLED.end)
