"""What the server says, converted once into what decisions use."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2

from rest_bridge.proxy.headers import Headers, is_valid_name, is_valid_value
from server.domain.decisions import DEFAULT_GUARD, Guard, KeyCredential, Target, guards_for
from server.domain.plans import Rate, TrafficLimits
from server.domain.providers import PROVIDERS, issuer_of
from server.domain.rules import violations
from server.domain.usage import Cap

RUNNING = "running"
CLUSTER_HTTP = b"engine_http"
CLUSTER_HTTPS = b"engine_https"
MARK_LENGTH = 16


class BadEntry(Exception):
    """The server said something that no request may be decided with. The message holds no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """How to reach an engine. `authority` is its host:port; `headers` are those that it must receive, key included."""

    authority: str
    tls: bool
    headers: Headers = field(repr=False)
    routing: Headers = field(repr=False)

    @property
    def origin(self) -> str:
        """Scheme and authority of the engine's addresses."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """An instance, with its policies by what they protect."""

    target: Target
    status: str
    upstream: Upstream | None
    tunnel: tuple[Guard, ...]
    gateway: Mapping[str, tuple[Guard, ...]]
    limits: TrafficLimits
    marks: Mapping[str, str]
    """By policy id, a mark that changes with the policy: who holds it was let in by what still stands."""
    start_cap: Cap | None

    def cap(self, now: datetime) -> Cap | None:
        """What keeps requests from starting runs at this moment."""
        return self.start_cap if self.start_cap is not None and now < self.start_cap.until else None

    def guards(self, slug: str | None) -> tuple[Guard, ...]:
        """The policies that protect a slug, or the tunnel. Empty: no such gateway endpoint."""
        return self.tunnel if slug is None else self.gateway.get(slug, ())


def route_from(message: dataplane_pb2.Route) -> Route:
    """Converts an instance. Raises BadEntry: better no answer than a wrong one."""
    guards = tuple(_guard(policy) for policy in message.policies)
    tunnel = guards_for(guards, None)
    slugs = {guard.slug for guard in guards if guard.slug is not None}
    return Route(
        target=Target(instance_id=message.instance_id, org_id=message.org_id),
        status=message.status,
        upstream=_upstream(message.upstream) if message.HasField("upstream") else None,
        tunnel=tunnel,
        gateway={slug: guards_for(guards, slug) for slug in slugs},
        limits=_limits(message.limits),
        marks={policy.policy_id: _mark(policy) for policy in message.policies}
        | ({DEFAULT_GUARD.policy_id: DEFAULT_GUARD.policy_id} if tunnel == (DEFAULT_GUARD,) else {}),
        start_cap=_start_cap(message.start_cap) if message.HasField("start_cap") else None,
    )


def key_from(message: dataplane_pb2.Key, digest: bytes) -> KeyCredential:
    """Converts an API key, which was asked for by its digest. Raises BadEntry."""
    if not is_valid_value(message.prefix):
        raise BadEntry(f"the prefix of key {message.key_id} is no header value")
    return KeyCredential(
        key_id=message.key_id,
        org_id=message.org_id,
        prefix=message.prefix,
        instance_id=message.instance_id if message.HasField("instance_id") else None,
        revoked_at=_time(message.revoked_at) if message.HasField("revoked_at") else None,
        expires_at=_time(message.expires_at) if message.HasField("expires_at") else None,
        digest=digest,
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _guard(policy: dataplane_pb2.RoutePolicy) -> Guard:
    allow: Any = MessageToDict(policy.allow)  # the annotation of a ListValue is wrong: it becomes a list
    problem = next(violations(allow), None)
    if problem is not None:
        raise BadEntry(f"policy {policy.policy_id}: {problem.field} {problem.description}")
    row = PROVIDERS.get(policy.provider)
    if row is None:
        raise BadEntry(f"policy {policy.policy_id}: its provider is unknown here")
    named = policy.issuer if policy.HasField("issuer") else None
    return Guard(
        policy_id=policy.policy_id,
        provider=policy.provider,
        issuer=issuer_of(policy.provider, named, MessageToDict(policy.config)),
        audience=policy.audience if policy.HasField("audience") else None,
        slug=policy.slug if policy.HasField("slug") else None,
        allow=tuple(allow),
        trigger_secret=policy.trigger_secret or None,
    )


def _mark(policy: dataplane_pb2.RoutePolicy) -> str:
    """Alike in every proxy. The trigger's secret is left out: it decides about nobody."""
    unsigned = dataplane_pb2.RoutePolicy()
    unsigned.CopyFrom(policy)
    unsigned.ClearField("trigger_secret")
    return hashlib.sha256(unsigned.SerializeToString(deterministic=True)).hexdigest()[:MARK_LENGTH]


def _limits(message: dataplane_pb2.Limits) -> TrafficLimits:
    return TrafficLimits(
        organization=_rate(message.organization) if message.HasField("organization") else None,
        key=_rate(message.key) if message.HasField("key") else None,
        open_streams=message.open_streams if message.HasField("open_streams") else None,
    )


def _start_cap(message: dataplane_pb2.StartCap) -> Cap:
    return Cap(plan=message.plan, quota=message.quota, until=_time(message.until))


def _rate(message: dataplane_pb2.Rate) -> Rate:
    if message.per_second < 1 or message.burst < 1:
        raise BadEntry("a rate of requests is less than 1")
    return Rate(per_second=message.per_second, burst=message.burst)


def _upstream(message: dataplane_pb2.Upstream) -> Upstream:
    host = f"[{message.host}]" if ":" in message.host else message.host
    authority = f"{host}:{message.port}"
    wanted = {"x-api-key": message.engine_key} if message.engine_key else {}
    wanted |= {name.lower(): value for name, value in message.headers.items()}
    for name, value in (*wanted.items(), ("host", authority)):
        if not (is_valid_name(name) and is_valid_value(value)):
            raise BadEntry(f"the upstream's header {name!r} cannot be sent")
    return Upstream(
        authority=authority,
        tls=message.tls,
        headers=tuple((name.encode(), value.encode()) for name, value in wanted.items()),
        routing=(
            (b"x-orch8-upstream", authority.encode()),
            (b"x-orch8-cluster", CLUSTER_HTTPS if message.tls else CLUSTER_HTTP),
        ),
    )
