"""What stands around Envoy in these tests: gRPC server, decision app, engine, and a caller that sends bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import httpx
import uvicorn
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status

from rest_bridge.envoy.descriptors import public_services
from rest_bridge.errors import DOMAIN, grpc_code
from rest_bridge.proxy.passes import Pass
from server.domain.addresses import Address
from tests.rest_bridge.envoy.forgeries import FORGED_ANSWER

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Answer = Callable[[Any, Context], Awaitable[Any]]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
PASS = Pass(instance_id="inst_1", org_id="org_1", mark="default")
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class FakeServer:
    """A real grpc.aio server of every public service; a test says what a method answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, Any, dict[str, str]]] = []

    async def _call(self, name: str, request: Any, context: Context) -> Any:
        self.seen.append((name, request, {str(k): str(v) for k, v in context.invocation_metadata() or ()}))
        return await self.answers[name](request, context)

    @asynccontextmanager
    async def serving(self, address: Address) -> AsyncIterator[None]:
        server = grpc.aio.server()
        for service in public_services():
            handlers = {method.name: self._handler(method) for method in service.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        server.add_insecure_port(str(address))
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    def _handler(self, method: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            return await self._call(method.name, request, context)

        request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        return grpc.unary_unary_rpc_method_handler(call, request.FromString, answer.SerializeToString)


def answering(message: Any, *metadata: tuple[str, str]) -> Answer:
    async def answer(_request: Any, context: Context) -> Any:
        if metadata:
            await context.send_initial_metadata(metadata)
        return message

    return answer


@dataclass
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def failing(reason: str, message: str, *trailing: tuple[str, str]) -> Answer:
    """Fails as the server does: the status in the details, and the rest of HTTP in the trailing metadata."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"why": "test"})
    status = status_pb2.Status(code=grpc_code(reason), message=message)
    status.details.add().Pack(info)

    async def answer(_request: Any, context: Context) -> Any:
        plain = rpc_status.to_status(status)
        metadata = (*plain.trailing_metadata, *trailing)
        await context.abort_with_status(_Status(plain.code, plain.details, metadata))

    return answer


@dataclass
class Seen:
    """A request as an ASGI app saw it."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def names(self) -> set[str]:
        return {name for name, _ in self.headers}


def seen(scope: Scope, body: bytes = b"") -> Seen:
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
    path = scope["raw_path"].decode("latin-1")
    return Seen(scope.get("method", "WS"), path, scope["query_string"].decode("latin-1"), headers, body)


async def read_body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def reply(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class FakeStreams:
    """Watches long answers, and lets every one go on that comes with the decision's pass."""

    async def problem(self, passed: Pass) -> None:
        assert passed == PASS

    @contextmanager
    def watched(self, passed: Pass, _cut: object) -> Iterator[None]:
        yield

    def cut_all(self) -> None:
        """None is to be cut."""


@dataclass
class FakeDecisions:
    """The decision app. By default all pass, to the engine."""

    upstream: str = ""
    answer: tuple[int, dict[str, str], bytes] | None = None
    more: dict[str, str] = field(default_factory=dict)
    asked: list[Seen] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        self.asked.append(seen(scope, await read_body(receive)))
        allow = {
            "x-orch8-pass": PASS.text(),
            "x-orch8-upstream": self.upstream,
            "x-orch8-cluster": "engine_http",
            "x-gateway-provider": "api-key",
            "x-gateway-subject": "orc8_live_12345678",
            "x-api-key": "engine-key",
            "x-envoy-auth-headers-to-remove": "authorization, cookie, x-orch8-signature",
            **self.more,
        }
        await reply(send, *(self.answer or (200, allow, b"")))


class FakeEngine:
    """An HTTP upstream that keeps what it saw, and behaves as the path says."""

    def __init__(self) -> None:
        self.saw: list[Seen] = []
        self.release = asyncio.Event()
        self.received = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._echo(scope, receive, send)
            return
        kind = scope["path"].strip("/")
        if kind == "up":
            await self._count(scope, receive, send)
        elif kind == "down":
            await self._pour(send)
        elif kind == "events":
            await self._events(send)
        elif kind == "grpc":
            await reply(send, 200, {"content-type": "application/grpc", "grpc-status": "5"}, b"frames")
        elif kind == "slow":
            await self.release.wait()
            await reply(send, 200, {})
        else:
            self.saw.append(seen(scope, await read_body(receive)))
            answer = {
                "server": "orch8/0.7",
                "x-http-status": "500",
                "content-type": "application/json",
                **FORGED_ANSWER,
            }
            await reply(send, 200, answer, b'{"engine": "%s"}' % (b"x" * 2000))

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.saw.append(seen(scope))
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.received, more = 0, True
        while more:
            message = await receive()
            self.received += len(message.get("body", b""))
            more = message.get("more_body", False)
        await reply(send, 200, {}, str(self.received).encode())

    async def _pour(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(1024 * 1024), "more_body": True})
        await send({"type": "http.response.body"})

    async def _events(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.release.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})


@asynccontextmanager
async def serving(app: App, **where: Any) -> AsyncIterator[int]:
    """Runs an ASGI app on a Unix socket (`uds`) or a free port, which it gives."""
    quiet: Any = {"lifespan": "off", "log_level": "error", "server_header": False, "ws": "websockets-sansio"}
    config = uvicorn.Config(app, host="127.0.0.1", port=0, **quiet, **where)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ticks = asyncio.create_task(server.main_loop())
    try:
        yield 0 if "uds" in where else server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await ticks
        await server.shutdown()


@dataclass
class Raw:
    """An HTTP/1.1 answer, read to the end of the connection."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


async def send_raw(address: Address, request: bytes) -> Raw:
    """Sends bytes as they are. The request has to ask for `connection: close`."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        await writer.drain()
        whole = await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Raw(int(first.split()[1]), headers, body)


async def get_raw(address: Address, path: str, *headers: str, method: str = "GET") -> Raw:
    """A request whose path nothing has cleaned up."""
    lines = [f"{method} {path} HTTP/1.1", "host: edge.test", "connection: close", *headers]
    return await send_raw(address, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def assert_error(answer: httpx.Response | Raw, status: int, reason: str) -> None:
    """Checks the contract's one shape of errors."""
    found = answer.status if isinstance(answer, Raw) else answer.status_code
    body = answer.json()
    assert found == status, body
    kind = answer.header("content-type") if isinstance(answer, Raw) else answer.headers["content-type"]
    assert kind == "application/json"
    assert set(body) == {"code", "message", "details"}, body
    assert body["code"] == grpc_code(reason), body
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, DOMAIN), body
    assert all(isinstance(value, str) for value in info["metadata"].values()), body
    assert body["message"][0].isupper()
