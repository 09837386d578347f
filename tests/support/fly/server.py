"""Fly on free ports of this machine: its API, and its proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.support.fly.api import TRANSPORT, Api
from tests.support.fly.cloud import Fly
from tests.support.fly.edge import Edge


class _Protocol(HttpToolsProtocol):
    """Lets the application close a connection without an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[TRANSPORT] = self.transport


@asynccontextmanager
async def running_fly(folder: Path, **options: Any) -> AsyncIterator[Fly]:
    """A Fly that answers. At the end nothing of it runs, and neither it nor its callers have broken the contract."""
    fly = Fly(folder, **options)
    limits = httpx.Limits(max_keepalive_connections=0)
    async with (
        httpx.AsyncClient(trust_env=False, limits=limits) as http,
        _served(Api(fly)) as fly.api_url,
        _served(Edge(fly, http)) as fly.edge_url,
    ):
        try:
            yield fly
        finally:
            await fly.close()
    assert not fly.violations, fly.violations


@asynccontextmanager
async def _served(app: Callable[..., Any]) -> AsyncIterator[str]:
    """Serves an application in this process; gives its address."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server._serve([listening]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
