"""The proxy's connections to the servers. It works with one of them, and goes on to the next when that one is away."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from orch8cloud.v1 import decisions_pb2
from structlog.typing import FilteringBoundLogger

from rest_bridge.answers import Row, to_messages
from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.entries import BadEntry, Route, key_from, route_from
from rest_bridge.proxy.traffic import Count
from server.domain.addresses import Address, Addresses
from server.domain.decisions import KeyCredential
from server.telemetry.tracing import TRACEPARENT, current

TOKEN_HEADER = "x-orch8-dataplane-token"  # noqa: S105 - the name of the header, not the token
FETCH_DEADLINE = 3.0
SILENCE_LIMIT = 3.0
GOODBYE_DEADLINE = 0.5

# Keepalive is only sent where nothing was heard for its time, so the answers to heartbeats keep it quiet.
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


if TYPE_CHECKING:
    from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceAsyncStub as _Stub

T = TypeVar("T")
WatchCall: TypeAlias = grpc.aio.StreamStreamCall[dataplane_pb2.WatchRequest, dataplane_pb2.WatchResponse]


class StreamLost(Exception):
    """The stream of changes has ended; the message says how."""


class _Server:
    """A connection to one server."""

    def __init__(self, address: Address) -> None:
        self.channel = grpc.aio.insecure_channel(str(address), options=_CHANNEL_OPTIONS)
        self.stub: _Stub = dataplane_pb2_grpc.DataPlaneServiceStub(self.channel)


class _Servers:
    """A connection to each server. One is chosen, until it is away; in an order of chance, so that each is somebody's.

    What one of them has confirmed is true on all (server/services/peers.py), so it does not matter which it is.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._all = [_Server(address) for address in random.sample(addresses.each, len(addresses))]

    def __len__(self) -> int:
        return len(self._all)

    @property
    def chosen(self) -> _Server:
        """The one to call."""
        return self._all[0]

    def away(self, server: _Server) -> None:
        """Chooses the next one, unless that was done already."""
        if server is self._all[0]:
            self._all = [*self._all[1:], server]

    async def close(self) -> None:
        """Closes all connections."""
        for server in self._all:
            await server.channel.close()


