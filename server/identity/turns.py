"""Turns: what anybody can cause without end, and costs us something, happens a few at a time for each party.

Checking a credential that was never seen costs a verification (about 0.1 ms of the one thread that serves everybody)
or a question to the server, and whoever knows an instance's address can make up credentials. Refusing them beyond a
rate would lock out the instance's own new tokens and keys, for nobody can tell them apart before they are checked. So
they wait instead, in a line of their instance: between two of one line everybody else is served, and how long the line
may get, and how long anybody stands in it, is bounded. What was seen before needs no turn.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

# Less than the 5 s after which Envoy answers in our place.
PATIENCE = 3.0


class TooManyWaiting(Exception):
    """The line of this party is as long as it may get, or does not move."""


class _Line:
    """One party's line."""

    __slots__ = ("taken", "waiting")

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class Turns:
    """Gives each party `at_once` turns at a time, and lets `most_waiting` wait for one, for `patience` seconds."""

    def __init__(self, *, at_once: int, most_waiting: int, patience: float = PATIENCE) -> None:
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._patience = patience
        self._lines: dict[Hashable, _Line] = {}

    def __len__(self) -> int:
        """How many parties have a turn or wait for one."""
        return len(self._lines)

    @asynccontextmanager
    async def turn(self, party: Hashable) -> AsyncIterator[None]:
        """Waits for a turn, first come, first served. Raises TooManyWaiting."""
        line = self._lines.get(party)
        if line is None:
            line = self._lines[party] = _Line()
        if line.taken < self._at_once:
            line.taken += 1
        else:
            await self._wait(party, line)
        try:
            yield
        finally:
            # Not at once: first comes everything else that is ready. Without a pause a whole line would pass in one go.
            asyncio.get_running_loop().call_soon(self._pass_on, party, line)

    async def _wait(self, party: Hashable, line: _Line) -> None:
        if len(line.waiting) >= self._most_waiting:
            raise TooManyWaiting
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(mine)
        try:
            async with asyncio.timeout(self._patience):
                await mine
        except TimeoutError:
            if mine.cancelled():
                raise TooManyWaiting from None
        except asyncio.CancelledError:
            if not mine.cancelled():
                self._pass_on(party, line)
            raise

    def _pass_on(self, party: Hashable, line: _Line) -> None:
        while line.waiting:
            following = line.waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        line.taken -= 1
        if line.taken == 0:
            del self._lines[party]
