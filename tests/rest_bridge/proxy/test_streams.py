"""Answers that go on are cut when what let them in is over, on both data paths; all others go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.proxy.passes import BadPass, Pass
from rest_bridge.proxy.processor import Processor
from rest_bridge.settings import EdgeSettings
from server.domain import keys
from server.domain.addresses import Address
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.conftest import Client, Running, World, unused_port
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.rest_bridge.proxy.test_staleness import FakeClock

DIGEST = keys.digest(cases.KEY)
EVENTS = "/api/tunnel/inst_plain/events"
SOCKET = "/api/tunnel/inst_plain/socket"
# Much longer than it takes, and no measure of it.
PATIENCE = 20


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["direct", "envoy"])
async def running(
    request: pytest.FixtureRequest, start_proxy: Callable[..., Any], clock: FakeClock, tmp_path: Path
) -> AsyncIterator[Running]:
    """The proxy, and a client of the whole data path."""
    direct = request.param == "direct"
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(start_proxy(direct=direct, clock=clock, stale_limit=60, edge_lease=0))
        if not direct:
            watching = Address(path=f"{tmp_path}/streams.sock")
            running.watching = await stack.enter_async_context(AsyncExitStack())
            await running.watching.enter_async_context(
                Processor(running.proxy.streams, running.proxy.knowledge.is_ready).listening(watching)
            )
            assert Path(watching.path).stat().st_mode & 0o077 == 0
            edge = EdgeSettings.read(
                listen=f"127.0.0.1:{unused_port()}",
                edge_admin_addr=f"unix:{tmp_path}/admin.sock",
                proxy_addr=running.client.origin.removeprefix("http://"),
                streams_addr=str(watching),
                access_log=False,
                envoy_concurrency=1,
            )
            await stack.enter_async_context(EnvoyProcess(edge))
            running.client = Client(running.client.session, f"http://{edge.listen}")
        yield running


def revoke(world: World) -> None:
    world.service.keys[DIGEST].revoked_at.GetCurrentTime()
    world.service.change(key=DIGEST)


def suspend(world: World) -> None:
    world.service.routes["inst_plain"].status = "suspended"
    world.service.change(instance_id="inst_plain")


def delete(world: World) -> None:
    del world.service.routes["inst_plain"]
    world.service.change(instance_id="inst_plain")


def protect(world: World) -> None:
    """The policy that there was without any gives way to a real one."""
    world.service.routes["inst_plain"].policies.append(pb.RoutePolicy(policy_id="pol_new", provider="api-key"))
    world.service.change(instance_id="inst_plain")


ENDS = [revoke, suspend, delete, protect]


async def first_event(answer: aiohttp.ClientResponse) -> None:
    assert answer.status == 200
    assert await answer.content.readline() == b"data: first\n"


async def is_cut(answer: aiohttp.ClientResponse) -> bool:
    """Whether the answer breaks off, visibly incomplete."""
    try:
        async with asyncio.timeout(PATIENCE):
            await answer.read()
    except aiohttp.ClientPayloadError:
        return True
    return False


@pytest.mark.parametrize("end", ENDS)
async def test_events_are_cut(running: Running, world: World, engine: FakeEngine, end: Callable[[World], None]) -> None:
    async with running.client.get(EVENTS) as answer:
        await first_event(answer)
        end(world)
        assert await is_cut(answer)
    async with asyncio.timeout(PATIENCE):
        await engine.cancelled.wait()


@pytest.mark.parametrize("end", ENDS)
async def test_websockets_are_cut(
    running: Running, world: World, engine: FakeEngine, end: Callable[[World], None]
) -> None:
    headers = dict([cases.bearer(cases.KEY)])
    async with running.client.session.ws_connect(running.client.origin + SOCKET, headers=headers) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        end(world)
        ended = await socket.receive(PATIENCE)
        assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    async with asyncio.timeout(PATIENCE):
        await engine.cancelled.wait()


async def test_an_answer_that_has_not_begun_is_replaced(running: Running, world: World, engine: FakeEngine) -> None:
    async def ask() -> tuple[int, str]:
        async with running.client.get("/api/tunnel/inst_plain/held") as answer:
            assert answer.headers["x-orch8-decision-id"].startswith("dec_")
            assert "x-engine" not in answer.headers
            return answer.status, (await answer.json())["details"][0]["reason"]

    answering = asyncio.create_task(ask())
    await engine.reached.wait()
    revoke(world)
    await world.service.until_acked(world.service.version)
    await running.proxy.streams.check()
    engine.release.set()
    assert await answering == (401, "KEY_REVOKED")


@pytest.mark.parametrize("running", ["envoy"], indirect=True)
async def test_what_nobody_watches_does_not_go_on(running: Running, engine: FakeEngine) -> None:
    async with running.client.get(EVENTS) as answer:
        await first_event(answer)
        await running.watching.aclose()
        assert await is_cut(answer)
    async with running.client.get(EVENTS) as refused:
        assert refused.status == 503
        assert (await refused.json())["details"][0]["reason"] == "DATA_PLANE_NOT_READY"
        assert refused.headers["retry-after"]
        assert refused.headers["x-orch8-decision-id"].startswith("dec_")
    assert await running.client.status("/api/tunnel/inst_plain/x") == (200, None)


async def test_a_long_download_is_cut(running: Running, world: World) -> None:
    async with running.client.get("/api/tunnel/inst_plain/download?mib=200") as answer:
        assert answer.status == 200
        await answer.content.readexactly(1024)
        revoke(world)
        assert await is_cut(answer)


async def test_events_are_cut_when_the_key_expires(running: Running, world: World) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    world.service.keys[DIGEST].expires_at.FromDatetime(soon)
    async with running.client.get(EVENTS) as answer:
        await first_event(answer)
        assert await is_cut(answer)
    assert datetime.now(UTC) >= soon
    assert await running.client.status(EVENTS) == (401, "KEY_EXPIRED")


async def test_events_are_cut_when_the_lease_ends(running: Running, world: World, clock: FakeClock) -> None:
    async with running.client.get(EVENTS) as answer:
        await first_event(answer)
        world.service.refuses, world.service.answers_heartbeats = True, False
        world.service.drop_streams()
        clock.now += 61
        assert await is_cut(answer)


async def test_what_is_not_concerned_goes_on(running: Running, world: World, engine: FakeEngine) -> None:
    other = keys.digest(cases.ENDING_KEY)
    async with running.client.get("/api/tunnel/inst_ruled/events") as answer:
        await first_event(answer)
        assert len(running.proxy.streams) == 1
        world.service.keys[other].revoked_at.GetCurrentTime()
        world.service.change(key=other)
        route = world.service.routes["inst_ruled"]
        route.policies.append(pb.RoutePolicy(policy_id="pol_more", provider="anonymous", slug="more"))
        route.policies[0].trigger_secret = "another"
        world.service.change(instance_id="inst_ruled")
        suspend(world)
        version = world.service.change(key=DIGEST)
        await world.service.until_acked(version)
        await running.proxy.streams.check()
        assert len(running.proxy.streams) == 1
        assert not engine.cancelled.is_set()
    await _until(lambda: len(running.proxy.streams) == 0)


async def test_a_server_that_is_away_for_a_moment_cuts_nothing(
    running: Running, world: World, engine: FakeEngine
) -> None:
    async with running.client.get(EVENTS) as answer:
        await first_event(answer)
        world.service.refuses = True
        await world.service.until_acked(world.service.change(instance_id="inst_plain"))
        await running.proxy.streams.check()
        assert not engine.cancelled.is_set()
        world.service.refuses = False
        suspend(world)
        assert await is_cut(answer)


async def test_no_more_streams_than_the_plan_allows_and_plain_requests_go_on(running: Running, world: World) -> None:
    for instance_id in ("inst_plain", "inst_ruled"):
        world.service.routes[instance_id].limits.open_streams = 2
        await world.service.until_acked(world.service.change(instance_id=instance_id))
    headers = dict([cases.bearer(cases.KEY), ("accept", "text/event-stream")])
    async with AsyncExitStack() as streams:
        for instance_id in ("inst_plain", "inst_ruled"):
            path = f"/api/tunnel/{instance_id}/events"
            opened = await streams.enter_async_context(running.client.request("GET", path, headers=headers))
            await first_event(opened)
        async with running.client.request("GET", EVENTS, headers=headers) as refused:
            assert (refused.status, refused.headers["retry-after"]) == (429, "2")
            info = (await refused.json())["details"][0]
            assert (info["reason"], info["metadata"]) == ("RATE_LIMITED", {"scope": "open streams", "limit": "2"})
        assert await running.client.status("/api/tunnel/inst_plain/x") == (200, None)
    await _until(lambda: len(running.proxy.streams) == 0)
    async with running.client.request("GET", EVENTS, headers=headers) as again:
        await first_event(again)


async def test_short_answers_are_not_watched(running: Running) -> None:
    async with running.client.get("/api/tunnel/inst_plain/x") as answer:
        assert await answer.read() == b"from the engine"
    await _until(lambda: len(running.proxy.streams) == 0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "passed",
    [
        Pass(instance_id="inst_1", org_id="org_1", mark="default"),
        Pass(instance_id="i", org_id="o", mark="0123456789abcdef", key=bytes(range(32)), until=1795486624.25),
    ],
)
def test_a_pass_is_read_as_it_was_written(passed: Pass) -> None:
    assert Pass.parse(passed.text()) == passed


@pytest.mark.parametrize("text", ["", "inst_1", "inst_1 org default xyz -", "inst_1 org default - soon", "a b c - - d"])
def test_what_is_no_pass_is_refused(text: str) -> None:
    with pytest.raises(BadPass):
        Pass.parse(text)
