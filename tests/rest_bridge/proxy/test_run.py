"""The proxy as a process: how it starts, carries much, and stops."""

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.conftest import Client, World
from tests.rest_bridge.proxy.fake_engine import MIB, FakeEngine
from tests.rest_bridge.proxy.fake_server import TOKEN
from tests.support.stack import free_port

RUN = """
import json, sys
from rest_bridge.proxy.app import serve
from rest_bridge.settings import ProxySettings
sys.exit(serve(ProxySettings.read(**json.loads(sys.argv[1])), direct=True))
"""


async def spawn(world: World, listen: str, **more: object) -> asyncio.subprocess.Process:
    settings = {"proxy_listen": listen, "server_addr": f"127.0.0.1:{world.port}", "dataplane_token": TOKEN, **more}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, json.dumps(settings), stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def process(world: World, path: Path, **more: object) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    proxy = await spawn(world, f"unix:{path}", **more)
    try:
        await world.service.until(lambda: len(world.service.acked) > 0)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            yield proxy, Client(session, "http://proxy")
    finally:
        if proxy.returncode is None:
            proxy.kill()
        await proxy.communicate()


async def test_it_serves_a_unix_socket_and_stops_with_a_goodbye(world: World, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with process(world, path) as (proxy, client):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await client.until_ready()
        assert await client.status("/api/tunnel/inst_plain/x") == (200, None)
        proxy.terminate()
        assert await asyncio.wait_for(proxy.wait(), 5) == 0
        assert world.service.goodbyes == 1
        assert not path.exists()


async def test_what_is_under_way_when_it_stops_is_answered_in_the_contracts_shape(
    world: World, engine: FakeEngine, tmp_path: Path
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"never whole"
        reading.set()
        await asyncio.Event().wait()

    async def call(method: str, path: str, data: Any = None) -> tuple[int, str]:
        headers = dict([cases.bearer(cases.KEY)])
        async with client.request(method, path, headers=headers, data=data) as answer:
            return answer.status, (await answer.json())["details"][0]["reason"]

    reading = asyncio.Event()
    async with process(world, tmp_path / "proxy.sock") as (proxy, client):
        await client.until_ready()
        carried = asyncio.create_task(call("GET", "/api/tunnel/inst_plain/silent"))
        undecided = asyncio.create_task(call("POST", "/api/gateway/inst_plain/hook", endless()))
        await asyncio.gather(engine.reached.wait(), reading.wait())
        proxy.terminate()
        assert await carried == (502, "ENGINE_ERROR")
        assert await undecided == (503, "DATA_PLANE_NOT_READY")


async def test_it_holds_no_body_in_memory(world: World, tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(MIB)

    async with process(world, tmp_path / "proxy.sock") as (proxy, client):
        await client.until_ready()
        headers = dict([cases.bearer(cases.KEY)])
        async with client.request("POST", "/api/tunnel/inst_plain/upload", headers=headers, data=body()) as answer:
            assert await answer.json() == {"size": 100 * MIB}
        size = 0
        async with client.get("/api/tunnel/inst_plain/download?mib=100") as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
        assert size == 100 * MIB
        assert peak_memory(proxy.pid) < 300 * MIB


def peak_memory(pid: int) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_an_address_in_use_is_said_in_one_sentence(world: World) -> None:
    proxy = await spawn(world, f"127.0.0.1:{world.port}")
    _, said = await proxy.communicate()
    assert proxy.returncode == 2
    assert said.decode() == f"The proxy cannot listen on 127.0.0.1:{world.port}: address already in use.\n"


async def test_told_to_stop_it_decides_on_until_its_time_is_over(world: World, tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    path = tmp_path / "proxy.sock"
    more = {"proxy_metrics_listen": metrics, "drain_delay": 300}
    async with process(world, path, **more) as (proxy, client):
        await client.until_ready()
        async with aiohttp.ClientSession() as session:
            probe = Client(session, f"http://{metrics}")
            await probe.until_ready()
            proxy.terminate()
            await probe.until_ready(503)
            await client.until_ready(503)
            assert await client.status("/api/tunnel/inst_plain/x") == (200, None)
            proxy.terminate()
            assert await asyncio.wait_for(proxy.wait(), 10) == 0
    assert world.service.goodbyes == 1


async def test_an_address_for_metrics_that_is_in_use_is_said_in_one_sentence(world: World) -> None:
    taken = f"127.0.0.1:{world.port}"
    proxy = await spawn(world, "127.0.0.1:0", proxy_metrics_listen=taken)
    _, said = await proxy.communicate()
    assert proxy.returncode == 2
    assert said.decode().splitlines()[-1] == f"The proxy cannot listen on {taken}: address already in use."
