"""Fly's rate limits, kept before Fly has to: so many requests a second for each action on each machine (or app)."""

import asyncio
import time

from server.providers.runtime.base import RuntimeUnavailable

# docs/machines/api "Rate limits": 1 request a second and bursts of 3; a machine may be looked at 5 times as often.
BURST = 3
LOOK = "get_machine"
LOOK_FACTOR = 5
LOOK_BURST = 10
PATIENCE_S = 5.0
# Of a Retry-After: an hour that is meant for somebody else's client must not stop ours.
LONGEST_HOLD_S = 60.0
REMEMBERED = 10_000


class Rates:
    """Token buckets, held as the time at which each will be full again."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._full_at: dict[tuple[str, str], float] = {}

    async def turn(self, action: str, target: str) -> None:
        """Waits for a turn. Raises RuntimeUnavailable, unreachable, rather than to wait for long."""
        interval, slack = self._pace(action)
        now = time.monotonic()
        full_at = max(now, self._full_at.get((action, target), now))
        wait = full_at - slack - now
        if wait > PATIENCE_S:
            raise RuntimeUnavailable("Fly's rate limit is reached.", unreachable=True)
        self._forget(now)
        self._full_at[action, target] = full_at + interval
        if wait > 0:
            await asyncio.sleep(wait)

    def hold(self, action: str, target: str, seconds: float) -> None:
        """Gives no turn for a while: Fly has asked for it."""
        _, slack = self._pace(action)
        until = time.monotonic() + min(seconds, LONGEST_HOLD_S) + slack
        self._full_at[action, target] = max(until, self._full_at.get((action, target), 0.0))

    def _pace(self, action: str) -> tuple[float, float]:
        """Seconds between two turns, and how many of them a burst may be ahead."""
        factor, burst = (LOOK_FACTOR, LOOK_BURST) if action == LOOK else (1, BURST)
        interval = 1 / (self._per_second * factor)
        return interval, (burst - 1) * interval

    def _forget(self, now: float) -> None:
        if len(self._full_at) >= REMEMBERED:
            self._full_at = {bucket: at for bucket, at in self._full_at.items() if at > now}
