"""Watches the long answers that Envoy carries: Envoy asks when one begins, and is told when it must end.

Envoy asks by its external processing protocol (processing.proto). Short answers, whose length is known, do not ask.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orch8cloud.dataplane.v1 import processing_pb2 as pb

from rest_bridge.proxy import refusals
from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.passes import BadPass, Pass
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.streams import Streams
from server.domain.addresses import Address
from server.listening import CannotListen, private_files

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
# Where Envoy keeps what the decision told it, and under which name the pass is there.
DECISION = "envoy.filters.http.ext_authz"
PASS = "x-orch8-pass"  # noqa: S105 - it lets nobody in
# Where Envoy puts what it tells of the answer, and what it calls one that came from the engine.
PROCESSING = "envoy.filters.http.ext_proc"
FROM_ENGINE = "via_upstream"
# What Envoy calls the cause of an answer that we gave instead of the engine's.
CUT = "stream_cut"
GRACE_S = 0.2

Requests: TypeAlias = AsyncIterator[pb.ProcessingRequest]
_GO_ON = pb.ProcessingResponse(response_headers=pb.ResponseHeaders())
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 256 * 1024),
    # Envoy asks every two seconds whether we still live.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
)


class _Health(health_pb2_grpc.HealthServicer):
    """Tells Envoy whether this proxy takes more streams."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    async def Check(self, _request: Any, _context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802 - gRPC's
        """Answers as /readyz does."""
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if self._is_ready() else kinds.NOT_SERVING)


class Processor:
    """The gRPC server that Envoy asks."""

    def __init__(self, streams: Streams, is_ready: Callable[[], bool]) -> None:
        self._streams = streams
        self._server = grpc.aio.server(options=_OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(
            self._process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Process": method})
        self._server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(_Health(is_ready), self._server)

    @asynccontextmanager
    async def listening(self, address: Address) -> AsyncIterator[None]:
        """Listens for as long as the context lasts; what is open then is cut, for nobody would watch it.

        Raises CannotListen.
        """
        try:
            with private_files():
                self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise CannotListen(f"The proxy cannot listen on {address}: is it in use?") from error
        await self._server.start()
        try:
            yield
        finally:
            self._streams.cut_all()
            await self._server.stop(GRACE_S)

    async def _process(self, requests: Requests, _context: Any) -> AsyncIterator[pb.ProcessingResponse]:
        first = await anext(requests)
        if _is_envoys_own(first):
            yield _GO_ON
            return
        try:
            passed = _pass(first)
        except BadPass:
            yield _instead(refusals.not_in_touch())
            return
        cut: asyncio.Queue[Refusal] = asyncio.Queue()
        with self._streams.watched(passed, cut.put_nowait):
            problem = await self._problem(passed)
            if problem is None:
                yield _GO_ON
                problem = await _first(cut, requests)
        if problem is not None:
            yield _instead(problem)

    async def _problem(self, passed: Pass) -> Refusal | None:
        try:
            return await self._streams.problem(passed)
        except ServerAway:
            return refusals.not_in_touch()


async def _first(cut: asyncio.Queue[Refusal], requests: Requests) -> Refusal | None:
    """Waits for the cut, or for Envoy to say that the answer has ended (then None)."""
    cutting, ended = asyncio.create_task(cut.get()), asyncio.create_task(_drained(requests))
    try:
        await asyncio.wait((cutting, ended), return_when=asyncio.FIRST_COMPLETED)
        return cutting.result() if cutting.done() else None
    finally:
        cutting.cancel()
        ended.cancel()


async def _drained(requests: Requests) -> None:
    async for _ in requests:
        pass


def _is_envoys_own(request: pb.ProcessingRequest) -> bool:
    """Whether the answer is not the engine's: then there is nothing to watch, and perhaps no pass."""
    details = request.attributes[PROCESSING].fields["response.code_details"].string_value
    return details not in ("", FROM_ENGINE)


def _pass(request: pb.ProcessingRequest) -> Pass:
    noted = request.metadata_context.filter_metadata[DECISION].fields[PASS].string_value
    return Pass.parse(noted)


def _instead(problem: Refusal) -> pb.ProcessingResponse:
    """The refusal, as Envoy answers it where the engine's answer has not begun."""
    headers = [
        pb.HeaderOption(header=pb.Header(key=name.decode(), raw_value=value))
        for name, value in problem.headers
        if name != b"content-length"
    ]
    return pb.ProcessingResponse(
        immediate_response=pb.ImmediateResponse(
            status=pb.Status(code=problem.status),
            headers=pb.HeaderMutation(set_headers=headers),
            body=problem.body,
            details=CUT,
        )
    )
