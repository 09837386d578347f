"""The plan file: what it may say, and what it says as it is shipped."""

import pytest

from server.domain.plans import MOST, Plans, PlansInvalid, Rate, TrafficLimits
from server.settings import read_plans


def free(text: str) -> TrafficLimits:
    return Plans.parse(f"[free]\n{text}")["free"].traffic


def test_traffic_limits_are_read() -> None:
    limits = free(
        "requests_per_second = 10\nrequest_burst = 15\n"
        "key_requests_per_second = 3\nkey_request_burst = 4\nopen_streams = 5"
    )
    assert limits == TrafficLimits(
        organization=Rate(per_second=10, burst=15), key=Rate(per_second=3, burst=4), open_streams=5
    )


def test_what_is_left_out_is_no_limit() -> None:
    assert free("") == TrafficLimits(organization=None, key=None, open_streams=None)


@pytest.mark.parametrize(("rate", "burst"), [(1, 2), (500, 1000), (MOST, MOST)])
def test_burst_is_twice_the_rate_where_it_is_left_out(rate: int, burst: int) -> None:
    assert free(f"requests_per_second = {rate}").organization == Rate(per_second=rate, burst=burst)
    assert free(f"key_requests_per_second = {rate}").key == Rate(per_second=rate, burst=burst)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("request_burst = 5", "free.request_burst: needs requests_per_second"),
        ("key_request_burst = 5", "free.key_request_burst: needs key_requests_per_second"),
        ("requests_per_second = 5\nrequest_burst = 0", "free.request_burst: must be at least 1"),
        ("requests_per_second = 0", "free.requests_per_second: must be at least 1"),
        ("requests_per_second = -1", "free.requests_per_second: must be a number"),
        ("requests_per_second = 1.5", "free.requests_per_second: must be a number"),
        ("requests_per_second = true", "free.requests_per_second: must be a number"),
        ("key_requests_per_second = '5'", "free.key_requests_per_second: must be a number"),
        ("open_streams = -1", "free.open_streams: must be a number"),
        (f"open_streams = {MOST + 1}", "free.open_streams: must be at most"),
        ("request_per_second = 5", "unknown key 'request_per_second'"),
    ],
)
def test_a_broken_limit_is_named(text: str, why: str) -> None:
    with pytest.raises(PlansInvalid, match=why):
        free(text)


def test_the_shipped_plans_allow_more_the_more_they_cost() -> None:
    plans = read_plans(None)
    found = {name: plans[name].traffic for name in ("free", "starter", "pro", "enterprise")}
    assert found["free"] == TrafficLimits(
        organization=Rate(per_second=2000, burst=4000), key=Rate(per_second=2000, burst=4000), open_streams=200
    )
    assert found["starter"] == TrafficLimits(
        organization=Rate(per_second=5000, burst=10000), key=Rate(per_second=5000, burst=10000), open_streams=1000
    )
    assert found["pro"] == TrafficLimits(
        organization=Rate(per_second=20000, burst=40000), key=Rate(per_second=20000, burst=40000), open_streams=5000
    )
    assert found["enterprise"] == TrafficLimits()


def test_runs_are_kept_for_a_whole_month_at_least() -> None:
    assert Plans.parse("[free]\nruns_days = 32")["free"].runs_days == 32
    assert Plans.parse("[free]")["free"].runs_days is None
    for wrong in (31, 36_501, '"32"'):
        with pytest.raises(PlansInvalid, match="runs_days"):
            Plans.parse(f"[free]\nruns_days = {wrong}")
