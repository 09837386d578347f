"""How many requests an organization, and each of its keys, may send (server/plans.toml): token buckets.

Only requests that are let in are charged, so strangers cannot use up what belongs to an organization. The key's bucket
and the organization's are charged both or neither. A key counts by itself for each organization that it calls. All
proxies together allow what the plan says: each enforces its share, and at least one request a second. So no request
waits for a coordinator; where traffic is spread unevenly, a proxy refuses before the whole is used up.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice
from typing import NamedTuple

from rest_bridge.proxy.headers import Headers
from server.domain.plans import Rate, TrafficLimits

ORGANIZATION = "organization"
KEY = "key"
MAX_BUCKETS = 100_000
# The share of what is left of a rate that one edge may let pass unasked: several may do so at once.
UNASKED = 0.25
# How many of the oldest buckets are looked at for one that can go without being missed.
EXAMINED = 16


class Standing(NamedTuple):
    """Where the tightest bucket stands once a request was charged, or refused.

    `remaining` requests of `limit` fit at once; `retry_after` is 0 where the request was charged. Times are seconds.
    """

    scope: str
    rate: Rate
    limit: int
    remaining: int
    reset: int
    retry_after: int

    @property
    def headers(self) -> Headers:
        """RateLimit-Limit, -Remaining and -Reset, of what this proxy enforces.

        They are those of draft-ietf-httpapi-ratelimit-headers up to version 06. Later versions put the same into the
        structured fields RateLimit and RateLimit-Policy, but the three are what clients and libraries read today. The
        limit is the bucket's size and the reset the time until it is full. Where a request is refused, the reset is the
        time of Retry-After: the draft wants both to name one moment.
        """
        return (
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % (self.retry_after or self.reset)),
        )


class Allowance(NamedTuple):
    """How many requests of an organization and of a key may pass before the next question; None: any number."""

    organization: int | None
    key: int | None
    tightest: Standing | None


class Bucket:
    """How much of a rate is used up: so many requests at a moment, which drain away as time passes. 0: it is full.

    It holds no timer: it is drained when it is looked at.
    """

    __slots__ = ("burst", "drained_at", "per_second", "proxies", "rate", "scope", "used")

    def __init__(self, scope: str, rate: Rate, proxies: int, now: float) -> None:
        self.scope = scope
        self.used = 0.0
        self.drained_at = now
        self.size(rate, proxies)

    def size(self, rate: Rate, proxies: int) -> None:
        """Makes it the bucket of one of so many proxies that share the rate."""
        self.rate = rate
        self.proxies = proxies
        self.per_second = max(1.0, rate.per_second / proxies)
        self.burst = max(1.0, rate.burst / proxies)

    def drain(self, now: float) -> float:
        """How many requests still count."""
        if now > self.drained_at:
            used = self.used - (now - self.drained_at) * self.per_second
            self.used = used if used > 0.0 else 0.0
            self.drained_at = now
        return self.used

    def wait(self) -> float:
        """The seconds until one more request fits; at most 0 where it does."""
        return (self.used + 1.0 - self.burst) / self.per_second

    def left(self) -> float:
        """How many more fit at once."""
        return self.burst - self.used

    def standing(self, *, refused: bool) -> Standing:
        """What the caller is told."""
        return Standing(
            self.scope,
            self.rate,
            int(self.burst),
            max(0, int(self.left())),
            math.ceil(self.used / self.per_second),
            max(1, math.ceil(self.wait())) if refused else 0,
        )


class Buckets:
    """The buckets of many, within bounds. One that is missing is full, so dropping a full one loses nothing."""

    def __init__(self, scope: str, most: int = MAX_BUCKETS) -> None:
        self._scope = scope
        self._most = most
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def drained(self, owner: Hashable, rate: Rate, proxies: int, now: float) -> Bucket:
        """The bucket of an owner as it stands now."""
        bucket = self._buckets.get(owner)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._drop_one(now)
            bucket = self._buckets[owner] = Bucket(self._scope, rate, proxies, now)
            return bucket
        self._buckets.move_to_end(owner)
        bucket.drain(now)
        if bucket.rate is not rate or bucket.proxies != proxies:
            bucket.size(rate, proxies)
        return bucket

    def _drop_one(self, now: float) -> None:
        """Drops the oldest full bucket; where none of the oldest is full, the one of them that has the most left."""
        owner, _ = min(islice(self._buckets.items(), EXAMINED), key=lambda item: item[1].drain(now))
        del self._buckets[owner]


class Limiter:
    """Charges requests to buckets. `clock` gives seconds that only grow."""

    def __init__(self, *, clock: Callable[[], float], most: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._organizations = Buckets(ORGANIZATION, most)
        self._keys = Buckets(KEY, most)

    def charge(self, org_id: str, key_id: str | None, limits: TrafficLimits, *, proxies: int) -> Standing | None:
        """Charges a request, unless it is too many: then `retry_after` is not 0. None where nothing limits it."""
        buckets = self._drained(org_id, key_id, limits, proxies)
        if not buckets:
            return None
        slowest = max(buckets, key=Bucket.wait)
        if slowest.wait() > 0:
            return slowest.standing(refused=True)
        for bucket in buckets:
            bucket.used += 1.0
        return min(buckets, key=Bucket.left).standing(refused=False)

    def charge_passed(
        self, org_id: str, key_id: str | None, limits: TrafficLimits, *, proxies: int, requests: int
    ) -> Allowance:
        """Charges requests that have passed already (remembered.py), and says how many more may pass unasked.

        Where they were too many, since several edges let pass at once, the debt delays the next: the rate holds.
        """
        buckets = self._drained(org_id, key_id, limits, proxies)
        for bucket in buckets:
            bucket.used += requests
        left = {bucket.scope: max(0, int(bucket.left() * UNASKED)) for bucket in buckets}
        tightest = min(buckets, key=Bucket.left).standing(refused=False) if buckets else None
        return Allowance(organization=left.get(ORGANIZATION), key=left.get(KEY), tightest=tightest)

    def _drained(self, org_id: str, key_id: str | None, limits: TrafficLimits, proxies: int) -> list[Bucket]:
        now = self._clock()
        buckets = []
        if limits.organization is not None:
            buckets.append(self._organizations.drained(org_id, limits.organization, proxies, now))
        if limits.key is not None and key_id is not None:
            buckets.append(self._keys.drained((org_id, key_id), limits.key, proxies, now))
        return buckets
