"""An engine that records what it is asked, and misbehaves on request."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

MIB = 1024 * 1024


@dataclass(kw_only=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    header_names: list[str] = field(default_factory=list)


class FakeEngine:
    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.cancelled = asyncio.Event()
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/upload", self._upload)
        app.router.add_get("/download", self._download)
        app.router.add_get("/events", self._events)
        app.router.add_get("/silent", self._silent)
        app.router.add_get("/held", self._held)
        app.router.add_get("/broken", self._broken)
        app.router.add_get("/reset", self._reset)
        app.router.add_get("/redirect", self._redirect)
        app.router.add_get("/socket", self._socket)
        app.router.add_post("/duplex", self._duplex)
        app.router.add_route("*", "/{tail:.*}", self._echo)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _record(self, request: web.Request, body: bytes) -> None:
        self.seen.append(
            Seen(
                method=request.method,
                path=request.raw_path,
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
                header_names=[name.decode().lower() for name, _ in request.raw_headers],
            )
        )

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        self._record(request, await request.read())
        headers = {
            "x-engine": "yes",
            "x-orch8-secret": "internal",
            "fly-request-id": "internal",
            "ratelimit-remaining": "the engine's own",
            "connection": "x-hop",
            "x-hop": "1",
        }
        return web.Response(status=int(request.query.get("answer", "200")), headers=headers, body=b"from the engine")

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response({"size": size})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = int(request.query["mib"]) * MIB
        await answer.prepare(request)
        for _ in range(int(request.query["mib"])):
            await answer.write(bytes(MIB))
        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: first\n\n")
        self.reached.set()
        await self._until_cancelled()
        return answer

    async def _silent(self, request: web.Request) -> web.StreamResponse:
        self.reached.set()
        await self._until_cancelled()
        return web.Response()

    async def _held(self, request: web.Request) -> web.StreamResponse:
        """An answer of unknown length that begins when the test says so."""
        self.reached.set()
        await self.release.wait()
        answer = web.StreamResponse(headers={"x-engine": "yes"})
        await answer.prepare(request)
        await answer.write(b"late")
        return answer

    async def _until_cancelled(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if request.query.get("length"):
            answer.content_length = 1000
        await answer.prepare(request)
        await answer.write(b"half")
        assert request.transport is not None
        request.transport.abort() if request.query.get("abort") else request.transport.close()
        return answer

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        self._record(request, b"")
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _redirect(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    async def _duplex(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for chunk in request.content.iter_any():
            await answer.write(b"got " + chunk)
        return answer

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("chat",), compress=False)
        self._record(request, b"")
        await socket.prepare(request)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and message.data == "bye":
                    await socket.close(code=4001, message=b"as you wish")
                elif message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        finally:
            self.cancelled.set()
        return socket
