import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.rest_bridge.envoy.conftest import Edge

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024
SIZE = 100 * MIB


def peak_memory(pid: int) -> int:
    """The most that a process has ever held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def test_100_mib_pass_in_both_directions_in_little_memory(edge: Edge) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(MIB)

    before = peak_memory(edge.process.pid)
    up = await edge.http.post("/api/tunnel/inst_1/up", content=pieces())
    assert int(up.content) == SIZE
    got = 0
    async with edge.http.stream("GET", "/api/tunnel/inst_1/down") as down:
        async for piece in down.aiter_raw():
            got += len(piece)
    assert got == SIZE
    assert peak_memory(edge.process.pid) < 300 * MIB
    assert peak_memory(edge.process.pid) - before < 30 * MIB


async def test_events_arrive_when_they_happen(edge: Edge) -> None:
    async with edge.http.stream("GET", "/api/tunnel/inst_1/events") as events:
        pieces = events.aiter_raw()
        assert await anext(pieces) == b"data: 1\n\n"
        edge.engine.release.set()
        assert await anext(pieces) == b"data: 2\n\n"


async def test_a_websocket_is_decided_and_carried(edge: Edge) -> None:
    url = f"ws://{edge.address}/api/tunnel/inst_1/socket?a=b"
    async with connect(url, additional_headers={"authorization": "Bearer t"}, proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        (asked,), (saw,) = edge.decisions.asked, edge.engine.saw
    assert (asked.path, asked.query, asked.header("authorization")) == (
        "/decide/api/tunnel/inst_1/socket",
        "a=b",
        "Bearer t",
    )
    assert (saw.path, saw.query, saw.header("x-api-key")) == ("/socket", "a=b", "engine-key")
    assert "authorization" not in saw.names()


async def test_a_stream_outlives_the_idle_time_as_long_as_it_speaks(edge: Edge) -> None:
    """The idle time of the tests is 3 s; this upload takes longer, with no pause that long."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.8)  # the passing of time is what is tested
            yield b"x"

    assert (await edge.http.post("/api/tunnel/inst_1/up", content=pieces())).content == b"5"
