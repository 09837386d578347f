"""A world for the proxy: a server, an engine, and the proxy itself behind real HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import yarl
from google.protobuf.json_format import ParseDict
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from rest_bridge.proxy.app import Proxy, build, new_server
from rest_bridge.proxy.lease import Clock, suspend_aware_clock
from rest_bridge.settings import ProxySettings
from server.domain import keys
from tests.rest_bridge.proxy import cases, fake_server
from tests.rest_bridge.proxy.cases import Instance
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.rest_bridge.proxy.fake_server import TOKEN, FakeDataPlane


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def key_message(key: str, fields: Mapping[str, Any]) -> pb.Key:
    return ParseDict({"key_id": f"key_{key[10:18]}", "prefix": keys.public_prefix(key), **fields}, pb.Key())


def route_message(instance_id: str, instance: Instance, *, engine_port: int) -> pb.Route:
    port = unused_port() if instance.engine == "refusing" else engine_port
    upstream = {"host": "127.0.0.1", "port": port, "engine_key": cases.ENGINE_KEY}
    policies = [{"policy_id": f"pol_{number}", **policy} for number, policy in enumerate(instance.policies)]
    route = {
        "instance_id": instance_id,
        "org_id": instance.org_id,
        "status": instance.status,
        "policies": policies,
        "limits": instance.limits,
    }
    if instance.start_cap is not None:
        route["start_cap"] = instance.start_cap
    return ParseDict(route if instance.engine is None else {**route, "upstream": upstream}, pb.Route())


class Client:
    """Sends requests byte for byte."""

    def __init__(self, session: aiohttp.ClientSession, origin: str) -> None:
        self.session = session
        self.origin = origin

    def request(self, method: str, path: str, **options: Any) -> Any:
        return self.session.request(
            method, yarl.URL(self.origin + path, encoded=True), allow_redirects=False, **options
        )

    def get(self, path: str, key: str | None = cases.KEY, **options: Any) -> Any:
        headers = {} if key is None else dict([cases.bearer(key)])
        return self.request("GET", path, headers=headers, **options)

    async def status(self, path: str, key: str | None = cases.KEY) -> tuple[int, str | None]:
        """Status and, for an error, its reason."""
        async with self.get(path, key) as answer:
            body = await answer.json(content_type=None) if answer.status != 200 else None
            return answer.status, body["details"][0]["reason"] if body else None

    async def until_ready(self, expected: int = 200) -> None:
        async with asyncio.timeout(fake_server.PATIENCE):
            while True:
                async with self.request("GET", "/readyz") as answer:
                    if answer.status == expected:
                        return
                await asyncio.sleep(0.01)


class Running:
    def __init__(self, proxy: Proxy, client: Client) -> None:
        self.proxy = proxy
        self.client = client
        self.watching = AsyncExitStack()


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    await engine.start()
    yield engine
    await engine.stop()


class World:
    """The server that the proxy talks to."""

    def __init__(self, service: FakeDataPlane, port: int) -> None:
        self.service = service
        self.port = port


@pytest.fixture
async def world(engine: FakeEngine) -> AsyncIterator[World]:
    service = FakeDataPlane()
    for instance_id, instance in cases.INSTANCES.items():
        service.routes[instance_id] = route_message(instance_id, instance, engine_port=engine.port)
    for key, fields in cases.KEYS.items():
        service.keys[keys.digest(key)] = key_message(key, fields)
    server, port = await fake_server.serve(service)
    yield World(service, port)
    await server.stop(0)


@pytest.fixture
def start_proxy(world: World) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(
        *, direct: bool, clock: Clock = suspend_aware_clock, ready: bool = True, **settings: Any
    ) -> AsyncIterator[Running]:
        read = ProxySettings.read(
            **{"server_addr": f"127.0.0.1:{world.port}", "dataplane_token": TOKEN, "proxy_id": "tested", **settings}
        )
        proxy = build(read, direct=direct, clock=clock)
        listening = socket.create_server(("127.0.0.1", 0))
        server = new_server(proxy.app, direct=direct)
        await proxy.start()
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            client = Client(session, origin)
            if ready:
                await client.until_ready()
            yield Running(proxy, client)
        server.should_exit = True
        await serving
        await proxy.stop()

    return start
