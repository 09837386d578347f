"""The decision about one request: who calls, may it pass, and what the engine must be told."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rest_bridge.proxy import refusals
from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.credentials import SeveralCredentials, bearer
from rest_bridge.proxy.decision_counts import DecisionCounts
from rest_bridge.proxy.entries import RUNNING, Route, Upstream
from rest_bridge.proxy.headers import SIGNATURE, Header, Headers, asks_for_stream, get_all, header_text, without_session
from rest_bridge.proxy.limits import Limiter, Standing
from rest_bridge.proxy.passes import Pass
from rest_bridge.proxy.records import Records
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.signing import signed_headers
from rest_bridge.proxy.starts import starts_run
from rest_bridge.proxy.streams import Streams
from rest_bridge.proxy.traffic import Traffic
from rest_bridge.proxy.trail import Trail
from server.domain.decisions import API_KEY, Credential, Decision, Guard, KeyCredential, decide
from server.identity.credentials import Tokens, identify
from server.identity.issuers import IssuerUnreachable
from server.identity.turns import TooManyWaiting

DECISION_HEADER = b"x-orch8-decision-id"
TRACE = b"traceparent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The request passes: where to, with which headers set, and which of the caller's removed.

    The answer carries `answer_headers` too.
    """

    upstream: Upstream
    added: Sequence[Header] = field(repr=False)
    removed: tuple[bytes, ...]
    passed: Pass
    answer_headers: Headers = ()


def new_decision_id() -> bytes:
    """`dec_` and 80 random bits: names one decision in the explanation and in the logs."""
    return b"dec_" + os.urandom(10).hex().encode()


