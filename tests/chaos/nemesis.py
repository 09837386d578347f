"""Halts, kills, restarts and separates parts, in an order that a seed decides."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.history import Fault, History
from tests.chaos.world import World

# Shorter than every lease and confirmation; between the two; longer than most.
HALTS_S = {"short halt": (0.1, 1.2), "long halt": (1.6, 2.9), "longest halt": (3.2, 4.8)}
# The line to the server: how long it is gone, while the part goes on.
LINES_S = {"line stalled": (0.5, 4.5), "line cut": (0.5, 4.5)}
ENDS = ("kill", "kill after a halt", "term")
DOWN_S = (0.0, 1.0)


@dataclass(frozen=True)
class Lane:
    """Parts that are never away together, what can happen to them, and for how long they are left in peace before."""

    parts: Sequence[str]
    kinds: Sequence[str]
    calm: tuple[float, float]


class Nemesis:
    """Does what it can, in each lane by itself. A part is always whole again before the next thing happens to it."""

    def __init__(self, world: World, lanes: Sequence[Lane], history: History, seed: int) -> None:
        self._world = world
        self._lanes = lanes
        self._history = history
        self._seed = seed

    async def run(self, faults: int, go_on: Callable[[], bool]) -> None:
        """So many faults in each lane, all of different kinds while there are any, and then as long as `go_on` says."""
        async with asyncio.TaskGroup() as lanes:
            for lane in self._lanes:
                lanes.create_task(self._work(lane, faults, go_on))

    async def _work(self, lane: Lane, faults: int, go_on: Callable[[], bool]) -> None:
        rng = random.Random(f"{self._seed}/{lane.parts[0]}")
        kinds: list[str] = []
        done = 0
        while done < faults or go_on():
            done += 1
            kinds = kinds or rng.sample(lane.kinds, len(lane.kinds))
            await asyncio.sleep(rng.uniform(*lane.calm))
            await self._strike(rng.choice(lane.parts), kinds.pop(), rng)

    async def _strike(self, part: str, kind: str, rng: random.Random) -> None:
        began = time.monotonic()
        if kind in HALTS_S:
            await self._halt(part, rng.uniform(*HALTS_S[kind]))
            self._world.parts.go_on(part)
        elif kind in LINES_S:
            line = self._world.lines[part]
            (line.cut if kind == "line cut" else line.stall)()
            await asyncio.sleep(rng.uniform(*LINES_S[kind]))
            line.mend()
        else:
            await self._end(part, kind, rng)
        self._history.faults.append(Fault(part, kind, began, time.monotonic()))

    async def _end(self, part: str, kind: str, rng: random.Random) -> None:
        """Ends a part, and starts it again after a while."""
        if kind == "kill after a halt":
            await self._halt(part, rng.uniform(*HALTS_S["short halt"]))
        await self._world.parts.end(part, signal.SIGTERM if kind == "term" else signal.SIGKILL)
        await asyncio.sleep(rng.uniform(*DOWN_S))
        await self._world.parts.start(part)
        await self._world.until_listening(part)

    async def _halt(self, part: str, seconds: float) -> None:
        self._world.parts.halt(part)
        await asyncio.sleep(seconds)
