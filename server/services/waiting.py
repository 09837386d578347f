"""Calls that wait for something, in this process: bounded, and woken instead of looking again and again."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from server.errors import RateLimited

MOST = 1_000
MOST_OF_ONE = 100


class Waiters:
    """Who waits for what, by its name: at most `most` calls, and `most_of_one` of one organization."""

    def __init__(self, *, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._waiting: dict[str, set[Waiter]] = defaultdict(set)
        self._by_org: Counter[str] = Counter()
        self._closed = False

    @property
    def names(self) -> list[str]:
        """What is waited for."""
        return list(self._waiting)

    @contextmanager
    def waiting(self, org_id: str, name: str, seconds: float) -> Iterator["Waiter"]:
        """One who waits for this, for so long at most. Raises RateLimited where too many wait already."""
        if self._by_org[org_id] >= self._most_of_one or self._by_org.total() >= self._most:
            what = "Too many calls wait at once. Ask again without waiting, or later."
            raise RateLimited(what, scope="waiting calls", limit=self._most_of_one, retry_after=1)
        waiter = Waiter(seconds, woken=self._closed)
        self._waiting[name].add(waiter)
        self._by_org[org_id] += 1
        try:
            yield waiter
        finally:
            self._waiting[name].discard(waiter)
            if not self._waiting[name]:
                del self._waiting[name]
            self._by_org -= Counter({org_id: 1})

    def wake(self, name: str) -> None:
        """Lets all who wait for this look again."""
        for waiter in self._waiting.get(name, ()):
            waiter.wake()

    def close(self) -> None:
        """Lets everybody look once more and then go: this process ends."""
        self._closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.end()


class Waiter:
    """One call that waits."""

    def __init__(self, seconds: float, *, woken: bool) -> None:
        self._until = 0.0 if woken else time.monotonic() + seconds
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Lets it look again."""
        self._event.set()

    def end(self) -> None:
        """Lets it look once more."""
        self._until = 0.0
        self._event.set()

    async def again(self, poll: float | None = None) -> bool:
        """Waits until there may be something new, or `poll` seconds have passed. False when the time is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(left if poll is None else min(left, poll)):
                await self._event.wait()
        self._event.clear()
        return True
