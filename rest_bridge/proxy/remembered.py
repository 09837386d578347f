"""Answers edges that repeat decisions by themselves (envoy/remembered.lua, which is the other half of this protocol).

A busy worker of Envoy asks here, by POST, instead of by ext_authz. The answer renews the worker's lease and tells what
has changed since the last one (edge_leases.py). If the question was about a request, and the request passes, the answer
also holds all that the worker needs to answer the same question alike: instance and Authorization header, exactly. So
only decisions that depend on nothing else are asked about. What was repeated is counted, and charged to the plan's
rates, with the next question.

The question's body is a line with the version that the worker knows of, and a line for each sort of request that it has
let pass since: `u`, a number, and whose they were. The answer is lines too, which begin with a word: `v` the lease, `t`
new terms for each `u`, `i` and `k` a change of an instance or a key, `e` the decision.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from secrets import token_hex

from rest_bridge.proxy.decider import TRACE, Admission, Decider
from rest_bridge.proxy.decision_counts import DecisionCounts
from rest_bridge.proxy.edge_leases import Renewal
from rest_bridge.proxy.headers import Header, Headers, get_all
from rest_bridge.proxy.limits import Allowance, Limiter
from rest_bridge.proxy.records import Records
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.targets import parse
from rest_bridge.proxy.traffic import Traffic
from rest_bridge.proxy.trail import Trail
from server.domain.decisions import Credential, KeyCredential, TokenCredential

EDGE_PATH = "/edge"
ASKED_HEADER = b"x-orch8-asked"
DRAWN_HEADER = b"x-orch8-drawn"
MAX_QUESTION = 64 * 1024

NONE = "-"
# The version that a worker sends which only reports.
ONLY_COUNTS = "counts"
# For so long a decision is fresh; then one request asks again, and others go on for a moment more. Whatever takes an
# API key's access away is told, so asking again is a precaution only; an issuer may withdraw the key behind a token
# without a word, so tokens are asked about more often. Entries have their turns at different times.
FRESH_S = (600.0, 900.0)
FRESH_TOKEN_S = (10.0, 15.0)
MORE_S = 2.0
# Less than remembered.lua waits: whoever it gave up must be decided, counted and charged only once, by ext_authz.
PATIENCE_S = 0.7
_FIELD = "\t"


class BadQuestion(Exception):
    """No edge of ours asks so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Whose:
    """Under which names requests are counted and charged."""

    instance_id: str
    org_id: str
    key_id: str | None
    policy_id: str | None

    @classmethod
    def parse(cls, text: str) -> "Whose":
        """Reads what `text` wrote. Raises BadQuestion."""
        try:
            instance_id, org_id, key_id, policy_id = text.split(" ")
        except ValueError:
            raise BadQuestion from None
        key, policy = (None if each == NONE else each for each in (key_id, policy_id))
        return cls(instance_id=instance_id, org_id=org_id, key_id=key, policy_id=policy)

    def text(self) -> str:
        """The names in one line."""
        return f"{self.instance_id} {self.org_id} {self.key_id or NONE} {self.policy_id or NONE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a worker says. `version`: None where it remembers nothing. `used`: how many requests, and whose."""

    version: int | None
    wants_lease: bool
    used: tuple[tuple[int, Whose], ...]

    @classmethod
    def parse(cls, body: bytes) -> "Question":
        """Reads what remembered.lua wrote. Raises BadQuestion."""
        try:
            first, *lines = body.decode("ascii").split("\n")
            version = None if first in (NONE, ONLY_COUNTS) else int(first)
            return cls(version=version, wants_lease=first != ONLY_COUNTS, used=tuple(map(_used, lines)))
        except ValueError:
            raise BadQuestion from None


def _used(line: str) -> tuple[int, Whose]:
    word, number, whose = line.split(" ", 2)
    if word != "u" or not number.isdecimal():
        raise BadQuestion
    return int(number), Whose.parse(whose)


