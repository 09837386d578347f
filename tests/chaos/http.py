"""A client that does nothing by itself: one connection, no retries, and it knows when the first byte left."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Self

LIMIT = 256 * 1024


@dataclass(frozen=True, slots=True)
class Times:
    """When the connection was made, when the request began and when its answer was complete (monotonic)."""

    connected: float
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end. `status` None: there was none, the connection could not be made or broke."""

    times: Times
    status: int | None
    body: bytes = b""

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def info(self) -> dict[str, Any]:
        """Reason and metadata of an error, where the body has the contract's shape."""
        try:
            found: dict[str, Any] = self.json()["details"][0]
        except (ValueError, LookupError, TypeError):
            return {}
        return found

    @property
    def reason(self) -> str:
        """The reason of an error; nothing where there is none."""
        return str(self.info.get("reason", "")) if self.status is not None and self.status >= 300 else ""


class Caller:
    """One connection to one address, made again when it is gone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._connected = 0.0

    async def call(self, method: str, target: str, headers: dict[str, str], body: Any = None) -> Answer:
        """One request, as JSON where it has a body. Never raises for what the other side does."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "host: localhost", f"content-length: {len(content)}"]
        if content:
            lines.append("content-type: application/json")
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""])
        started = time.monotonic()
        try:
            reader, writer = await self._connection()
            started = time.monotonic()
            writer.write(head.encode() + content)
            status, found = await self._answer(reader)
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.close()
            return Answer(Times(self._connected, started, time.monotonic()), None)
        return Answer(Times(self._connected, started, time.monotonic()), status, found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next call makes another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof() or self._writer.is_closing():
            self.close()
            self._connected = time.monotonic()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LIMIT)
        return self._reader, self._writer

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        status = int(first.split(" ")[1])
        if fields.get("transfer-encoding") == "chunked":
            body = await _chunks(reader)
        else:
            body = b"" if status == 204 else await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return status, body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
