"""The small HTTP listener for those who run the product: /healthz, /readyz and /metrics. Never for the world."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import uvicorn

from server.domain.addresses import Address
from server.listening import close_socket, open_socket
from server.telemetry.stopping import Stopping

TEXT = "text/plain; version=0.0.4; charset=utf-8"
# Both are asked every few seconds, by few.
ANSWER_WITHIN_S = 3.0
AT_ONCE = 16

_Scope: TypeAlias = MutableMapping[str, Any]
_Answer: TypeAlias = tuple[int, str, bytes]


class NotReady(Exception):
    """The process cannot do its work now. The message is one word or two: the part that is missing."""


class Probes:
    """An ASGI app. `ready` raises NotReady; `metrics` gives them as Prometheus reads them."""

    def __init__(
        self,
        *,
        ready: Callable[[], Awaitable[None]],
        metrics: Callable[[], Awaitable[bytes]],
        stopping: Stopping,
    ) -> None:
        self._ready = ready
        self._metrics = metrics
        self._stopping = stopping

    async def __call__(self, scope: _Scope, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answers one request. There is nothing to be changed here, so the method does not matter."""
        if scope["type"] != "http":
            return
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, kind, body = await self._answer(scope["path"])
        except TimeoutError:
            status, kind, body = _said(503, "not ready", "it does not answer in time")
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str) -> _Answer:
        if path == "/healthz":
            return _said(200, "ok")
        if path == "/readyz":
            return await self._readiness()
        if path == "/metrics":
            return 200, TEXT, await self._metrics()
        return _said(404, "nothing is here: ask /healthz, /readyz or /metrics")

    async def _readiness(self) -> _Answer:
        if self._stopping.told.is_set():
            return _said(503, "not ready", "stopping")
        try:
            await self._ready()
        except NotReady as error:
            return _said(503, "not ready", str(error))
        return _said(200, "ready")


def _said(status: int, what: str, why: str | None = None) -> _Answer:
    body = {"status": what} | ({} if why is None else {"why": why})
    return status, "application/json", json.dumps(body).encode()


class Server(uvicorn.Server):
    """uvicorn that leaves signals to us: what comes after it must still run."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@asynccontextmanager
async def listening(address: Address | None, part: str, probes: Probes) -> AsyncIterator[None]:
    """Answers on the address for as long as the context lasts; not at all without one. Raises CannotListen."""
    if address is None:
        yield
        return
    opened = open_socket(address, part)
    server = _server(probes)
    serving = asyncio.create_task(server.serve(sockets=[opened]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        close_socket(opened, address)


def _server(probes: Probes) -> Server:
    return Server(
        uvicorn.Config(
            probes,
            ws="none",
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
            server_header=False,
            date_header=False,
            limit_concurrency=AT_ONCE,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
    )
