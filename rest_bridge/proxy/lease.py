"""The lease: until when the proxy may serve what it knows without having heard from the server."""

import math
import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]

STRICT_BOUND = 2.0
MIN_HEARTBEAT = 0.05
MAX_HEARTBEAT = 1.0


def suspend_aware_clock() -> float:
    """Seconds that only grow and, where the system can tell, go on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class Lease:
    """Bounds staleness (dataplane.proto, WatchRequest.heartbeat). All times are seconds of `clock`.

    `bound` is the true bound, and the one that the server is told. A stale limit of 0 means: nothing is served once the
    stream is known to be down, and never later than 2 s after the last heartbeat that was answered.
    """

    def __init__(self, *, stale_limit: float, clock: Clock = suspend_aware_clock) -> None:
        self.clock = clock
        self.bound = stale_limit or STRICT_BOUND
        self.heartbeat_interval = min(MAX_HEARTBEAT, max(MIN_HEARTBEAT, self.bound / 10))
        self._outlives_stream = stale_limit > 0
        self._until = -math.inf

    @property
    def bound_ms(self) -> int:
        """The bound in whole milliseconds, never less than it is."""
        return math.ceil(self.bound * 1000)

    def is_fresh(self) -> bool:
        """Whether requests may be served now."""
        return self.clock() <= self._until

    def lasts(self, seconds: float) -> bool:
        """Whether requests may still be served in so many seconds, even if nothing is heard of the server."""
        return self._outlives_stream and self.clock() + seconds <= self._until

    def remaining(self) -> float:
        """Seconds for which requests may be served if the server is not heard of again."""
        return max(0.0, self._until - self.clock())

    def renew(self, asked_at: float) -> None:
        """The server has answered what was asked at this time, and everything it said before is applied."""
        self._until = max(self._until, asked_at + self.bound)

    def stream_lost(self) -> None:
        """The stream of changes has ended."""
        if not self._outlives_stream:
            self.end()

    def end(self) -> None:
        """Nothing may be served from now on."""
        self._until = -math.inf
