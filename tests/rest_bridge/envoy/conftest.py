import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.proxy.processor import Processor
from rest_bridge.settings import EdgeSettings
from server.domain.addresses import Address
from tests.rest_bridge.envoy.fakes import FakeDecisions, FakeEngine, FakeServer, FakeStreams, serving

ORIGIN = "https://app.example.com"


@dataclass
class Edge:
    """A running Envoy and all that stands around it."""

    address: Address
    process: EnvoyProcess
    server: FakeServer
    decisions: FakeDecisions
    engine: FakeEngine
    http: httpx.AsyncClient


def settings(folder: Path, **changes: object) -> EdgeSettings:
    """An edge on a free port whose server and proxy are sockets in a folder."""
    values: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "edge_admin_addr": f"unix:{folder}/admin.sock",
        "server_addr": f"unix:{folder}/server.sock",
        "proxy_addr": f"unix:{folder}/proxy.sock",
        "streams_addr": f"unix:{folder}/streams.sock",
        "envoy_concurrency": 1,
        # Never busy: what is looked at here is each question of ext_authz (test_remembered_lua.py has the other).
        "busy_from": 1_000_000,
        "access_log": False,
        "allowed_origins": (ORIGIN,),
    }
    return EdgeSettings.read(**{**values, **changes})


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    async with AsyncExitStack() as stack:
        server, decisions, engine = FakeServer(), FakeDecisions(), FakeEngine()
        await stack.enter_async_context(server.serving(Address(path=f"{folder}/server.sock")))
        await stack.enter_async_context(serving(decisions, uds=f"{folder}/proxy.sock"))
        watching = Processor(cast("Any", FakeStreams()), lambda: True).listening(Address(path=f"{folder}/streams.sock"))
        await stack.enter_async_context(watching)
        port = await stack.enter_async_context(serving(engine))
        decisions.upstream = f"127.0.0.1:{port}"
        process = await stack.enter_async_context(
            EnvoyProcess(settings(folder), Limits(stream_idle=3, readiness_timeout=1))
        )
        address = await process.address()
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{address}", timeout=10))
        yield Edge(address, process, server, decisions, engine, http)


@pytest.fixture
def edge(running: Edge) -> Iterator[Edge]:
    """The running edge, with nothing left from the test before."""
    upstream = running.decisions.upstream
    running.server.answers.clear()
    running.server.seen.clear()
    running.decisions.__init__(upstream)  # type: ignore[misc]
    running.engine.saw.clear()
    running.engine.release = asyncio.Event()
    yield running
    running.decisions.upstream = upstream
    running.engine.release.set()
