"""Fly's rate limits: for each action on each machine, or on the app where there is none."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many at once, and how many a second after that."""

    burst: int
    per_second: float


# docs: "Rate limits" of working with the Machines API.
USUAL = Rate(burst=3, per_second=1)
MACHINE_GET = Rate(burst=10, per_second=5)


class Rates:
    """Who has called how often. `factor` makes all of it faster, for tests of something else."""

    def __init__(self, factor: float = 1) -> None:
        self.factor = factor
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, operation: str, target: str) -> float:
        """Zero where the call may be made; else after how many seconds the next one may."""
        rate = MACHINE_GET if operation == "Machines_show" else USUAL
        burst, per_second = rate.burst * max(1, self.factor), rate.per_second * self.factor
        now = time.monotonic()
        left, at = self._left.get((operation, target), (burst, now))
        left = min(burst, left + (now - at) * per_second)
        if left < 1:
            self._left[operation, target] = (left, now)
            return (1 - left) / per_second
        self._left[operation, target] = (left - 1, now)
        return 0
