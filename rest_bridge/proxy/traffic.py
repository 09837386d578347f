"""Counts of decided requests, which cost a request one dictionary entry, and the report of them and of the answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rest_bridge.answers import Row, Tally
from rest_bridge.proxy.cache import ServerAway

INTERVAL = 5.0
MAX_ROWS = 10_000
ROWS_PER_REPORT = 1_000
MAX_FAILURES = 12

_Alike: TypeAlias = tuple[str, str | None, str | None, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """How many requests were decided alike, and when the last one was (seconds since 1970)."""

    instance_id: str
    key_id: str | None
    policy_id: str | None
    status: int
    requests: int
    last_at: float


class Traffic:
    """Counts between two reports. What cannot be reported for a minute, or does not fit, is lost: counts only."""

    def __init__(self, report: Callable[[Sequence[Count], Sequence[Row]], Awaitable[None]]) -> None:
        self.answers = Tally()
        self._report = report
        self._rows: dict[_Alike, tuple[int, float]] = {}
        self._failures = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Rows that are not reported yet."""
        return len(self._rows)

    def count(
        self,
        instance_id: str,
        key_id: str | None,
        policy_id: str | None,
        status: int,
        now: float,
        requests: int = 1,
    ) -> None:
        """Counts requests that were decided alike."""
        row = (instance_id, key_id, policy_id, status)
        seen = self._rows.get(row)
        if seen is not None:
            self._rows[row] = (seen[0] + requests, now)
        elif len(self._rows) < MAX_ROWS:
            self._rows[row] = (requests, now)
        else:
            self.lost += requests

    async def run(self) -> None:
        """Reports for as long as the proxy lives."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()

    async def flush(self) -> None:
        """Reports what was counted since the last report."""
        rows, self._rows = self._rows, {}
        counts, answers = [_count(row, seen) for row, seen in rows.items()], self.answers.take()
        try:
            while counts or answers:
                await self._report(counts[:ROWS_PER_REPORT], answers[:ROWS_PER_REPORT])
                del counts[:ROWS_PER_REPORT], answers[:ROWS_PER_REPORT]
            self._failures = 0
        except ServerAway:
            self._failures += 1
            self._keep(counts)
            keep = self.answers.add if self._failures < MAX_FAILURES else self.answers.lose
            keep(answers)

    def _keep(self, counts: Sequence[Count]) -> None:
        for one in counts:
            row = (one.instance_id, one.key_id, one.policy_id, one.status)
            requests, last_at = self._rows.get(row, (0, one.last_at))
            if self._failures < MAX_FAILURES and (requests or len(self._rows) < MAX_ROWS):
                self._rows[row] = (requests + one.requests, last_at)
            else:
                self.lost += one.requests


def _count(row: _Alike, seen: tuple[int, float]) -> Count:
    instance_id, key_id, policy_id, status = row
    requests, last_at = seen
    return Count(
        instance_id=instance_id,
        key_id=key_id,
        policy_id=policy_id,
        status=status,
        requests=requests,
        last_at=last_at,
    )
