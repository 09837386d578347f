"""One world and two ways into it: the direct proxy, and Envoy before the proxy that only decides."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from server.domain import keys
from tests.rest_bridge.data_path import world as table
from tests.rest_bridge.data_path.cases import quota, rules
from tests.rest_bridge.data_path.paths import direct_path, envoy_path
from tests.rest_bridge.data_path.raw_engine import RawEngine
from tests.rest_bridge.proxy import fake_server
from tests.rest_bridge.proxy.cases import KEYS
from tests.rest_bridge.proxy.conftest import key_message, route_message
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.rest_bridge.proxy.fake_server import TOKEN, FakeDataPlane
from tests.support.issuer import Issuer, running_issuer

# Longer than a loaded machine takes for anything, and short enough to wait for.
IDLE = 4.0
PATHS = ("direct", "envoy")
# An Envoy that takes itself for busy at once, and so repeats decisions by itself where it can.
BUSY = "busy"


@dataclass(repr=False)
class World:
    """The server and the engines that both paths share, and the port of each path."""

    service: FakeDataPlane
    engine: FakeEngine
    raw_engine: RawEngine
    issuers: Mapping[str, Issuer]
    ports: Mapping[str, int]

    def clear(self) -> None:
        """Forgets what the engines saw."""
        self.engine.seen.clear()
        self.engine.cancelled.clear()
        self.engine.reached.clear()
        self.raw_engine.heads.clear()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    new_folder = tmp_path_factory.mktemp
    folder = new_folder("data-path")
    engine, raw_engine, service = FakeEngine(), RawEngine(), FakeDataPlane()
    async with AsyncExitStack() as stack:
        for each in (engine, raw_engine):
            await each.start()
            stack.push_async_callback(each.stop)
        issuers = {
            provider: await stack.enter_async_context(running_issuer(name))
            for provider, (name, _) in table.ISSUERS.items()
        }
        for instance_id, instance in {**table.INSTANCES, **rules.INSTANCES, **quota.INSTANCES}.items():
            port = raw_engine.port if instance.engine == "raw" else engine.port
            service.routes[instance_id] = route_message(instance_id, instance, engine_port=port)
        for key, fields in KEYS.items():
            service.keys[keys.digest(key)] = key_message(key, fields)
        server, port = await fake_server.serve(service)
        stack.push_async_callback(server.stop, 0)
        settings: dict[str, Any] = {
            "server_addr": f"127.0.0.1:{port}",
            "dataplane_token": TOKEN,
            "dev_allow_loopback": True,
            "dev_discovery": {issuer.name: issuer.url for issuer in issuers.values()},
            "engine_idle_timeout": IDLE,
        }
        ports = {
            "direct": await stack.enter_async_context(direct_path(**settings)),
            "envoy": await stack.enter_async_context(
                envoy_path(folder, idle=IDLE, busy_from=10_000, proxy_id="deciding", **settings)
            ),
            "busy": await stack.enter_async_context(
                envoy_path(new_folder("busy"), idle=IDLE, busy_from=0, proxy_id=BUSY, **settings)
            ),
        }
        yield World(service, engine, raw_engine, issuers, ports)


@pytest.fixture
def world(running_world: World) -> World:
    """The world, with nothing left from the test before."""
    running_world.clear()
    return running_world


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    """The name of a data path: each test that takes it runs through both."""
    return str(request.param)


@pytest.fixture
def port(world: World, path: str) -> int:
    return world.ports[path]
