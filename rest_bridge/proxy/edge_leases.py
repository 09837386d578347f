"""Leases of edges: for how long an Envoy worker may repeat decisions by itself (envoy/remembered.lua).

A worker renews its lease while requests come, and each renewal tells it what has changed since the last one. Revocation
stays strict, because this proxy acknowledges a change to the server (watcher.py) only once every lease is over that it
granted before it knew of the change: then no worker can repeat a decision that the change concerns. That delays the
answer of a revocation by one lease at most, and by nothing where no worker has one.

A lease never outlasts the time for which this proxy itself may serve what it knows (lease.py), so a proxy that dies or
is cut off needs no further thought.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from rest_bridge.proxy.lease import Lease

# A worker repeats what it heard for less than this; see remembered.py.
_FORGOTTEN_S = 70.0
# How many changes are kept to be told; a worker that has missed more forgets everything.
KEPT = 500
# How much faster than Envoy's our clock may run: twice what NTP does to a clock that it corrects (500 ppm).
DRIFT = 0.001


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a worker: what this proxy knows of, for how long the worker may go on, and what it must forget.

    `seconds` is 0 where no lease is granted. `reset`: everything must be forgotten, for not every change is known here.
    A change is `i` and an instance's id, or `k` and a key's SHA-256 in hexadecimal digits.
    """

    version: int
    seconds: float
    reset: bool = False
    changes: Sequence[str] = ()


class EdgeLeases:
    """The leases that this proxy has granted, and the changes that their holders have to hear of.

    `seconds` is how long a lease lasts; 0: none is granted.
    """

    def __init__(self, lease: Lease, *, seconds: float, succeeds: bool = False, kept: int = KEPT) -> None:
        """`succeeds`: a proxy of the same name may have been here before, and what it granted counts as ours.

        Its leases were as long as ours: whoever changes the setting gives the proxy another name, or none.
        """
        self._lease = lease
        self._seconds = seconds
        self._version = 0
        self._complete_since = 0
        self._changes: deque[tuple[int, str]] = deque()
        self._kept = kept
        self._over_at = lease.clock() + seconds * (1 + DRIFT) if succeeds else 0.0
        # Until then versions may name something else than what a worker heard under them.
        self._ambiguous_until = 0.0
        # Versions that are applied here, each with the time when the last lease from before it is over.
        self._settling: deque[tuple[int, float]] = deque()
        self._settled = 0

    def applied(self, version: int, change: str) -> None:
        """A change is applied here."""
        self._changes.append((version, change))
        if len(self._changes) > self._kept:
            self._complete_since = self._changes.popleft()[0]
        self._settle(version)

    def started_over(self, version: int) -> None:
        """Changes were missed, up to this version, which may be lower than the last one."""
        if version < self._version:
            self._ambiguous_until = self._lease.clock() + _FORGOTTEN_S
        self._changes.clear()
        self._complete_since = version
        self._settled = min(self._settled, version)
        self._settling.clear()
        self._settle(version)

    def renew(self, known: int | None) -> Renewal:
        """Grants a worker a lease. `known` is the version that it heard of last, None where it remembers nothing.

        One that knows of more than this proxy gets none: a change that it knows of might not be told to it again.
        """
        ahead = known is not None and known > self._version
        if ahead or not self._seconds or not self._lease.lasts(self._seconds * (1 + DRIFT)):
            return Renewal(self._version, 0.0)
        self._over_at = max(self._over_at, self._lease.clock() + self._seconds * (1 + DRIFT))
        ambiguous = self._lease.clock() < self._ambiguous_until
        if known is None or known < self._complete_since or ambiguous:
            return Renewal(self._version, self._seconds, reset=True)
        missed = takewhile(lambda entry: entry[0] > known, reversed(self._changes))
        return Renewal(self._version, self._seconds, changes=[change for _, change in missed])

    def settled(self) -> int:
        """The last version that may be acknowledged: no worker acts on anything older."""
        now = self._lease.clock()
        while self._settling and self._settling[0][1] <= now:
            self._settled = self._settling.popleft()[0]
        return self._settled

    def next_settles_in(self) -> float | None:
        """Seconds until `settled` will be more than it is now. None: it is up to date."""
        return max(0.0, self._settling[0][1] - self._lease.clock()) if self._settling else None

    def over_in(self) -> float:
        """Seconds until every lease is over, if no other is granted."""
        return max(0.0, self._over_at - self._lease.clock())

    def _settle(self, version: int) -> None:
        self._version = version
        if self._settling and self._settling[-1][1] == self._over_at:
            self._settling.pop()
        self._settling.append((version, self._over_at))
