"""The two ways from a caller to an engine, each started as in production but for the process around the Python part."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from rest_bridge.envoy.answers import AnswerReports
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.proxy.app import build, new_server
from rest_bridge.proxy.processor import Processor
from rest_bridge.settings import EdgeSettings, ProxySettings
from server.domain.addresses import Address
from server.listening import close_socket, open_socket
from tests.support.calls import eventually

FREE_PORT = Address.parse("127.0.0.1:0")


@asynccontextmanager
async def serving(*, direct: bool, listen: Address = FREE_PORT, **settings: Any) -> AsyncIterator[int]:
    """A proxy that is in touch with its server. Gives its port, or 0 for a Unix socket."""
    read = ProxySettings.read(proxy_listen=listen, **settings)
    proxy = build(read, direct=direct)
    listening = open_socket(listen, "proxy")
    server = new_server(proxy.app, direct=direct)
    await proxy.start()
    task = asyncio.create_task(server.serve(sockets=[listening]))

    async def ready() -> bool:
        return bool(server.started and proxy.knowledge.is_fresh())

    await eventually(ready)
    try:
        async with (
            nullcontext()
            if direct
            else Processor(proxy.streams, proxy.knowledge.is_ready).listening(read.streams_listen)
        ):
            yield 0 if listen.is_unix else listening.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        await proxy.stop()
        close_socket(listening, listen)


@asynccontextmanager
async def direct_path(**settings: Any) -> AsyncIterator[int]:
    """The proxy that carries the bytes itself."""
    async with serving(direct=True, proxy_id="direct", **settings) as port:
        yield port


@asynccontextmanager
async def envoy_path(folder: Path, *, idle: float, busy_from: int, **settings: Any) -> AsyncIterator[int]:
    """Envoy, before the proxy that only decides."""
    listen, streams = (Address(path=f"{folder}/{name}.sock") for name in ("proxy", "streams"))
    edge = EdgeSettings.read(
        listen=FREE_PORT,
        edge_admin_addr=Address(path=f"{folder}/admin.sock"),
        server_addr=f"unix:{folder}/none.sock",
        proxy_addr=listen,
        streams_addr=streams,
        envoy_concurrency=1,
        busy_from=busy_from,
        access_log=False,
    )
    async with (
        serving(direct=False, listen=listen, streams_listen=streams, **settings),
        EnvoyProcess(edge, Limits(stream_idle=idle)) as process,
    ):
        reports = asyncio.create_task(AnswerReports(process.answers, edge.proxy_addr).run())
        yield (await process.address()).port
        reports.cancel()
