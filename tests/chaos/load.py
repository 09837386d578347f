"""Callers at every entrance, all the time, with credentials that are good, were just revoked, or were long ago."""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.chaos.history import History, Request
from tests.chaos.http import Caller

URGENT = 60
DEAD = 400
THINK_S = 0.05
# Where nothing can be learned at the moment, less is asked.
AWAY_S = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """A request that can be made again and again: its path, its credential and the grants that it needs."""

    path: str
    needs: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


class Load:
    """What the callers call, and the callers. `entrances` are ports by name."""

    def __init__(self, entrances: Mapping[str, int], history: History, seed: int) -> None:
        self.live: dict[str, Call] = {}
        self.dead: deque[Call] = deque(maxlen=DEAD)
        self.entrances = entrances
        self._history = history
        self._seed = seed
        self._urgent: dict[str, deque[Call]] = {name: deque(maxlen=URGENT) for name in entrances}
        self._numbers = itertools.count(1)
        self._stopping = False

    def bring(self, name: str, call: Call) -> None:
        """From now on this should pass."""
        self.live[name] = call
        self.urge(call)

    def take(self, name: str) -> None:
        """From now on this should be refused. The callers go on trying."""
        call = self.live.pop(name, None)
        if call is not None:
            self.dead.append(call)

    def urge(self, call: Call) -> None:
        """Has it called at every entrance before anything else: something has just been changed about it."""
        for waiting in self._urgent.values():
            waiting.append(call)

    async def run(self, callers: int) -> None:
        """Calls until `stop`, with so many callers at each entrance: one that hangs holds up only its own."""
        names = [f"{entrance}/{number}" for entrance in self.entrances for number in range(callers)]
        await asyncio.gather(*(self._call_on(name) for name in names))

    def stop(self) -> None:
        """Lets the calls under way be the last."""
        self._stopping = True

    async def call(self, caller: Caller, entrance: str, call: Call) -> Request:
        """One call, recorded."""
        number = next(self._numbers)
        answer = await caller.call("GET", f"{call.path}?r={number}", dict(call.headers))
        request = Request(
            number=number,
            entrance=entrance,
            needs=call.needs,
            connected=answer.times.connected,
            started=answer.times.started,
            ended=answer.times.ended,
            status=answer.status,
            reason=answer.reason,
        )
        self._history.requests.append(request)
        return request

    async def _call_on(self, name: str) -> None:
        entrance = name.partition("/")[0]
        rng = random.Random(f"{self._seed}/{name}")
        with Caller(self.entrances[entrance]) as caller:
            while not self._stopping:
                call = self._choose(entrance, rng)
                status = (await self.call(caller, entrance, call)).status if call else None
                await asyncio.sleep(rng.uniform(0, AWAY_S if status in (None, 503) else THINK_S))

    def _choose(self, entrance: str, rng: random.Random) -> Call | None:
        if waiting := self._urgent[entrance]:
            return waiting.popleft()
        calls = self.dead if self.dead and rng.random() < 0.3 else tuple(self.live.values())
        return rng.choice(calls) if calls else None


async def until_each(load: Load, calls: Iterable[Call], statuses: frozenset[int], seconds: float) -> None:
    """Calls each at every entrance until it answers one of these, every time. Fails where that takes longer."""
    deadline = time.monotonic() + seconds
    for entrance, port in load.entrances.items():
        with Caller(port) as caller:
            for call in calls:
                while (last := await load.call(caller, entrance, call)).status not in statuses:
                    assert time.monotonic() < deadline, f"still no answer among {sorted(statuses)}: {last}"
                    await asyncio.sleep(0.05)
