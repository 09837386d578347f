"""Fly on free ports of this machine: its API, and its proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
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
        _served(Api(fly), Edge(fly, http)) as addresses,
    ):
        fly.api_url, fly.edge_url = addresses
        try:
            yield fly
        finally:
            await fly.close()
    assert not fly.violations, fly.violations


@asynccontextmanager
async def _served(*apps: Callable[..., Any]) -> AsyncIterator[list[str]]:
    """Serves applications in this process, each on a free port; gives their addresses."""
    servers = [uvicorn.Server(_config(app)) for app in apps]
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in apps]
        for listening in sockets:
            listening.bind(("127.0.0.1", 0))
        tasks = [asyncio.create_task(server._serve([one])) for server, one in zip(servers, sockets, strict=True)]
        while not all(server.started for server in servers):
            await asyncio.sleep(0.005)
        try:
            yield [f"http://127.0.0.1:{listening.getsockname()[1]}" for listening in sockets]
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*tasks)


def _config(app: Callable[..., Any]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
    )
