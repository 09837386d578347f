"""A caller that sends bytes as they are and reads the answer to the end of the connection."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

PATIENCE = 20.0


@dataclass(frozen=True)
class Answer:
    """An HTTP/1.1 answer. `interim` are the statuses of the 1xx answers before it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    interim: tuple[int, ...] = ()

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    def names(self) -> set[str]:
        return {name for name, _ in self.headers}

    def error(self) -> dict[str, Any]:
        """The error, which must have the contract's shape."""
        assert self.header("content-type") == "application/json", (self.headers, self.body)
        found: dict[str, Any] = json.loads(self.body)
        assert set(found) == {"code", "message", "details"}, found
        info = found["details"][0]
        assert (info["@type"], info["domain"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "cloud.orch8.io"), found
        assert all(isinstance(value, str) for value in info["metadata"].values()), found
        assert found["message"][0].isupper(), found
        return found

    @property
    def reason(self) -> str | None:
        """The reason of an error of ours; None where the engine answered."""
        if self.header("x-engine") is not None:
            return None
        return str(self.error()["details"][0]["reason"])


def request(
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    method: str = "GET",
    host: str = "a.test",
) -> bytes:
    """A request that nothing has cleaned up. It asks for the connection to end after it, unless its headers do."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in given]
    if "connection" not in names:
        lines.append("Connection: close")
    if body and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that ends with the block, whatever happens on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def send(port: int, sent: bytes) -> Answer:
    """Sends bytes, and reads one answer."""
    async with asyncio.timeout(PATIENCE), connected(port) as (reader, writer):
        # Whoever refuses a request early need not read the rest of it.
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        return await read_answer(reader, head=sent.startswith(b"HEAD "))


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    """The next final answer of a connection."""
    interim: list[int] = []
    while True:
        status, headers = await read_head(reader)
        if not 100 <= status < 200 or status == 101:
            break
        interim.append(status)
    body = b"" if head or status in (101, 204, 304) else await _body(reader, dict(headers))
    return Answer(status, headers, body, tuple(interim))


async def read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers, of an interim answer too."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return int(first.split()[1]), headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while chunk := await read_chunk(reader):
            body += chunk
        return body
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """One chunk of a body; the last one is empty."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    chunk = await reader.readexactly(size)
    while size == 0 and await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    if size:
        await reader.readexactly(2)
    return chunk
