"""Bytes that flow while a request is under way, both ways, through both data paths."""

import asyncio
import io
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from rest_bridge.proxy import http_protocol
from tests.rest_bridge.data_path.cases.case import AS_KEY, BY_KEY, HOOK, PLAIN
from tests.rest_bridge.data_path.conftest import World
from tests.rest_bridge.data_path.wire import connected, read_answer, read_chunk, read_head, request, send
from tests.rest_bridge.proxy.cases import KEY

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATIENCE = 20
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
CHUNKED = ("transfer-encoding", "chunked")


@pytest.fixture
def origin(port: int) -> str:
    return f"127.0.0.1:{port}{PLAIN}"


async def test_an_event_arrives_before_the_next_one_is_made(world: World, port: int) -> None:
    async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
        writer.write(request(f"{PLAIN}/events", BY_KEY))
        status, headers = await read_head(reader)
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")
        assert await read_chunk(reader) == b"data: first\n\n"
        assert not world.engine.cancelled.is_set()
    async with asyncio.timeout(PATIENCE):
        await world.engine.cancelled.wait()


async def test_a_caller_who_hangs_up_ends_the_request(world: World, port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        async with connected(port) as (_, writer):
            writer.write(request(f"{PLAIN}/silent", BY_KEY))
            await world.engine.reached.wait()
        await world.engine.cancelled.wait()


async def test_both_directions_flow_at_once(port: int) -> None:
    async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
        writer.write(request(f"{PLAIN}/duplex", [*BY_KEY, CHUNKED], method="POST"))
        for number in range(3):
            writer.write(b"1\r\n%d\r\n" % number)
            if number == 0:
                assert (await read_head(reader))[0] == 200
            assert await read_chunk(reader) == b"got %d" % number
        writer.write(b"0\r\n\r\n")
        assert await read_chunk(reader) == b""


async def test_a_caller_may_wait_for_a_sign_to_send_the_body(world: World, port: int) -> None:
    for path in (f"{PLAIN}/x", f"{HOOK}/signed"):
        async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
            writer.write(request(path, [*BY_KEY, ("expect", "100-continue"), ("content-length", "3")], method="POST"))
            assert (await read_head(reader))[0] == 100
            writer.write(b"abc")
            assert (await read_answer(reader)).status == 200
        assert world.engine.seen[-1].body == b"abc"


async def test_requests_on_one_connection_are_decided_one_by_one(world: World, port: int) -> None:
    stay = ("connection", "keep-alive")
    async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
        writer.write(request(f"{PLAIN}/1", [*BY_KEY, stay]))
        writer.write(request(f"{PLAIN}/2", [stay]))
        writer.write(request(f"{PLAIN}/3", [*BY_KEY, stay, CHUNKED], b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n", method="POST"))
        writer.write(request(f"{PLAIN}/4"))
        assert [(await read_answer(reader)).status for _ in range(4)] == [200, 401, 200, 401]
    assert [(seen.path, seen.body) for seen in world.engine.seen] == [("/1", b""), ("/3", b"abc")]


@pytest.mark.parametrize("query", ["", "?length=1", "?length=1&abort=1", "?abort=1"])
async def test_half_an_answer_looks_like_half_an_answer(port: int, query: str) -> None:
    """Or like none at all, where the engine broke before the first byte was passed on."""
    try:
        answer = await send(port, request(f"{PLAIN}/broken{query}", BY_KEY))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    assert (answer.status, answer.reason) == (502, "ENGINE_ERROR")


async def test_an_engine_that_is_silent_is_504(world: World, port: int) -> None:
    answer = await send(port, request(f"{PLAIN}/silent", BY_KEY))
    assert (answer.status, answer.reason) == (504, "ENGINE_TIMEOUT")


async def test_a_request_that_broke_is_not_sent_again(world: World, port: int) -> None:
    for _ in range(3):
        assert (await send(port, request(f"{PLAIN}/x", BY_KEY))).status == 200
        world.engine.seen.clear()
        answer = await send(port, request(f"{PLAIN}/reset", BY_KEY))
        assert (answer.status, answer.reason) == (502, "ENGINE_ERROR")
        assert len(world.engine.seen) == 1


async def test_a_fault_in_the_body_does_not_mix_with_the_answer(port: int) -> None:
    async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
        writer.write(request(f"{PLAIN}/duplex", [*BY_KEY, CHUNKED], b"1\r\na\r\n", method="POST"))
        assert (await read_head(reader))[0] == 200
        assert await read_chunk(reader) == b"got a"
        writer.write(b"no size\r\n")
        rest = b""
        with suppress(ConnectionError):
            rest = await reader.read()
    assert b"HTTP/1.1" not in rest
    assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (f"GET {PLAIN}/", ""),
        (f"GET {PLAIN}/ HTTP/1.1\r\nhost: a\r\nx-a: ", ""),
        (f"GET {PLAIN}/ HTTP/1.1\r\nhost: a\r\n", ": "),
    ],
    ids=["path", "value", "name"],
)
async def test_a_head_without_end_is_refused(world: World, port: int, begin: str, end: str) -> None:
    answer = await send(port, begin.encode() + b"a" * 70 * 1024 + end.encode())
    assert (answer.status, answer.reason) == (431, "INVALID_ARGUMENT")
    assert world.engine.seen == []


async def test_a_trailer_without_end_is_refused(world: World) -> None:
    """On the direct path alone: Envoy bounds it with the stream's idle time and the header limit of its parser."""
    sent = request(f"{HOOK}/plain", [CHUNKED], b"0\r\nx-a: " + b"a" * 1024 * 1024, method="POST")
    answer = await send(world.ports["direct"], sent)
    assert (answer.status, answer.reason) == (431, "INVALID_ARGUMENT")
    assert world.engine.seen == []


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost:"])
async def test_a_head_that_does_not_come_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """On the direct path alone: Envoy's own limit has no switch in a running process."""
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN", 0.05)
    answer = await send(world.ports["direct"], sent)
    assert (answer.status, answer.reason) == (408, "INVALID_ARGUMENT")


async def test_a_websocket_echoes_both_ways(world: World, origin: str) -> None:
    forged = {"x-gateway-subject": "evil", "x_api_key": "evil", "cookie": "sb-orch8-auth-token=x; a=1"}
    headers = {**AUTHORIZED, **forged, "x-tenant-id": "mine"}
    async with connect(
        f"ws://{origin}/socket?x=1", additional_headers=headers, subprotocols=[Subprotocol("chat")], proxy=None
    ) as socket:
        assert socket.subprotocol == "chat"
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.send(b"\x00\xff" * 70_000)
        assert await socket.recv() == b"\x00\xff" * 70_000
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
    (seen,) = world.engine.seen
    assert seen.path == "/socket?x=1"
    assert {name: seen.headers[name] for name in AS_KEY} == AS_KEY
    assert (seen.headers["cookie"], seen.headers["x-tenant-id"]) == ("a=1", "mine")
    assert not seen.headers.keys() & {"authorization", "x_api_key"}


async def test_a_websocket_ends_with_its_caller(world: World, origin: str) -> None:
    async with connect(f"ws://{origin}/socket", additional_headers=AUTHORIZED, proxy=None):
        pass
    async with asyncio.timeout(PATIENCE):
        await world.engine.cancelled.wait()


@pytest.mark.parametrize(
    ("target", "headers", "status", "reached"),
    [
        (f"{PLAIN}/socket", {}, 401, False),
        ("/api/tunnel/inst_closed/socket", AUTHORIZED, 403, False),
        ("/api/tunnel/inst_none/socket", AUTHORIZED, 404, False),
        ("/api/tunnel/inst_suspended/socket", AUTHORIZED, 409, False),
        ("/api/tunnel/inst_refusing/socket", AUTHORIZED, 502, False),
        (f"{PLAIN}/../inst_closed/socket", AUTHORIZED, 403, False),
        (f"{PLAIN}/a%2fb", AUTHORIZED, 400, False),
        (f"{PLAIN}/x", AUTHORIZED, 200, True),
    ],
)
async def test_a_websocket_that_is_not_accepted(
    world: World, port: int, target: str, headers: Any, status: int, reached: bool
) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = await send(port, request(target, {**upgrade, **headers}.items()))
    assert (answer.status, bool(world.engine.seen)) == (status, reached)
    if not reached:
        assert answer.reason


async def test_uploads_and_downloads_pass_whole(port: int) -> None:
    url = f"http://127.0.0.1:{port}{PLAIN}"
    async with aiohttp.ClientSession(headers=AUTHORIZED) as session:
        async with session.post(f"{url}/upload", data=io.BytesIO(bytes(8 * 1024 * 1024))) as up:
            assert await up.json() == {"size": 8 * 1024 * 1024}
        async with session.get(f"{url}/download?mib=8") as down:
            assert len(await down.read()) == 8 * 1024 * 1024
