"""What strangers may send to the direct path before anything is decided: bounded in size, time and number."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from rest_bridge.envoy.limits import Limits
from server.domain.addresses import Address
from tests.rest_bridge import heads
from tests.rest_bridge.envoy.fakes import assert_error, send_raw
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.conftest import Running
from tests.rest_bridge.proxy.fake_engine import FakeEngine

PATIENCE = 20.0
SOON = Limits(headers_timeout=0.2, connection_idle=0.2)
BEARER = f"authorization: Bearer {cases.KEY}\r\n"
PIECE = b"a" * 16 * 1024


@pytest.fixture
def start(start_proxy: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[Address]:
        async with start_proxy(direct=True, **options) as running:
            yield address(running)

    return started


def address(running: Running) -> Address:
    return Address.parse(running.client.origin.removeprefix("http://"))


class Caller:
    """A connection that sends what no client library would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, text: str) -> None:
        self.writer.write(text.encode())

    async def answer(self) -> bytes:
        """All that comes until the other side hangs up."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def pour(self) -> bytes:
        """Sends until the other side has had enough."""
        answer = asyncio.create_task(self.answer())
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while not answer.done():
                    self.writer.write(PIECE)
                    await self.writer.drain()
                    await asyncio.sleep(0)
        return await answer


@asynccontextmanager
async def calling(where: Address) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


async def test_heads_are_bounded_in_number_and_size_as_envoy_does_it(start: Callable[..., Any]) -> None:
    async with start() as where:
        for name, request, status in heads.table("/healthz"):
            got = await send_raw(where, request)
            assert (name, got.status) == (name, status)
            if status == 431:
                assert_error(got, 431, "INVALID_ARGUMENT")
                assert got.json()["details"][0]["metadata"] == {"field": "headers"}


@pytest.mark.parametrize(
    "begin", ["GET /", "GET / HTTP/1.1\r\nx: ", "GET / HTTP/1.1\r\n"], ids=["path", "value", "name"]
)
async def test_a_head_without_end_is_refused_before_its_end(start: Callable[..., Any], begin: str) -> None:
    async with start() as where, calling(where) as caller:
        caller.send(begin)
        said = await caller.pour()
        assert said.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begin", ["x: ", "0\r\nx: ", "1;x="], ids=["no chunk", "trailer", "chunk extension"])
async def test_chunks_and_trailers_without_end_are_refused(start: Callable[..., Any], begin: str) -> None:
    async with start() as where, calling(where) as caller:
        caller.send(f"POST /api/tunnel/inst_plain/upload HTTP/1.1\r\nhost: e\r\n{BEARER}")
        caller.send(f"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n{begin}")
        await caller.pour()


async def test_trailers_are_no_headers(start: Callable[..., Any], engine: FakeEngine) -> None:
    async with start() as where:
        request = (
            "POST /api/gateway/inst_hooks/plain HTTP/1.1\r\nhost: e\r\nconnection: close\r\nx-request-id: mine\r\n"
            "transfer-encoding: chunked\r\ntrailer: x-tenant-id\r\n\r\n2\r\n{}\r\n0\r\nx-tenant-id: smuggled\r\n\r\n"
        )
        got = await send_raw(where, request.encode())
    assert got.status == 200
    assert (engine.seen[0].body, "x-tenant-id" in engine.seen[0].headers) == (b"{}", False)


@pytest.mark.parametrize("begin", ["G", "GET /healthz HTTP/1.1\r\n", "GET /healthz HTTP/1.1\r\nx: y", "\r\n"])
async def test_a_head_that_comes_too_slowly_is_told_so(start: Callable[..., Any], begin: str) -> None:
    async with start(limits=SOON) as where, calling(where) as caller:
        caller.send(begin)
        assert (await caller.answer()).startswith(b"HTTP/1.1 408 ")


async def test_the_next_head_of_a_connection_must_come_in_time_too(start: Callable[..., Any]) -> None:
    async with start(limits=SOON) as where, calling(where) as caller:
        caller.send("GET /healthz HTTP/1.1\r\nhost: e\r\n\r\nGET /he")
        said = await caller.answer()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in said


async def test_a_connection_that_says_nothing_is_closed_without_a_word(start: Callable[..., Any]) -> None:
    async with start(limits=SOON) as where, calling(where) as caller:
        assert await caller.answer() == b""


async def test_a_slow_answer_is_not_cut_short(start: Callable[..., Any], engine: FakeEngine) -> None:
    async with start(limits=SOON, engine_idle_timeout=1) as where, calling(where) as caller:
        # The engine says nothing for a second, while the head of the next request waits.
        caller.send(f"GET /api/tunnel/inst_plain/silent HTTP/1.1\r\nhost: e\r\n{BEARER}\r\nGET /he")
        said = await caller.answer()
        assert said.startswith(b"HTTP/1.1 504 ")


async def test_a_gateway_body_that_comes_too_slowly_is_told_so(start: Callable[..., Any], engine: FakeEngine) -> None:
    async with start(limits=SOON, engine_idle_timeout=0.2) as where, calling(where) as caller:
        caller.send("POST /api/gateway/inst_hooks/plain HTTP/1.1\r\nhost: e\r\ncontent-length: 10\r\n\r\n{}")
        said = await caller.answer()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert engine.seen == []


async def test_what_was_answered_must_end_soon(start: Callable[..., Any]) -> None:
    async with start(limits=SOON) as where, calling(where) as caller:
        caller.send("POST /api/tunnel/inst_plain/upload HTTP/1.1\r\nhost: e\r\ncontent-length: 100\r\n\r\nab")
        said = await caller.answer()
    assert said.startswith(b"HTTP/1.1 401 ")
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "request_text",
    [
        "FROB\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: e\r\nbad header\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: e\r\ncontent-length: abc\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: e\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /\xff HTTP/1.1\r\nhost: e\r\n\r\n",
    ],
)
async def test_what_is_no_good_http_is_told_so(start: Callable[..., Any], request_text: str) -> None:
    async with start() as where:
        got = await send_raw(where, request_text.encode("latin-1"))
    assert_error(got, 400, "INVALID_ARGUMENT")
    assert got.json()["details"][0]["metadata"] == {"field": "request"}


async def test_an_answer_under_way_is_cut_short_rather_than_mixed_with_another(start: Callable[..., Any]) -> None:
    async with start() as where, calling(where) as caller:
        caller.send(f"GET /api/tunnel/inst_plain/events HTTP/1.1\r\nhost: e\r\n{BEARER}\r\n")
        said = await caller.reader.readuntil(b"data: first\n\n")
        caller.send("FROB\r\n\r\n")
        said += await caller.answer()
        assert said.count(b"HTTP/1.1") == 1


async def test_connections_are_bounded_in_number(start: Callable[..., Any]) -> None:
    async with start(limits=Limits(connections=3)) as where, AsyncExitStack() as stack:
        held: list[Caller] = []
        while len(held) < 10 and (served := await one_more(where, stack)) is not None:
            held.append(served)
        # The connection on which the test asked whether the proxy is ready may not have ended yet.
        assert len(held) in (2, 3)
        held[0].send("GET /healthz HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 " in await held[0].answer()
        assert await one_more(where, stack) is not None


async def one_more(where: Address, stack: AsyncExitStack) -> Caller | None:
    """One more connection that is served, or None where it was closed without a word."""
    caller = await stack.enter_async_context(calling(where))
    caller.send("GET /healthz HTTP/1.1\r\nhost: e\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        try:
            return caller if await caller.reader.readline() else None
        except ConnectionError:
            return None
