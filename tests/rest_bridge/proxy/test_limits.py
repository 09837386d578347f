"""Token buckets: what they admit, what they say, what they forget."""

from collections.abc import Hashable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_bridge.proxy.limits import EXAMINED, KEY, ORGANIZATION, Buckets, Limiter, Standing
from rest_bridge.proxy.refusals import too_many
from server.domain.plans import UNLIMITED, Rate, TrafficLimits

# Sums of these are exact in floating point, so the properties need no tolerance where no share is taken.
moments = st.integers(0, 5000).map(lambda ticks: ticks / 64)
rates = st.builds(Rate, per_second=st.integers(1, 64), burst=st.integers(1, 64))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def limits(per_second: int, burst: int, key: tuple[int, int] | None = None) -> TrafficLimits:
    own = None if key is None else Rate(per_second=key[0], burst=key[1])
    return TrafficLimits(organization=Rate(per_second=per_second, burst=burst), key=own)


def passes(standing: Standing | None) -> bool:
    return standing is None or not standing.retry_after


def admitted(times: Iterable[float], rate: Rate, proxies: int = 1) -> list[float]:
    clock = Clock()
    limiter = Limiter(clock=clock)
    let_in = []
    for clock.now in sorted(times):
        if passes(limiter.charge("org", None, TrafficLimits(organization=rate), proxies=proxies)):
            let_in.append(clock.now)
    return let_in


@given(st.lists(moments, max_size=200), rates)
def test_no_window_has_more_than_the_burst_and_what_flowed_in(times: list[float], rate: Rate) -> None:
    let_in = admitted(times, rate)
    for first, begin in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= rate.burst + rate.per_second * (let_in[last] - begin)


@given(st.lists(moments, max_size=200), rates)
def test_whoever_keeps_to_the_rate_is_never_refused(gaps: list[float], rate: Rate) -> None:
    now, times = 0.0, []
    for gap in gaps:
        now += max(gap, 1 / rate.per_second)
        times.append(now)
    # The sum of gaps that are no exact fractions may be short of the rate by a rounding error.
    assert len(admitted(times, Rate(per_second=rate.per_second, burst=rate.burst + 1))) == len(times)


@given(st.lists(moments, max_size=100), st.integers(4, 64), st.integers(4, 64), st.integers(1, 4))
def test_all_proxies_together_admit_what_one_would(times: list[float], per: int, burst: int, proxies: int) -> None:
    rate = Rate(per_second=per, burst=burst)
    let_in = sorted(time for _ in range(proxies) for time in admitted(times, rate, proxies))
    for first, begin in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= burst + per * (let_in[last] - begin) + 1e-6


@given(moments, rates)
def test_a_bucket_is_full_again_when_it_says(start: float, rate: Rate) -> None:
    clock = Clock()
    clock.now = start
    limiter, limit = Limiter(clock=clock), TrafficLimits(organization=rate)
    while (standing := limiter.charge("org", None, limit, proxies=1)) and not standing.retry_after:
        last = standing
    assert (last.remaining, last.limit) == (0, rate.burst)
    clock.now += last.reset
    again = limiter.charge("org", None, limit, proxies=1)
    assert again is not None
    assert again.remaining == rate.burst - 1


@given(rates, st.integers(1, 100))
def test_whoever_waits_as_told_is_let_in(rate: Rate, proxies: int) -> None:
    clock = Clock()
    limiter, limit = Limiter(clock=clock), TrafficLimits(organization=rate)
    while (standing := limiter.charge("org", None, limit, proxies=proxies)) and not standing.retry_after:
        pass
    assert standing is not None
    assert standing.remaining == 0
    clock.now += standing.retry_after
    assert passes(limiter.charge("org", None, limit, proxies=proxies))


def test_nothing_is_charged_where_nothing_limits() -> None:
    limiter = Limiter(clock=Clock())
    assert limiter.charge("org", "key", UNLIMITED, proxies=1) is None
    only_keys = TrafficLimits(key=Rate(per_second=1, burst=1))
    assert limiter.charge("org", None, only_keys, proxies=1) is None
    standing = limiter.charge("org", "key", only_keys, proxies=1)
    assert standing is not None
    assert standing.scope == KEY


def test_one_organization_does_not_touch_another() -> None:
    limiter, limit = Limiter(clock=Clock()), limits(10, 20, key=(10, 20))
    for _ in range(10_000):
        limiter.charge("noisy", "key_1", limit, proxies=1)
    assert not passes(limiter.charge("noisy", "key_2", limit, proxies=1))
    quiet = limiter.charge("quiet", "key_1", limit, proxies=1)
    assert quiet is not None
    assert (quiet.remaining, quiet.retry_after) == (19, 0)


def test_one_key_does_not_touch_another() -> None:
    limiter, limit = Limiter(clock=Clock()), limits(100, 100, key=(1, 2))
    assert [passes(limiter.charge("org", "noisy", limit, proxies=1)) for _ in range(50)] == [True, True] + [False] * 48
    assert passes(limiter.charge("org", "quiet", limit, proxies=1))


