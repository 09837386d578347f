"""Turns: a few at a time for each party, in order, and within bounds."""

import asyncio

import pytest

from server.identity.turns import TooManyWaiting, Turns

PATIENCE = 20.0


class Work:
    """Takes turns, notes what happens, and goes on when it may."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self.gate = asyncio.Event()
        self.moved = asyncio.Condition()

    async def do(self, party: str, name: str = "") -> None:
        async with self.turns.turn(party):
            self.began.append(name or party)
            await self.gate.wait()

    def start(self, *names: str, party: str = "noisy") -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.do(party, name)) for name in names]


async def settled() -> None:
    """Everything that is ready has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_party_takes_so_many_turns_and_another_its_own() -> None:
    work = Work(Turns(at_once=2, most_waiting=10))
    noisy = work.start("1", "2", "3", "4")
    quiet = work.start("quiet", party="quiet")
    await settled()
    assert work.began == ["1", "2", "quiet"]
    work.gate.set()
    await asyncio.gather(*noisy, *quiet)
    assert work.began == ["1", "2", "quiet", "3", "4"], "first come, first served"
    await settled()
    assert len(work.turns) == 0, "nothing is kept of a party that has no turn"


async def test_between_two_turns_of_a_line_everybody_else_is_served() -> None:
    turns, order = Turns(at_once=1, most_waiting=100), []

    async def check(party: str) -> None:
        async with turns.turn(party):
            order.append(party)

    async def serve_others() -> None:
        for _ in range(5):
            order.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(*(check("noisy") for _ in range(50)), serve_others(), check("quiet"))
    assert order.index("quiet") < 5
    last_other = max(place for place, name in enumerate(order) if name == "other")
    assert order[:last_other].count("noisy") <= 6


async def test_a_line_is_bounded_in_length() -> None:
    work = Work(Turns(at_once=1, most_waiting=2))
    tasks = work.start("1", "2", "3")
    await settled()
    with pytest.raises(TooManyWaiting):
        await work.do("noisy")
    work.gate.set()
    await work.do("quiet")
    await asyncio.gather(*tasks)
    await work.do("noisy", "again")
    assert work.began[-1] == "again"


async def test_nobody_stands_in_a_line_for_ever() -> None:
    work = Work(Turns(at_once=1, most_waiting=2, patience=0.01))
    first, second = work.start("1", "2")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TooManyWaiting):
            await second
    work.gate.set()
    await first
    await work.do("noisy", "3")
    assert work.began == ["1", "3"]


async def test_whoever_leaves_the_line_takes_no_turn_along() -> None:
    work = Work(Turns(at_once=1, most_waiting=10))
    first, second, third = work.start("1", "2", "3")
    await settled()
    second.cancel()
    await settled()
    work.gate.set()
    await asyncio.gather(first, third)
    assert work.began == ["1", "3"]


async def test_whoever_leaves_just_as_its_turn_comes_passes_it_on() -> None:
    work = Work(Turns(at_once=1, most_waiting=10))
    first, second, third = work.start("1", "2", "3")
    await settled()
    work.gate.set()
    await first
    # The turn was passed on in this round of the loop, before this went on, and is taken in the next one.
    second.cancel()
    await asyncio.wait_for(third, PATIENCE)
    await settled()
    assert work.began == ["1", "3"]
    assert len(work.turns) == 0


async def test_a_turn_that_fails_is_over() -> None:
    turns = Turns(at_once=1, most_waiting=0)
    with pytest.raises(ValueError, match="broken"):
        async with turns.turn("party"):
            raise ValueError("broken")
    await settled()
    async with turns.turn("party"):
        pass
