"""Bytes both ways, and what happens when either side breaks off."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.conftest import Running
from tests.rest_bridge.proxy.fake_engine import FakeEngine

TUNNEL = "/api/tunnel/inst_plain"
AUTHORIZED = dict([cases.bearer(cases.KEY)])


@pytest.fixture
async def direct(start_proxy: Callable[..., Any]) -> AsyncIterator[Running]:
    async with start_proxy(direct=True, engine_idle_timeout=0.5) as running:
        yield running


async def test_the_answer_is_the_engines_less_what_is_internal(direct: Running) -> None:
    async with direct.client.get(f"{TUNNEL}/x?answer=418") as answer:
        assert answer.status == 418
        assert answer.headers["x-engine"] == "yes"
        assert not {"x-orch8-secret", "fly-request-id", "x-hop"} & {name.lower() for name in answer.headers}


async def test_redirects_are_the_callers_to_follow(direct: Running) -> None:
    async with direct.client.get(f"{TUNNEL}/redirect") as answer:
        assert (answer.status, answer.headers["location"]) == (302, "/elsewhere")


async def test_head_and_not_modified_have_no_body(direct: Running) -> None:
    async with direct.client.request("HEAD", f"{TUNNEL}/x", headers=AUTHORIZED) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    async with direct.client.get(f"{TUNNEL}/x?answer=304") as answer:
        assert (answer.status, await answer.read()) == (304, b"")


async def test_both_directions_flow_at_once(direct: Running) -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            assert await answers.get() == b"got %d" % number

    async with direct.client.request("POST", f"{TUNNEL}/duplex", headers=AUTHORIZED, data=body()) as answer:
        async for chunk in answer.content.iter_any():
            answers.put_nowait(chunk)


async def test_an_event_stream_ends_with_its_caller(direct: Running, engine: FakeEngine) -> None:
    async with direct.client.get(f"{TUNNEL}/events") as answer:
        assert await answer.content.readline() == b"data: first\n"
        answer.close()
    await asyncio.wait_for(engine.cancelled.wait(), 0.4)


async def test_a_caller_who_hangs_up_ends_the_request(direct: Running, engine: FakeEngine) -> None:
    request = asyncio.create_task(direct.client.status(f"{TUNNEL}/silent"))
    await engine.reached.wait()
    request.cancel()
    await asyncio.wait_for(engine.cancelled.wait(), 0.4)


async def test_no_answer_in_time(direct: Running, engine: FakeEngine) -> None:
    assert await direct.client.status(f"{TUNNEL}/silent") == (504, "ENGINE_TIMEOUT")
    await engine.cancelled.wait()


async def test_a_refusing_engine(direct: Running) -> None:
    assert await direct.client.status("/api/tunnel/inst_refusing/x") == (502, "ENGINE_ERROR")


async def test_a_request_is_never_sent_twice(direct: Running, engine: FakeEngine) -> None:
    for _ in range(3):
        assert await direct.client.status(f"{TUNNEL}/x") == (200, None)
        engine.seen.clear()
        assert await direct.client.status(f"{TUNNEL}/reset") == (502, "ENGINE_ERROR")
        assert len(engine.seen) == 1


@pytest.mark.parametrize("query", ["", "?length=1", "?length=1&abort=1", "?abort=1"])
async def test_half_an_answer_looks_like_half_an_answer(direct: Running, query: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        async with direct.client.get(f"{TUNNEL}/broken{query}") as answer:
            await answer.read()


async def test_unknown_paths_have_the_contracts_shape(direct: Running) -> None:
    assert await direct.client.status("/elsewhere") == (404, "NOT_FOUND")
    async with direct.client.request("GET", "/healthz") as answer:
        assert answer.status == 200


async def test_websocket(direct: Running, engine: FakeEngine) -> None:
    url = direct.client.origin + f"{TUNNEL}/socket?x=1"
    async with direct.client.session.ws_connect(url, headers=AUTHORIZED, protocols=("chat",)) as socket:
        assert socket.protocol == "chat"
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
        await socket.send_str("bye")
        message = await socket.receive()
        assert (message.data, message.extra) == (4001, "as you wish")
    seen = engine.seen[0]
    assert seen.path == "/socket?x=1"
    assert seen.headers["x-api-key"] == cases.ENGINE_KEY
    assert "authorization" not in seen.headers


async def test_websocket_of_a_caller_who_goes(direct: Running, engine: FakeEngine) -> None:
    async with direct.client.session.ws_connect(direct.client.origin + f"{TUNNEL}/socket", headers=AUTHORIZED):
        pass
    await asyncio.wait_for(engine.cancelled.wait(), 5)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"{TUNNEL}/socket", {}, 401),
        ("/api/tunnel/inst_refusing/socket", AUTHORIZED, 502),
        (f"{TUNNEL}/x", AUTHORIZED, 200),
        (f"{TUNNEL}/redirect", AUTHORIZED, 302),
    ],
)
async def test_websocket_that_is_not_accepted(direct: Running, path: str, headers: Any, status: int) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with direct.client.request("GET", path, headers={**upgrade, **headers}) as answer:
        assert answer.status == status