def new_trace() -> bytes:
    """The W3C trace context of a request that came without one; not sampled."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00".encode()


class Decider:
    """Decides, from memory where it can."""

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        tokens: Tokens,
        traffic: Traffic,
        records: Records,
        limiter: Limiter,
        streams: Streams,
        session_cookie: str,
        counts: DecisionCounts,
    ) -> None:
        self._knowledge = knowledge
        self._tokens = tokens
        self._traffic = traffic
        self._records = records
        self._limiter = limiter
        self._streams = streams
        self._session_cookie = session_cookie.encode()
        self._counts = counts

    async def decide(self, trail: Trail, headers: Headers, body: bytes) -> Admission | Refusal:
        """Decides about the request that begins this trail. `body` is signed where we hold the trigger's secret."""
        began = time.perf_counter()
        fresh = self._knowledge.is_fresh()
        answer = await self._made(trail, headers, body) if fresh else refusals.not_in_touch()
        self._counts.decided(answer, began)
        if trail.route is not None:
            self._note(trail, answer)
        return answer

    async def admit(self, trail: Trail, headers: Headers, *, drawn: bool) -> Admission | None:
        """Decides as `decide` does, for an edge that repeats the decision whatever the method and the path are.

        None, and nothing noted, where the request does not pass or the decision depends on them: then ask `decide`.
        """
        began = time.perf_counter()
        repeats = self._knowledge.is_fresh() and not await self._is_capped(trail.path.instance_id)
        answer = await self._made(trail, headers, b"") if repeats else None
        if not isinstance(answer, Admission):
            return None
        self._counts.decided(answer, began)
        self._note(trail, answer, drawn=drawn)
        return answer

    async def _is_capped(self, instance_id: str) -> bool:
        """Whether some requests to the instance are refused for what they start, or nobody can tell."""
        try:
            route = await self._knowledge.route(instance_id)
        except ServerAway:
            return True
        return route is not None and route.cap(datetime.now(UTC)) is not None

    async def _made(self, trail: Trail, headers: Headers, body: bytes) -> Admission | Refusal:
        try:
            return await self._decide(trail, headers, body)
        except ServerAway:
            return refusals.not_in_touch()
        except SeveralCredentials:
            trail.problem = "The request has more than one Authorization header"
            return refusals.several_credentials()
        except IssuerUnreachable as error:
            trail.problem = str(error)
            return refusals.issuer_unreachable()
        except TooManyWaiting:
            return refusals.too_many_unseen(trail.path.instance_id)

    async def _decide(self, trail: Trail, headers: Headers, body: bytes) -> Admission | Refusal:
        path = trail.path
        route = trail.route = await self._knowledge.route(path.instance_id)
        if route is None:
            return refusals.no_such_instance(path.instance_id)
        guards = route.guards(path.slug)
        if not guards and path.slug is not None:
            return refusals.no_such_endpoint(path.instance_id, path.slug)
        token = bearer(get_all(headers, b"authorization"))
        credential = trail.credential = await identify(
            token, guards, lambda sha256: self._knowledge.key(sha256, path.instance_id), self._tokens, path.instance_id
        )
        # What was fetched meanwhile may have taken longer than the lease.
        if not self._knowledge.is_fresh():
            return refusals.not_in_touch()
        decision = trail.decision = decide(
            target=route.target, guards=guards, credential=credential, now=datetime.now(UTC)
        )
        if decision.guard is None:
            return refusals.not_let_in(decision, credential, had_token=token is not None)
        return self._answer(trail, route, guards, decision, decision.guard, credential, headers, body)

    def _answer(
        self,
        trail: Trail,
        route: Route,
        guards: Sequence[Guard],
        decision: Decision,
        guard: Guard,
        credential: Credential,
        headers: Headers,
        body: bytes,
    ) -> Admission | Refusal:
        """The answer to a caller whom a policy, the guard, lets in."""
        path = trail.path
        if route.upstream is None or route.status != RUNNING:
            return refusals.not_running(path.instance_id, route.status)
        if route.start_cap is not None and starts_run(trail.method, path):
            now = datetime.now(UTC)
            if (cap := route.cap(now)) is not None:
                return refusals.quota_exceeded(cap, now)
        crowded = self._streams.crowded(route.target.org_id, route.limits.open_streams)
        if crowded is not None and asks_for_stream(headers):
            return crowded
        standing = self._charge(route, credential)
        if standing is not None and standing.retry_after:
            return refusals.too_many(standing)
        added: list[Header] = [
            (b"x-gateway-provider", (decision.provider or "").encode()),
            (b"x-gateway-subject", header_text(decision.subject or "")),
            *route.upstream.headers,
        ]
        if not get_all(headers, TRACE):
            added.append((TRACE, new_trace()))
        removed = [b"authorization"]
        self._cookies(headers, added, removed)
        if path.slug is None:
            removed.append(SIGNATURE)
        elif secret := _trigger_secret(guard, guards):
            added += signed_headers(secret, body)
        return Admission(
            upstream=route.upstream,
            added=added,
            removed=tuple(removed),
            passed=_passed(route, guard, credential),
            answer_headers=standing.headers if standing is not None else (),
        )

    def _charge(self, route: Route, credential: Credential) -> Standing | None:
        key_id = credential.key_id if isinstance(credential, KeyCredential) else None
        return self._limiter.charge(route.target.org_id, key_id, route.limits, proxies=self._knowledge.proxies)

    def _cookies(self, headers: Headers, added: list[Header], removed: list[bytes]) -> None:
        others = without_session(get_all(headers, b"cookie"), self._session_cookie)
        if others:
            added.append((b"cookie", others))
        elif others is not None:
            removed.append(b"cookie")

    def _note(self, trail: Trail, answer: Admission | Refusal, *, drawn: bool = False) -> None:
        """Counts the request, and has its decision recorded."""
        now = time.time()
        refusal = answer if isinstance(answer, Refusal) else None
        status = refusal.status if refusal else 200
        self._traffic.count(trail.path.instance_id, trail.key_id, trail.policy_id, status, now)
        self._records.note(trail, refusal, now, drawn=drawn)


def _passed(route: Route, guard: Guard, credential: Credential) -> Pass:
    """What has to stay true for the answer to go on. A key that was not what let the caller in does not matter."""
    mark, instance_id, org_id = route.marks[guard.policy_id], route.target.instance_id, route.target.org_id
    if guard.provider != API_KEY or not isinstance(credential, KeyCredential):
        return Pass(instance_id=instance_id, org_id=org_id, mark=mark)
    expires = credential.expires_at
    until = expires.timestamp() if expires is not None else None
    return Pass(instance_id=instance_id, org_id=org_id, mark=mark, key=credential.digest, until=until)


def _trigger_secret(accepted: Guard | None, guards: Sequence[Guard]) -> str | None:
    """The secret of the trigger: that of the policy which let the caller in, else of any other of the slug."""
    own = accepted.trigger_secret if accepted is not None else None
    return own or next((guard.trigger_secret for guard in guards if guard.trigger_secret), None)
