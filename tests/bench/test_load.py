"""A measurement in which anything but the expected answer came back is no measurement."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.errors import BenchFailed
from bench.generators import OwnLoad, Target, Wrk, write_calls
from bench.load import LoadFailed, drive, read_requests
from server.domain.addresses import Address

BODY = b'{"items":[]}'
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Reply = Callable[[socket.socket, bytes], None]


@contextmanager
def serving(reply: Reply) -> Iterator[tuple[str, int]]:
    """Answers every piece that comes, on any number of connections."""

    def talk(caller: socket.socket) -> None:
        # The load hangs up when it has enough, whatever is under way.
        with caller, suppress(OSError):
            while piece := caller.recv(65536):
                reply(caller, piece)

    def accept() -> None:
        while True:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(caller,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listening.getsockname()
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def in_two_pieces(caller: socket.socket, _: bytes) -> None:
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    caller.sendall(GOOD[:30])
    caller.sendall(GOOD[30:])


@pytest.mark.parametrize("reply", [lambda caller, _: caller.sendall(GOOD), in_two_pieces], ids=["whole", "in pieces"])
def test_counts_every_answer_once(reply: Reply) -> None:
    with serving(reply) as address:
        figures = drive(address, [REQUEST], BODY, connections=4, seconds=30, most=100)
    assert 100 <= figures["requests"] < 104
    assert 0 < figures["p50_us"] <= figures["p99_us"]


def test_sends_the_calls_in_turn() -> None:
    seen: list[bytes] = []

    def reply(caller: socket.socket, piece: bytes) -> None:
        seen.append(piece)
        caller.sendall(GOOD)

    with serving(reply) as address:
        drive(address, [b"one\r\n\r\n", b"two\r\n\r\n"], BODY, connections=1, seconds=30, most=4)
    assert seen[:4] == [b"one\r\n\r\n", b"two\r\n\r\n"] * 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        b"nonsense",
    ],
)
def test_any_other_answer_fails_it(answer: bytes) -> None:
    with (
        serving(lambda caller, _: caller.sendall(answer)) as address,
        pytest.raises(LoadFailed, match=answer[:12].decode()),
    ):
        drive(address, [REQUEST], BODY, connections=2, seconds=30, most=10)


def test_a_connection_that_is_closed_fails_it() -> None:
    def reply(caller: socket.socket, _: bytes) -> None:
        caller.sendall(GOOD[:40])
        caller.shutdown(socket.SHUT_WR)

    with serving(reply) as address, pytest.raises(LoadFailed, match="closed after"):
        drive(address, [REQUEST], BODY, connections=1, seconds=30, most=10)


def test_calls_are_written_and_read_alike(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    write_calls(calls, [("/a", "orc8_live_x"), ("/b", "")])
    assert calls.stat().st_mode & 0o777 == 0o600
    assert read_requests(calls, "h:1") == [
        b"GET /a HTTP/1.1\r\nhost: h:1\r\nauthorization: Bearer orc8_live_x\r\n\r\n",
        b"GET /b HTTP/1.1\r\nhost: h:1\r\n\r\n",
    ]


def target(folder: Path, address: tuple[str, int] = ("127.0.0.1", 9)) -> Target:
    write_calls(folder / "calls", [("/", "")])
    return Target(address=Address(host=address[0], port=address[1]), calls=folder / "calls", count=1)


async def test_what_the_program_says_reaches_the_reader(tmp_path: Path) -> None:
    with (
        serving(lambda caller, _: caller.sendall(b"HTTP/1.1 429 Slow down\r\n\r\n")) as address,
        pytest.raises(BenchFailed, match="429 Slow down"),
    ):
        await OwnLoad().run(target(tmp_path, address), connections=2, seconds=1)


def fake_wrk(folder: Path, refused: int) -> str:
    """Prints what wrk prints with our script."""
    program = folder / "wrk"
    line = f'{{"requests": 90, "seconds": 2.0, "p50_us": 10.5, "p99_us": 20, "refused": {refused}, "broken": 0}}'
    program.write_text(f"#!/bin/sh\necho Running 2s test\necho '{line}'\n")
    program.chmod(0o755)
    return str(program)


async def test_reads_what_wrk_measured(tmp_path: Path) -> None:
    figures = await Wrk(fake_wrk(tmp_path, 0)).run(target(tmp_path), connections=1, seconds=2)
    assert (figures.requests, figures.rps, figures.p50_us, figures.p99_us) == (90, 45.0, 10.5, 20)


async def test_requests_that_wrk_saw_refused_fail_it(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="3 of 90 requests were refused"):
        await Wrk(fake_wrk(tmp_path, 3)).run(target(tmp_path), connections=1, seconds=2)
