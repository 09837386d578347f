"""An OpenTelemetry collector: takes traces over HTTP or gRPC, and keeps their spans."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

from tests.support.stack import free_port


@dataclass(frozen=True)
class Span:
    """A span, and the part that made it."""

    part: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


@dataclass
class Collector(service.TraceServiceServicer):
    """What arrived. `endpoint` is where the parts send it."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, request: pb.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            about = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_span(about["service.name"], one) for one in scope.spans]

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.take(request)
        return pb.ExportTraceServiceResponse()

    async def take_http(self, request: web.Request) -> web.Response:
        found = pb.ExportTraceServiceRequest()
        body = await request.read()
        found.ParseFromString(body)
        self.take(found)
        return web.Response(body=pb.ExportTraceServiceResponse().SerializeToString())


def _span(part: str, one: Any) -> Span:
    attributes = {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in one.attributes
    }
    return Span(part, one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), attributes)


@asynccontextmanager
async def collecting(kind: str) -> AsyncIterator[Collector]:
    """A collector that listens, over "grpc" or "http"."""
    collector, port = Collector(), free_port()
    collector.endpoint = f"{kind}://127.0.0.1:{port}"
    if kind == "grpc":
        server = grpc.aio.server()
        service.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield collector
        finally:
            await server.stop(0)
        return
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take_http)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield collector
    finally:
        await runner.cleanup()