class ServerCalls:
    """The calls with one answer. Every call carries the data plane's token."""

    def __init__(self, *, addresses: Addresses, token: str, proxy_id: str, log: FilteringBoundLogger) -> None:
        self.proxy_id = proxy_id
        self.metadata = ((TOKEN_HEADER, token),)
        self._servers = _Servers(addresses)
        self._log = log

    def _in_trace(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a question that somebody's request has led to."""
        trace = current.get()
        return self.metadata if trace is None else (*self.metadata, (TRACEPARENT, trace))

    async def _ask(self, call: Callable[["_Stub"], Awaitable[T]]) -> T:
        """The answer of the first server that is not away. Raises AioRpcError as the last one that was asked."""
        for others in reversed(range(len(self._servers))):
            server = self._servers.chosen
            try:
                return await call(server.stub)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not others:
                    raise
                self._servers.away(server)
        raise AssertionError("there is at least one server")

    async def route(self, instance_id: str) -> Route | None:
        """Asks for an instance. None: there is none."""
        request = dataplane_pb2.GetRouteRequest(instance_id=instance_id)
        try:
            answer = await self._ask(
                lambda stub: stub.GetRoute(request, timeout=FETCH_DEADLINE, metadata=self._in_trace())
            )
            return route_from(answer)
        except grpc.aio.AioRpcError as error:
            _raise_unless_unknown(error)
            return None
        except BadEntry as error:
            self._log.error("unusable_route", instance_id=instance_id, problem=str(error))
            raise ServerAway from error

    async def key(self, sha256: bytes) -> KeyCredential | None:
        """Asks for a key. None: there is none."""
        request = dataplane_pb2.GetKeyRequest(sha256=sha256)
        try:
            answer = await self._ask(
                lambda stub: stub.GetKey(request, timeout=FETCH_DEADLINE, metadata=self._in_trace())
            )
            return key_from(answer, sha256)
        except grpc.aio.AioRpcError as error:
            _raise_unless_unknown(error)
            return None
        except BadEntry as error:
            self._log.error("unusable_key", problem=str(error))
            raise ServerAway from error

    async def report(self, counts: Iterable[Count], answers: Sequence[Row] = ()) -> None:
        """Reports traffic. Raises ServerAway where the report certainly did not arrive; otherwise it may be lost."""
        request = dataplane_pb2.ReportTrafficRequest(
            proxy_id=self.proxy_id, counts=[_count(one) for one in counts], answers=to_messages(answers)
        )
        try:
            await self._ask(lambda stub: stub.ReportTraffic(request, timeout=FETCH_DEADLINE, metadata=self.metadata))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ServerAway from error

    async def report_decisions(self, records: Sequence[decisions_pb2.Decision], dropped: Mapping[str, int]) -> None:
        """Reports records. Raises ServerAway where they may not have arrived: one that comes twice is stored once."""
        request = dataplane_pb2.ReportDecisionsRequest(
            proxy_id=self.proxy_id,
            decisions=records,
            dropped=[
                dataplane_pb2.DroppedDecisions(instance_id=instance_id, decisions=count)
                for instance_id, count in dropped.items()
            ],
        )
        try:
            await self._ask(lambda stub: stub.ReportDecisions(request, timeout=FETCH_DEADLINE, metadata=self.metadata))
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ServerAway from error

    def watch(self) -> "ChangeStream":
        """Opens a stream of changes. Once it is lost, the next one goes to another server."""
        server = self._servers.chosen
        return ChangeStream(server.stub.Watch(metadata=self.metadata), partial(self._servers.away, server))

    async def close(self) -> None:
        """Closes the connections."""
        await self._servers.close()


def _raise_unless_unknown(error: grpc.aio.AioRpcError) -> None:
    if error.code() is not grpc.StatusCode.NOT_FOUND:
        raise ServerAway(error.code().name) from error


def _count(one: Count) -> dataplane_pb2.TrafficCount:
    last_at = Timestamp()
    last_at.FromMicroseconds(int(one.last_at * 1_000_000))
    return dataplane_pb2.TrafficCount(
        instance_id=one.instance_id,
        key_id=one.key_id,
        policy_id=one.policy_id,
        status=one.status,
        requests=one.requests,
        last_at=last_at,
    )


class ChangeStream:
    """One Watch call. Whatever ends it raises StreamLost."""

    def __init__(self, call: WatchCall, away: Callable[[], None]) -> None:
        """`away`: called when the server is found to be away."""
        self._call = call
        self._away = away

    async def read(self) -> dataplane_pb2.WatchResponse:
        """The next message of the server, which must come within the silence limit: it answers every heartbeat."""
        try:
            async with asyncio.timeout(SILENCE_LIMIT):
                message = await self._call.read()
        except TimeoutError:
            raise self._lost("the server has gone silent") from None
        except grpc.aio.AioRpcError as error:
            raise self._lost(error.code().name) from None
        if isinstance(message, dataplane_pb2.WatchResponse):
            return message
        raise self._lost("the server ended the stream")

    async def write(self, message: dataplane_pb2.WatchRequest) -> None:
        """Says something to the server."""
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self._lost(error.code().name) from None
        except asyncio.InvalidStateError:
            raise self._lost("the stream is closed") from None

    def _lost(self, problem: str) -> StreamLost:
        self._away()
        return StreamLost(problem)

    async def finish(self) -> None:
        """Says that nothing more comes, and waits a little until the server has read it all."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(GOODBYE_DEADLINE):
                await self._call.done_writing()
                await self._call.code()

    def close(self) -> None:
        """Ends the call."""
        self._call.cancel()
