"""Latencies in buckets: what is read from them is what was counted, within the error that they are allowed."""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from server.domain.answers import ERROR, FIRST_MS, LAST, Answers, bucket_of, kind_of, percentile

SHARES = (0.01, 0.5, 0.9, 0.99, 1.0)
SHAPES: Mapping[str, Callable[[random.Random], float]] = {
    "constant": lambda chance: 12.0,
    "even": lambda chance: chance.uniform(0.2, 900),
    "long tail": lambda chance: min(chance.lognormvariate(2, 1.5) + FIRST_MS, 500_000),
    "two humps": lambda chance: chance.gauss(2, 0.1) if chance.random() < 0.7 else chance.gauss(30_000, 100),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("many", [1, 2, 3, 1_000])
def test_a_percentile_is_the_exact_one_within_the_error_of_its_bucket(shape: str, many: int) -> None:
    chance = random.Random(f"{shape} {many}")
    seen = sorted(SHAPES[shape](chance) for _ in range(many))
    answers = Answers()
    for milliseconds in seen:
        answers.count("2xx", milliseconds)
    for share in SHARES:
        exact = seen[max(1, math.ceil(share * many)) - 1]
        assert percentile(answers.latency, share) == pytest.approx(exact, rel=ERROR * 1.000001)


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile({}, 0.5) is None


def test_buckets_have_both_ends_and_no_gap() -> None:
    assert bucket_of(0) == bucket_of(FIRST_MS) == 0
    assert bucket_of(600_000) == bucket_of(1e12) == LAST
    found = [bucket_of(FIRST_MS * 1.001**step) for step in range(20_000)]
    assert found == sorted(found)
    assert set(found) == set(range(LAST + 1))


def test_what_two_have_counted_adds_up_to_what_one_would_have() -> None:
    chance = random.Random(7)
    one, other, both = Answers(), Answers(), Answers()
    for _ in range(500):
        kind, milliseconds = chance.choice(["2xx", "5xx", "none"]), chance.expovariate(0.1)
        chance.choice([one, other]).count(kind, milliseconds)
        both.count(kind, milliseconds)
    one.add(other)
    assert one == both
    assert one.errors == both.kinds["5xx"] + both.kinds["none"]
    assert sum(one.latency.values()) == one.kinds.total() == 500


def test_statuses_have_kinds() -> None:
    assert Counter(map(kind_of, (101, 200, 204, 302, 404, 500, 599))) == {
        "1xx": 1, "2xx": 2, "3xx": 1, "4xx": 1, "5xx": 2,
    }  # fmt: skip
    assert [kind_of(status) for status in (0, 99, 600)] == [None] * 3