def test_what_the_key_is_refused_costs_the_organization_nothing_and_the_other_way_round() -> None:
    limiter = Limiter(clock=Clock())
    strict_key, strict_org = limits(100, 100, key=(1, 1)), limits(1, 1, key=(100, 100))
    for _ in range(50):
        limiter.charge("org", "key", strict_key, proxies=1)
    left = limiter.charge("org", None, strict_key, proxies=1)
    assert left is not None
    assert left.remaining == 98
    for _ in range(50):
        limiter.charge("other", "key", strict_org, proxies=1)
    left = limiter.charge("other", "key", TrafficLimits(key=strict_org.key), proxies=1)
    assert left is not None
    assert left.remaining == 98


def test_the_tighter_of_the_two_is_told() -> None:
    limiter = Limiter(clock=Clock())
    narrow_key = limits(100, 100, key=(10, 3))
    told = [limiter.charge("org", "key", narrow_key, proxies=1) for _ in range(4)]
    assert [(one.scope, one.limit, one.remaining) for one in told if one] == [(KEY, 3, left) for left in (2, 1, 0, 0)]
    # Both are used up: whoever retries must wait for the slower one.
    both = limits(1, 1, key=(100, 1))
    limiter.charge("second", "key", both, proxies=1)
    refused = limiter.charge("second", "key", both, proxies=1)
    assert refused is not None
    assert refused.scope == ORGANIZATION


def test_headers_name_the_share_that_is_enforced() -> None:
    clock = Clock()
    limiter, limit = Limiter(clock=clock), limits(10, 20)
    standing = limiter.charge("org", None, limit, proxies=4)
    assert standing is not None
    assert (standing.rate, standing.headers) == (
        limit.organization,
        ((b"ratelimit-limit", b"5"), (b"ratelimit-remaining", b"4"), (b"ratelimit-reset", b"1")),
    )


def test_a_refusal_names_one_moment_twice() -> None:
    limiter, limit = Limiter(clock=Clock()), limits(1, 60)
    charged = [limiter.charge("org", None, limit, proxies=1) for _ in range(60)][-1]
    assert charged is not None
    assert dict(charged.headers)[b"ratelimit-reset"] == b"60"
    refused = limiter.charge("org", None, limit, proxies=1)
    assert refused is not None
    assert (refused.retry_after, dict(refused.headers)[b"ratelimit-reset"]) == (1, b"1")


def test_refusals_of_a_flood_are_made_once() -> None:
    limiter, limit = Limiter(clock=Clock()), limits(1, 1)
    standings = [limiter.charge("org", None, limit, proxies=1) for _ in range(3)]
    bodies = [too_many(standing).body for standing in standings[1:] if standing]
    assert len(bodies) == 2
    assert bodies[0] is bodies[1]


def test_a_share_is_never_less_than_one_a_second() -> None:
    assert len(admitted([0.0, 0.0, 0.5, 1.0, 1.5, 2.0], Rate(per_second=1, burst=1), proxies=50)) == 3


def test_a_new_plan_and_a_new_proxy_count_at_once() -> None:
    limiter = Limiter(clock=Clock())
    for _ in range(3):
        assert passes(limiter.charge("org", None, limits(1, 3), proxies=1))
    assert not passes(limiter.charge("org", None, limits(1, 3), proxies=1))
    larger = limiter.charge("org", None, limits(1, 10), proxies=1)
    assert larger is not None
    assert larger.remaining == 6
    assert not passes(limiter.charge("org", None, limits(1, 10), proxies=5))


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    clock = Clock()
    limiter = Limiter(clock=clock)
    clock.now = 100.0
    assert passes(limiter.charge("org", None, limits(1, 1), proxies=1))
    for clock.now in (100.0, 0.0, 100.5):
        assert not passes(limiter.charge("org", None, limits(1, 1), proxies=1))
    clock.now = 101.0
    assert passes(limiter.charge("org", None, limits(1, 1), proxies=1))


def used(buckets: Buckets, owner: Hashable, now: float = 0.0) -> float:
    return buckets.drained(owner, RATE, 1, now).used


RATE = Rate(per_second=1, burst=10)


@given(st.lists(st.tuples(st.integers(0, 30), moments), max_size=200))
def test_memory_is_bounded(charges: list[tuple[int, float]]) -> None:
    buckets = Buckets(ORGANIZATION, 8)
    for owner, now in sorted(charges, key=lambda item: item[1]):
        buckets.drained(owner, RATE, 1, now).used += 1
        assert len(buckets) <= 8


def test_a_full_bucket_goes_before_one_that_is_in_use() -> None:
    buckets = Buckets(ORGANIZATION, 3)
    for owner, now in (("busy", 0.0), ("idle", 0.0), ("late", 4.0)):
        buckets.drained(owner, RATE, 1, now).used += 5 if owner != "idle" else 1
    buckets.drained("new", RATE, 1, 4.0)
    # "busy" is the oldest, yet one second is left of what it has used; "idle" is full and loses nothing.
    assert [used(buckets, owner, 4.0) for owner in ("busy", "late", "new")] == [1, 5, 0]
    assert len(buckets) == 3


@pytest.mark.parametrize("owners", [3, 3 * EXAMINED])
def test_where_all_are_in_use_the_one_with_the_most_left_goes(owners: int) -> None:
    buckets = Buckets(ORGANIZATION, owners)
    for number in range(owners):
        buckets.drained(number, RATE, 1, 0.0).used += 2 if number == 1 else 5
    buckets.drained("new", RATE, 1, 0.0)
    assert used(buckets, 0) == 5
    assert len(buckets) == owners
    assert used(buckets, 1) == 0, "it was dropped, and begins again"