class Remembered:
    """The proxy's side of decisions that edges repeat."""

    def __init__(
        self,
        *,
        decider: Decider,
        knowledge: Knowledge,
        traffic: Traffic,
        limiter: Limiter,
        records: Records,
        counts: DecisionCounts,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._decider = decider
        self._knowledge = knowledge
        self._traffic = traffic
        self._limiter = limiter
        self._records = records
        self._counts = counts
        self._clock = clock

    async def answer(self, headers: Headers, body: bytes, decision_id: bytes) -> bytes:
        """Answers one question. Raises BadQuestion."""
        question = Question.parse(body)
        terms = [f"t {self._note(requests, whose)}" for requests, whose in question.used]
        entry = await self._entry(headers, decision_id)
        if not question.wants_lease:
            return b""
        # Nothing may change between the lease and the entry's version, so no await is between them.
        renewal = self._knowledge.edges.renew(question.version)
        lines = [self._lease(renewal), *terms, *renewal.changes, *([entry(renewal.version)] if entry else ())]
        return "\n".join(lines).encode()

    def _lease(self, renewal: Renewal) -> str:
        milliseconds = int(renewal.seconds * 1000)
        return f"v {renewal.version} {milliseconds} {int(renewal.reset)} {self._records.sample} {token_hex(12)}"

    def _note(self, requests: int, whose: Whose) -> str:
        """Counts and charges what an edge let pass, and says what may pass from now on."""
        self._counts.repeated(requests)
        self._traffic.count(whose.instance_id, whose.key_id, whose.policy_id, 200, self._clock(), requests)
        return self._terms(whose, requests)

    def _terms(self, whose: Whose, requests: int = 0) -> str:
        """How many requests of the organization and of the key may pass unasked, and what callers are told."""
        route = self._knowledge.known_route(whose.instance_id)
        if route is None:
            return "0 0 - - -"
        allowance = self._limiter.charge_passed(
            whose.org_id, whose.key_id, route.limits, proxies=self._knowledge.proxies, requests=requests
        )
        return _terms(allowance)

    async def _entry(self, headers: Headers, decision_id: bytes) -> Callable[[int], str] | None:
        """The decision about the request that was asked about, if any, and if it passes."""
        asked = get_all(headers, ASKED_HEADER)
        if not asked:
            return None
        method, _, path = asked[0].partition(b" ")
        target = parse(path)
        if target is None or target.slug is not None:
            return None
        since = self._knowledge.version
        trail = Trail(decision_id, method.decode("latin-1"), target)
        try:
            async with asyncio.timeout(PATIENCE_S):
                admission = await self._decider.admit(trail, headers, drawn=bool(get_all(headers, DRAWN_HEADER)))
        except TimeoutError:
            return None
        if admission is None:
            return None
        return lambda version: self._told(admission, trail, lasting=version == since)

    def _told(self, admission: Admission, trail: Trail, *, lasting: bool) -> str:
        """The decision as one line. It is good for this request only where it may be about what was (not `lasting`)."""
        assert trail.route is not None
        target = trail.route.target
        whose = Whose(
            instance_id=target.instance_id, org_id=target.org_id, key_id=trail.key_id, policy_id=trail.policy_id
        )
        key = trail.credential.digest if isinstance(trail.credential, KeyCredential) else None
        fields = (
            "e",
            trail.decision_id.decode(),
            *self._good_for(trail.credential, lasting=lasting),
            whose.text(),
            NONE if key is None else key.hex(),
            self._terms(whose),
            admission.passed.text(),
            b",".join(admission.removed).decode(),
            *(text.decode("latin-1") for header in _set(admission) for text in header),
        )
        return _FIELD.join(fields)

    def _good_for(self, credential: Credential | None, *, lasting: bool) -> tuple[str, str]:
        """Milliseconds for which the decision is fresh, and for which it may be repeated."""
        bounds = FRESH_TOKEN_S if isinstance(credential, TokenCredential) else FRESH_S
        fresh = random.uniform(*bounds) if lasting else 0.0  # noqa: S311 - when it is asked again is no secret
        left = max(0.0, _ends_at(credential) - self._clock())
        good = min(fresh + MORE_S, left) if lasting else 0.0
        return str(int(fresh * 1000)), str(int(good * 1000))


def _ends_at(credential: Credential | None) -> float:
    """When the credential ends by itself, in seconds since 1970."""
    if isinstance(credential, TokenCredential):
        return _expiry(credential)
    if isinstance(credential, KeyCredential) and credential.expires_at is not None:
        return credential.expires_at.timestamp()
    return math.inf


def _expiry(token: TokenCredential) -> float:
    """When a token ends, in seconds since 1970: tokens.py lets none pass without a number there."""
    expiry = token.claims["exp"]
    return float(expiry) if isinstance(expiry, int | float) else 0.0


def _terms(allowance: Allowance) -> str:
    shares = (NONE if left is None else str(left) for left in (allowance.organization, allowance.key))
    tightest = allowance.tightest
    told = (tightest.limit, tightest.remaining, tightest.reset) if tightest is not None else (NONE, NONE, NONE)
    return " ".join(map(str, (*shares, *told)))


def _set(admission: Admission) -> Iterator[Header]:
    """The headers that the engine is sent. The trace is left out: each request has its own."""
    for headers in (admission.upstream.routing, admission.added):
        yield from (header for header in headers if header[0] != TRACE)
