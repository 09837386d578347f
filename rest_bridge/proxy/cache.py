"""What is known about things that the server owns: asked for once, kept within bounds, forgotten when they change."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.identity.turns import Turns

MAX_REPEATS = 8

K = TypeVar("K")
V = TypeVar("V")


class ServerAway(Exception):
    """The server could not be asked, or its answer cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How much a cache holds, and how often it was asked something that it knew, or had to ask for."""

    found: int
    unknown: int
    hits: int
    misses: int


class _Flight(Generic[V]):
    """A question that is under way, which all who want to know share."""

    __slots__ = ("dirty", "task")

    def __init__(self) -> None:
        self.dirty = False
        self.task: asyncio.Task[V | None]


class Known(Generic[K, V]):
    """A cache of least recently used values; what the server does not know is kept apart, so it can evict nothing.

    Nobody who asks after `forget` returned can receive what was read before it: a read under way is repeated.
    """

    def __init__(
        self,
        fetch: Callable[[K], Awaitable[V | None]],
        *,
        limit: int,
        unknown_limit: int,
        turns: Turns | None = None,
    ) -> None:
        self._fetch = fetch
        self._turns = Turns(at_once=64, most_waiting=10_000) if turns is None else turns
        self._limit = limit
        self._unknown_limit = unknown_limit
        self._found: OrderedDict[K, V] = OrderedDict()
        self._unknown: OrderedDict[K, None] = OrderedDict()
        self._flights: dict[K, _Flight[V]] = {}
        self._hits = 0
        self._misses = 0

    def standing(self) -> Standing:
        """How it stands."""
        return Standing(found=len(self._found), unknown=len(self._unknown), hits=self._hits, misses=self._misses)

    async def get(self, key: K, party: str = "") -> V | None:
        """The value, or None where the server knows none. A question to the server takes a turn of the party.

        Raises ServerAway where it cannot be asked, and TooManyWaiting.
        """
        value = self._found.get(key)
        if value is not None:
            self._found.move_to_end(key)
            self._hits += 1
            return value
        if key in self._unknown:
            self._unknown.move_to_end(key)
            self._hits += 1
            return None
        if key in self._flights:
            return await self._join(key)
        async with self._turns.turn(party):
            if key in self._found or key in self._unknown:
                return self._found.get(key)
            return await self._join(key)

    def known(self, key: K) -> V | None:
        """The value, if it is here."""
        return self._found.get(key)

    def forget(self, key: K) -> None:
        """The thing has changed."""
        self._found.pop(key, None)
        self._unknown.pop(key, None)
        flight = self._flights.get(key)
        if flight is not None:
            flight.dirty = True

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._found.clear()
        self._unknown.clear()
        for flight in self._flights.values():
            flight.dirty = True

    async def _join(self, key: K) -> V | None:
        flight = self._flights.get(key)
        if flight is None:
            self._misses += 1
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(key, flight))
            flight.task.add_done_callback(_retrieve)
        # A caller that hangs up must not end the question that others wait for.
        return await asyncio.shield(flight.task)

    async def _fly(self, key: K, flight: _Flight[V]) -> V | None:
        try:
            for _ in range(MAX_REPEATS):
                flight.dirty = False
                value = await self._fetch(key)
                if not flight.dirty:
                    self._store(key, value)
                    return value
            raise ServerAway("it changes faster than it can be read")
        finally:
            del self._flights[key]

    def _store(self, key: K, value: V | None) -> None:
        if value is None:
            self._unknown[key] = None
            if len(self._unknown) > self._unknown_limit:
                self._unknown.popitem(last=False)
        else:
            self._found[key] = value
            if len(self._found) > self._limit:
                self._found.popitem(last=False)


def _retrieve(task: "asyncio.Task[V | None]") -> None:
    """Takes the exception of a flight that nobody waits for any more, lest asyncio complains."""
    if not task.cancelled():
        task.exception()
