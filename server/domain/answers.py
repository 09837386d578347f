"""What became of the requests that were let pass: counts by kind of answer, and how long callers waited for it.

Latencies are kept as counts in fixed buckets on a logarithmic scale: what edges, proxies and minutes have seen adds up.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

STEP = timedelta(minutes=1)
# The engine has not answered: a 502, 503 or 504 of ours stands for it.
NOT_ANSWERED = "none"
KINDS = ("1xx", "2xx", "3xx", "4xx", "5xx", NOT_ANSWERED)
ERRORS = ("5xx", NOT_ANSWERED)

# The first bucket ends at 0.1 ms, eight more make the double of it, and the last, from ten minutes on, has no end.
FIRST_MS = 0.1
PER_OCTAVE = 8
LAST = math.ceil(PER_OCTAVE * math.log2(600_000 / FIRST_MS))
ERROR = 2 ** (1 / PER_OCTAVE / 2) - 1


def kind_of(status: int) -> str | None:
    """The kind of an answer of the engine; None for a status that HTTP does not have."""
    return KINDS[status // 100 - 1] if 100 <= status < 600 else None


def bucket_of(milliseconds: float) -> int:
    """The bucket in which a latency is counted."""
    if milliseconds <= FIRST_MS:
        return 0
    return min(math.ceil(PER_OCTAVE * math.log2(milliseconds / FIRST_MS)), LAST)


def percentile(latency: Mapping[int, int], share: float) -> float | None:
    """The latency in milliseconds that this share of the answers did not exceed (nearest rank); None: there are none.

    It is the middle of a bucket on the logarithmic scale, so it is off by `ERROR` at most.
    """
    wanted = max(1, math.ceil(share * sum(latency.values())))
    for bucket in sorted(latency):
        wanted -= latency[bucket]
        if wanted <= 0:
            return FIRST_MS * 2 ** ((bucket - 0.5) / PER_OCTAVE) if bucket else FIRST_MS
    return None


@dataclass(slots=True)
class Answers:
    """Answers of one instance in one minute. What never began, for the caller had left, is none."""

    kinds: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)

    @classmethod
    def reported(cls, kinds: Mapping[str, int], latency: Mapping[int, int]) -> Self:
        """What somebody says that it has counted. What makes no sense in it is left out."""
        return cls(
            kinds=Counter({kind: many for kind, many in kinds.items() if kind in KINDS and many > 0}),
            latency=Counter({bucket: many for bucket, many in latency.items() if 0 <= bucket <= LAST and many > 0}),
        )

    def count(self, kind: str, milliseconds: float, answers: int = 1) -> None:
        """Counts answers that were alike. `milliseconds`: from the request's first byte to the answer's first."""
        self.kinds[kind] += answers
        self.latency[bucket_of(milliseconds)] += answers

    def add(self, other: "Answers") -> None:
        """Counts what another one has counted."""
        self.kinds.update(other.kinds)
        self.latency.update(other.latency)

    @property
    def errors(self) -> int:
        """The engine's own errors, and where it did not answer."""
        return sum(self.kinds[kind] for kind in ERRORS)


def minute_of(at: datetime) -> datetime:
    """The minute that a moment is in, by its beginning."""
    return at.replace(second=0, microsecond=0)
