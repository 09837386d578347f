"""Requests whose heads are as large as they may be, and a little larger: both data paths draw the same line."""

from collections.abc import Iterator

from rest_bridge.envoy.limits import Limits

COUNT = Limits().headers_count
SIZE = Limits().headers_kib * 1024


def with_count(path: str, count: int) -> bytes:
    """A request with so many headers."""
    lines = ["host: e", "connection: close", *(f"x-{number}: 1" for number in range(count - 2))]
    return f"GET {path} HTTP/1.1\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode()


def with_size(path: str, size: int) -> bytes:
    """A request of so many bytes, all of which are its head."""
    begin, end = f"GET {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\nx: ", "\r\n\r\n"
    return (begin + "a" * (size - len(begin + end)) + end).encode()


def table(path: str) -> Iterator[tuple[str, bytes, int]]:
    """Requests, each with its name and its status."""
    yield "as many headers as may be", with_count(path, COUNT), 200
    yield "one more", with_count(path, COUNT + 1), 431
    yield "as large as may be", with_size(path, SIZE), 200
    yield "one byte more", with_size(path, SIZE + 1), 431
    yield "much more", with_size(path, 2 * SIZE), 431
    yield "a long path", f"GET /{'a' * 2 * SIZE} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n".encode(), 431
