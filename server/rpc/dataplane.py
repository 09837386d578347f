"""DataPlaneService over gRPC: the proxies' side of the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceServicer
from orch8cloud.v1 import decisions_pb2

from server.domain.answers import Answers
from server.domain.api_keys import ApiKey
from server.domain.plans import Rate, TrafficLimits
from server.domain.policies import Policy
from server.domain.usage import Cap
from server.errors import FieldViolation, InvalidArgument
from server.rpc.convert import list_value, moment, struct
from server.services.dataplane import AnswerCount, DataPlane, Route, TrafficCount
from server.services.decisions import DecisionsService, ReportedDecision
from server.services.propagation import Heartbeat, Message, Overrun, Propagation, WatchSession, Welcome
from server.store.changes import Change

MAX_DECISIONS = 1_000
# 9999-01-01.
END_OF_TIME = 253_370_764_800

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger(__name__)


class DataPlaneServicer(DataPlaneServiceServicer):
    """Feeds the proxies."""

    def __init__(self, dataplane: DataPlane, decisions: DecisionsService, propagation: Propagation) -> None:
        self._dataplane = dataplane
        self._decisions = decisions
        self._propagation = propagation

    async def GetRoute(self, request: pb.GetRouteRequest, context: Context) -> pb.Route:
        """See dataplane.proto."""
        return _route(await self._dataplane.route(request.instance_id))

    async def GetKey(self, request: pb.GetKeyRequest, context: Context) -> pb.Key:
        """See dataplane.proto."""
        return _key(await self._dataplane.key(request.sha256))

    async def ReportTraffic(self, request: pb.ReportTrafficRequest, context: Context) -> pb.ReportTrafficResponse:
        """See dataplane.proto."""
        counts, answers = map(_count, request.counts), map(_answers, request.answers)
        await self._dataplane.report(list(counts), list(answers))
        return pb.ReportTrafficResponse()

    async def ReportDecisions(self, request: pb.ReportDecisionsRequest, context: Context) -> pb.ReportDecisionsResponse:
        """See dataplane.proto."""
        if len(request.decisions) > MAX_DECISIONS:
            what = f"has {len(request.decisions)} records; at most {MAX_DECISIONS} are taken at once"
            raise InvalidArgument([FieldViolation(field="decisions", description=what)])
        left_out = await self._decisions.take([_reported(one) for one in request.decisions])
        if left_out:
            log.warning("decisions.left_out", proxy_id=request.proxy_id, decisions=left_out)
        for one in request.dropped:
            log.warning(
                "decisions.dropped", proxy_id=request.proxy_id, instance_id=one.instance_id, decisions=one.decisions
            )
        return pb.ReportDecisionsResponse()

    async def Watch(
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """See dataplane.proto."""
        requests = aiter(request_iterator)
        session = await self._join(await anext(requests, pb.WatchRequest()))
        log.info("proxy.connected", proxy_id=session.proxy.id)
        listener = asyncio.create_task(self._listen(requests, session))
        try:
            with suppress(Overrun):
                async for message in session.messages():
                    yield _message(message)
        finally:
            listener.cancel()
            goodbye = (await asyncio.gather(listener, return_exceptions=True))[0] is True
            await asyncio.shield(self._propagation.leave(session, goodbye=goodbye))
            log.info("proxy.disconnected", proxy_id=session.proxy.id, goodbye=goodbye)

    async def _join(self, first: pb.WatchRequest) -> WatchSession:
        hello = first.hello
        if not first.HasField("hello") or not hello.proxy_id or hello.stale_limit_ms < 0:
            raise InvalidArgument([FieldViolation(field="hello", description="must come first, with a proxy_id")])
        return await self._propagation.join(hello.proxy_id, hello.stale_limit_ms, hello.since_version)

    async def _listen(self, requests: AsyncIterator[pb.WatchRequest], session: WatchSession) -> bool:
        """Hears the proxy until it ends; True where it took leave."""
        try:
            async for request in requests:
                match request.WhichOneof("kind"):
                    case "acked_version":
                        self._propagation.acknowledge(session, request.acked_version)
                    case "heartbeat":
                        self._propagation.heartbeat(session, request.heartbeat)
                    case "goodbye":
                        return True
            return False
        finally:
            session.close()


def _message(message: Message) -> pb.WatchResponse:
    match message:
        case Welcome(version, reset, proxies):
            return pb.WatchResponse(hello=pb.ServerHello(version=version, reset=reset), proxies=proxies)
        case Heartbeat(number, proxies):
            return pb.WatchResponse(heartbeat=number, proxies=proxies)
        case Change():
            return pb.WatchResponse(change=_change(message))


def _change(change: Change) -> pb.Change:
    if change.key_sha256 is not None:
        return pb.Change(version=change.version, key_sha256=change.key_sha256)
    return pb.Change(version=change.version, instance_id=change.instance_id or "")


def _route(route: Route) -> pb.Route:
    upstream = None
    if route.upstream is not None:
        found = route.upstream
        upstream = pb.Upstream(
            host=found.host, port=found.port, tls=found.tls, engine_key=route.engine_key, headers=dict(found.headers)
        )
    return pb.Route(
        instance_id=route.instance.id,
        org_id=route.instance.org_id,
        status=route.status,
        upstream=upstream,
        policies=[_policy(policy) for policy in route.policies],
        limits=_limits(route.limits),
        start_cap=_start_cap(route.start_cap),
    )


def _start_cap(cap: Cap | None) -> pb.StartCap | None:
    return None if cap is None else pb.StartCap(plan=cap.plan, quota=cap.quota, until=_exact(cap.until))


def _limits(limits: TrafficLimits) -> pb.Limits:
    return pb.Limits(organization=_rate(limits.organization), key=_rate(limits.key), open_streams=limits.open_streams)


def _rate(rate: Rate | None) -> pb.Rate | None:
    return None if rate is None else pb.Rate(per_second=rate.per_second, burst=rate.burst)


def _policy(policy: Policy) -> pb.RoutePolicy:
    fields = policy.fields
    return pb.RoutePolicy(
        policy_id=policy.id,
        slug=fields.slug,
        provider=fields.provider,
        audience=fields.audience,
        issuer=fields.issuer,
        allow=list_value(fields.allow),
        config=struct(fields.config),
        trigger_secret=fields.trigger_secret,
    )


def _key(key: ApiKey) -> pb.Key:
    return pb.Key(
        key_id=key.id,
        org_id=key.org_id,
        instance_id=key.instance_id,
        prefix=key.prefix,
        revoked_at=_exact(key.revoked_at),
        expires_at=_exact(key.expires_at),
    )


def _exact(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _count(count: pb.TrafficCount) -> TrafficCount:
    return TrafficCount(
        instance_id=count.instance_id,
        key_id=count.key_id if count.HasField("key_id") else None,
        policy_id=count.policy_id if count.HasField("policy_id") else None,
        status=count.status,
        requests=count.requests,
        last_at=moment(count.last_at),
    )


def _answers(found: pb.AnswerCounts) -> AnswerCount:
    return AnswerCount(
        instance_id=found.instance_id,
        minute=_in_calendar(found.minute),
        answers=Answers.reported(found.kinds, found.latency),
    )


def _reported(found: decisions_pb2.Decision) -> ReportedDecision:
    at = _in_calendar(found.time)
    return ReportedDecision(id=found.id, instance_id=found.instance_id, at=at, record=found.SerializeToString())


def _in_calendar(stamp: Timestamp) -> datetime:
    """A time that no calendar has is the oldest one: what happened then is left out."""
    in_range = 0 <= stamp.seconds < END_OF_TIME
    return datetime.fromtimestamp(stamp.seconds if in_range else 0, UTC)
