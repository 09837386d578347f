"""A load generator in plain Python, as a program: connections that each send a request as soon as the last is answered.

It gives the same figures as wrk within a few percent, since both spend their time in the same system calls. Unlike wrk
it checks every answer: each must begin with a status of 200 and end with the bytes that the upstream sends.

Its input is a file of one call a line: a path, a space, and a bearer token or nothing. The calls go out in turn.
"""

import argparse
import array
import gc
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

_OK = b"HTTP/1.1 200"
_SILENCE_S = 10.0
_SHOWN = 400
_PIECE = 64 * 1024


class LoadFailed(Exception):
    """An answer was not the expected one."""


class Connection:
    """One connection, with one request under way."""

    __slots__ = ("_socket", "began", "fileno", "receive", "received", "send")

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=_SILENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send, self.receive, self.fileno = self._socket.send, self._socket.recv, self._socket.fileno
        self.received = b""
        self.began = 0

    def close(self) -> None:
        """Hangs up, whatever is under way."""
        self._socket.close()


def drive(
    address: tuple[str, int], requests: Sequence[bytes], ending: bytes, *, connections: int, seconds: float, most: int
) -> dict[str, float]:
    """Sends requests for some seconds, or `most` of them, and says how it went. Raises LoadFailed."""
    opened = [Connection(*address) for _ in range(connections)]
    # Collecting garbage would stop the clock of requests that are under way.
    gc.disable()
    try:
        with selectors.DefaultSelector() as selector:
            for one in opened:
                selector.register(one.fileno(), selectors.EVENT_READ, one)
            began = time.perf_counter_ns()
            times = array.array("q", _times(selector, opened, cycle(requests).__next__, ending, seconds, most))
            took = (time.perf_counter_ns() - began) / 1e9
    finally:
        gc.enable()
        for one in opened:
            one.close()
    ordered = sorted(times)
    return {
        "requests": len(ordered),
        "seconds": took,
        "p50_us": ordered[len(ordered) // 2] / 1e3,
        "p99_us": ordered[len(ordered) * 99 // 100] / 1e3,
    }


def _times(
    selector: selectors.BaseSelector,
    opened: Sequence[Connection],
    next_request: Callable[[], bytes],
    ending: bytes,
    seconds: float,
    most: int,
) -> Iterator[int]:
    """How long each request took, in nanoseconds. It is one long loop because every call costs the measured a share."""
    clock, select = time.perf_counter_ns, selector.select
    for one in opened:
        one.began = clock()
        one.send(next_request())
    now, left = clock(), most
    end = now + int(seconds * 1e9)
    while now < end and left > 0:
        ready = select(_SILENCE_S)
        if not ready:
            raise LoadFailed(f"no answer within {_SILENCE_S:g} s")
        for key, _ in ready:
            one = key.data
            piece = one.receive(_PIECE)
            data = one.received + piece if one.received else piece
            if not (piece and data.startswith(_OK)):
                raise LoadFailed(_unexpected(data, closed=not piece))
            if data.endswith(ending):
                now = clock()
                yield now - one.began
                left -= 1
                one.received = b""
                one.began = clock()
                one.send(next_request())
            else:
                one.received = data


def _unexpected(data: bytes, *, closed: bool) -> str:
    text = data[:_SHOWN].decode("latin-1")
    return f"the connection was closed after: {text!r}" if closed else f"an answer that is not 200:\n{text}"


def read_requests(calls: Path, host: str) -> list[bytes]:
    """The requests of a file of calls, as they go over the wire."""
    requests = []
    for line in calls.read_text().splitlines():
        path, _, token = line.partition(" ")
        credential = f"authorization: Bearer {token}\r\n" if token else ""
        requests.append(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{credential}\r\n".encode())
    return requests


def main() -> None:
    """Prints the figures as JSON. An answer that is not the expected one is an exit code of 1, and said."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("calls", type=Path)
    parser.add_argument("--ending", type=str.encode, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--most", type=int, default=sys.maxsize)
    given = parser.parse_args()
    requests = read_requests(given.calls, f"{given.host}:{given.port}")
    try:
        figures = drive(
            (given.host, given.port),
            requests,
            given.ending,
            connections=given.connections,
            seconds=given.seconds,
            most=given.most,
        )
    except (LoadFailed, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
