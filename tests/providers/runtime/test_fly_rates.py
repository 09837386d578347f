"""Fly's rate limits are kept, and its wish to be left alone is heard."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.providers.runtime import fly_rates
from server.providers.runtime.base import EngineState, RuntimeUnavailable
from server.providers.runtime.fly_rates import LOOK, Rates
from tests.providers.runtime.fly_support import ID, SPEC, runtime, until
from tests.support.fly import rates
from tests.support.fly.cloud import Fly
from tests.support.fly.server import running_fly


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if round(seconds, 6):
            self.slept.append(round(seconds, 6))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(fly_rates, "time", made)
    monkeypatch.setattr(fly_rates, "asyncio", made)
    return made


async def test_burst_passes_and_then_one_a_second(clock: Time) -> None:
    kept = Rates(1)
    for _ in range(5):
        await kept.turn("start", "m1")
    assert clock.slept == [1, 1]
    await kept.turn("stop", "m1")
    await kept.turn("start", "m2")
    assert clock.slept == [1, 1], "another action, and another machine, have turns of their own"
    clock.now += 100
    for _ in range(3):
        await kept.turn("start", "m1")
    assert clock.slept == [1, 1], "a pause gives a burst again, and no more than one"
    await kept.turn("start", "m1")
    assert clock.slept == [1, 1, 1]


async def test_looks_are_more_frequent(clock: Time) -> None:
    kept = Rates(1)
    for _ in range(12):
        await kept.turn(LOOK, "m1")
    assert clock.slept == [0.2, 0.2]


async def test_nobody_waits_for_long(clock: Time) -> None:
    kept = Rates(1)
    kept.hold("start", "m1", 30)
    with pytest.raises(RuntimeUnavailable) as caught:
        await kept.turn("start", "m1")
    assert caught.value.unreachable
    clock.now += 27
    await kept.turn("start", "m1")
    assert clock.slept == [3]


async def test_hold_is_bounded_and_never_shortens(clock: Time) -> None:
    kept = Rates(1)
    kept.hold("start", "m1", 1e9)
    kept.hold("start", "m1", 1)
    clock.now += fly_rates.LONGEST_HOLD_S - 1
    await kept.turn("start", "m1")
    assert clock.slept == [1]


async def test_full_buckets_are_forgotten(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fly_rates, "REMEMBERED", 100)
    kept = Rates(1)
    for number in range(1000):
        await kept.turn("start", f"m{number}")
        clock.now += 0.1
    assert len(kept._full_at) <= 100


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[Fly]:
    async with running_fly(tmp_path, runs_engines=False) as fly:
        yield fly


async def test_flys_own_limits_are_never_met(fly: Fly) -> None:
    """Twice Fly's limits: calls that were made in time may arrive in a bunch where this machine is busy."""
    fly.rates = rates.Rates(factor=2)
    async with runtime(fly, requests_per_second=1) as made:

        async def looks() -> None:
            for _ in range(6):
                await made.observe(ID)

        await made.run(SPEC)
        await asyncio.gather(looks(), looks(), looks())
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        await until(EngineState.ABSENT, lambda: made.destroy(ID), seconds=60)
    assert 429 not in {call.status for call in fly.calls}


async def test_wish_to_be_left_alone_is_heard(fly: Fly) -> None:
    async with runtime(fly) as made:
        await made.run(SPEC)
        fly.faults.fail("Machines_show", 429, {"error": "slow down"}, headers={"retry-after": "30"})
        with pytest.raises(RuntimeUnavailable, match="rate limit") as caught:
            await made.observe(ID)
        assert caught.value.unreachable
        asked, began = len(fly.calls), time.monotonic()
        with pytest.raises(RuntimeUnavailable, match="rate limit"):
            await made.observe(ID)
        assert len(fly.calls) == asked, "Fly was not asked again"
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("said", [None, "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "0"])
async def test_wish_that_cannot_be_read_is_a_short_one(fly: Fly, said: str | None) -> None:
    async with runtime(fly) as made:
        await made.run(SPEC)
        headers = {} if said is None else {"retry-after": said}
        fly.faults.fail("Machines_show", 429, {"error": "slow down"}, headers=headers)
        with pytest.raises(RuntimeUnavailable):
            await made.observe(ID)
        assert (await made.observe(ID)).state in (EngineState.STARTING, EngineState.RUNNING)
