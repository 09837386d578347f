"""Fly's proxy: one address for all machines, where a header says which one is meant."""

from collections.abc import AsyncIterator

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.support.fly.cloud import Fly
from tests.support.fly.model import Machine

PIN = "fly-force-instance-id"
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", PIN)


class Edge:
    """Forwards to the machine that is named; 502 where there is none, 503 where it does not run. It starts none.

    Where machines run no engines it answers everything itself, as if they were ready.
    """

    def __init__(self, fly: Fly, http: httpx.AsyncClient) -> None:
        self._fly = fly
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        pin = request.headers.get(PIN)
        if pin is None:
            return PlainTextResponse("no machine was asked for", 502)
        machine = self._fly.machines.get(pin)
        if machine is None or machine.state == "destroyed":
            return PlainTextResponse("", 502)
        port = _port(machine)
        if machine.state != "started" or machine.cordoned or port is None:
            return PlainTextResponse("", 503)
        if not self._fly.runs_engines:
            return JSONResponse({"version": "no engine", "machine": machine.id})
        return await self._forward(request, f"http://{machine.private_ip}:{port}")

    async def _forward(self, request: Request, origin: str) -> Response:
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        made = self._http.build_request(
            request.method, origin + target, headers=headers, content=await request.body(), timeout=30
        )
        try:
            answer = await self._http.send(made, stream=True)
        except httpx.TransportError:
            return PlainTextResponse("", 502)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        kept["fly-request-id"] = "01EDGE"
        kept["via"] = "1.1 fly.io"
        return StreamingResponse(_bytes(answer), answer.status_code, kept)


async def _bytes(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _port(machine: Machine) -> int | None:
    services = machine.config.get("services") or [{}]
    port = services[0].get("internal_port")
    return int(port) if port else None
