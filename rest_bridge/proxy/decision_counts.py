"""Counts of decisions for the metrics. A decision pays for one look-up and two additions, well under a microsecond."""

from bisect import bisect_left
from time import perf_counter
from typing import TypeAlias

from rest_bridge.proxy.refusals import Refusal
from server.telemetry.registry import DECISION_BOUNDS

# The reason (None: let in, or refused without one) and the status. Both come from the error table: few are possible.
Outcome: TypeAlias = tuple[str | None, int]

_ALLOWED: Outcome = (None, 200)


class DecisionCounts:
    """How many decisions ended how, and how long they took."""

    def __init__(self) -> None:
        self.outcomes: dict[Outcome, int] = {_ALLOWED: 0}
        # How many took at most the bound of this number and more than the one before; the last has no bound.
        self.buckets = [0] * (len(DECISION_BOUNDS) + 1)
        self.seconds = 0.0

    def decided(self, answer: object, began: float) -> None:
        """A decision that began at a time (of perf_counter) has ended: a Refusal, or the request passes."""
        took = perf_counter() - began
        outcome = (answer.reason, answer.status) if isinstance(answer, Refusal) else _ALLOWED
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.buckets[bisect_left(DECISION_BOUNDS, took)] += 1
        self.seconds += took

    def repeated(self, requests: int) -> None:
        """So many requests have passed an edge that did not ask about them (remembered.py)."""
        self.outcomes[_ALLOWED] += requests
