"""A data plane service that keeps the protocol, with switches for everything that can go wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.dataplane.v1 import dataplane_pb2_grpc as pb_grpc

TOKEN = "a-token-of-the-data-plane"
PATIENCE = 10.0


class Gate:
    """Holds callers while it is shut, and tells when one has arrived."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = asyncio.Event()

    def shut(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    async def passing(self) -> None:
        self.reached.set()
        await self._open.wait()


class FakeDataPlane(pb_grpc.DataPlaneServiceServicer):
    def __init__(self) -> None:
        self.routes: dict[str, pb.Route] = {}
        self.keys: dict[bytes, pb.Key] = {}
        self.changes: list[pb.Change] = []
        self.version = 100
        self.hellos: list[pb.ProxyHello] = []
        self.acked: list[int] = []
        self.acked_by: dict[str, int] = {}
        self.heartbeats = 0
        self.goodbyes = 0
        self.reports: list[pb.ReportTrafficRequest] = []
        self.decisions: list[pb.ReportDecisionsRequest] = []
        self.key_reads = 0
        self.route_reads = 0
        self.tokens: set[str] = set()
        self.answers_heartbeats = True
        self.refuses = False
        self.resets = False
        self.proxies = 1
        self.key_gate = Gate()
        self.route_gate = Gate()
        self.replay_gate = Gate()
        self._streams: set[asyncio.Queue[pb.WatchResponse | None]] = set()
        self._moved = asyncio.Condition()

    # The switches.

    def change(self, *, instance_id: str | None = None, key: bytes | None = None) -> int:
        self.version += 1
        change = pb.Change(version=self.version)
        if instance_id is not None:
            change.instance_id = instance_id
        if key is not None:
            change.key_sha256 = key
        self.changes.append(change)
        for stream in self._streams:
            stream.put_nowait(pb.WatchResponse(change=change))
        return self.version

    def drop_streams(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._moved:
            await self._moved.wait_for(condition)

    async def until_acked(self, version: int) -> None:
        await self.until(lambda: version in self.acked or any(one > version for one in self.acked))

    # The service.

    async def GetRoute(self, request: pb.GetRouteRequest, context: Any) -> pb.Route:  # noqa: N802
        await self._enter(context)
        self.route_reads += 1
        found: pb.Route | None = _copy(self.routes.get(request.instance_id))
        await self.route_gate.passing()
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such instance")
        return found or pb.Route()

    async def GetKey(self, request: pb.GetKeyRequest, context: Any) -> pb.Key:  # noqa: N802
        await self._enter(context)
        self.key_reads += 1
        found: pb.Key | None = _copy(self.keys.get(request.sha256))
        await self.key_gate.passing()
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such key")
        return found or pb.Key()

    async def ReportTraffic(  # noqa: N802
        self, request: pb.ReportTrafficRequest, context: Any
    ) -> pb.ReportTrafficResponse:
        await self._enter(context)
        self.reports.append(request)
        await self._tell()
        return pb.ReportTrafficResponse()

    async def ReportDecisions(  # noqa: N802
        self, request: pb.ReportDecisionsRequest, context: Any
    ) -> pb.ReportDecisionsResponse:
        await self._enter(context)
        self.decisions.append(request)
        await self._tell()
        return pb.ReportDecisionsResponse()

    async def Watch(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        await self._enter(context)
        queue: asyncio.Queue[pb.WatchResponse | None] = asyncio.Queue()
        listener = asyncio.create_task(self._listen(request_iterator, queue))
        self._streams.add(queue)
        try:
            while (message := await queue.get()) is not None:
                yield message
                if message.HasField("hello"):
                    await self.replay_gate.passing()
        finally:
            self._streams.discard(queue)
            listener.cancel()

    async def _listen(self, requests: AsyncIterator[pb.WatchRequest], queue: Any) -> None:
        proxy_id = ""
        async for message in requests:
            kind = message.WhichOneof("kind")
            if kind == "hello":
                proxy_id = message.hello.proxy_id
                self._greet(message.hello, queue)
            elif kind == "acked_version":
                self.acked.append(message.acked_version)
                self.acked_by[proxy_id] = message.acked_version
            elif kind == "heartbeat":
                self.heartbeats += 1
                if self.answers_heartbeats:
                    queue.put_nowait(pb.WatchResponse(heartbeat=message.heartbeat, proxies=self.proxies))
            else:
                self.goodbyes += 1
                queue.put_nowait(None)
            await self._tell()

    def _greet(self, hello: pb.ProxyHello, queue: Any) -> None:
        self.hellos.append(hello)
        reset = self.resets or hello.since_version == 0
        welcome = pb.ServerHello(version=self.version, reset=reset)
        queue.put_nowait(pb.WatchResponse(hello=welcome, proxies=self.proxies))
        if not reset:
            for change in self.changes:
                if change.version > hello.since_version:
                    queue.put_nowait(pb.WatchResponse(change=change))

    async def _enter(self, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.tokens.add(str(metadata.get("x-orch8-dataplane-token", "")))
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "switched off")

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def _copy(message: Any) -> Any:
    if message is None:
        return None
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


async def serve(service: FakeDataPlane, port: int = 0) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    pb_grpc.add_DataPlaneServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound
