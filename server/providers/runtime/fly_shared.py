"""Fly allows to list an app's machines once a second, however many instances there are: so one list serves many."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.providers.runtime.base import RuntimeFailed, RuntimeUnavailable

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Value]):
    """What an asking led to."""

    number: int
    value: Value | None = None
    error: Exception | None = None


class Shared(Generic[Value]):
    """One answer for all who ask at about the same time: no answer is older than the question."""

    def __init__(self, ask: Callable[[], Awaitable[Value]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._asked = 0
        self._outcome: _Outcome[Value] = _Outcome(0)

    async def get(self) -> Value:
        """An answer that was asked for after this was called, by us or by another. Raises what asking raised."""
        wanted = self._asked + 1
        async with self._lock:
            if self._outcome.number < wanted:
                self._asked += 1
                self._outcome = await self._outcome_of(self._asked)
        if self._outcome.error is not None:
            raise self._outcome.error
        return self._outcome.value  # type: ignore[return-value]

    async def _outcome_of(self, number: int) -> _Outcome[Value]:
        try:
            return _Outcome(number, value=await self._ask())
        except (RuntimeFailed, RuntimeUnavailable) as error:
            return _Outcome(number, error=error)
