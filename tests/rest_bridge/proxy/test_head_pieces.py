"""A head is too large or it is not, however the network cuts it into pieces."""

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from rest_bridge.proxy.app import new_server
from tests.rest_bridge import heads

BODY = 70_000
WITH_BODY = b"POST / HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % BODY + bytes(BODY)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def write(self, data: Any) -> None: ...

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None: ...


async def is_read(sent: bytes, cuts: list[int]) -> bool:
    """Whether the last request of all that is sent is taken for one."""
    config = new_server(app, direct=True).config
    config.load()
    make: Any = config.http_protocol_class
    protocol = make(config=config, server_state=ServerState(), app_state={})
    protocol._start_asgi_task = lambda cycle, app: None
    protocol.connection_made(Wire())
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for begin, end in pairwise(edges):
        protocol.data_received(sent[begin:end])
    protocol.connection_lost(ConnectionError())
    return bool(protocol.scope.get("raw_path") == b"/last")


@given(
    follows=st.booleans(),
    size=st.integers(200, heads.SIZE + 100_000) | st.integers(heads.SIZE - 5, heads.SIZE + 5),
    cuts=st.lists(st.integers(1, 200_000), max_size=4),
)
@example(follows=False, size=heads.SIZE + 1, cuts=[heads.SIZE - 100])
@example(follows=True, size=heads.SIZE, cuts=[])
@example(follows=True, size=heads.SIZE + 1, cuts=[len(WITH_BODY) + 50_000])
@settings(deadline=None)
def test_it_does_not_matter_in_which_pieces_a_head_comes(follows: bool, size: int, cuts: list[int]) -> None:
    sent = (WITH_BODY if follows else b"") + heads.with_size("/last", size)
    assert asyncio.run(is_read(sent, cuts)) == (size <= heads.SIZE)
