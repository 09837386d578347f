"""A line between two parts, which can be stalled and cut while both of them go on, and which loses answers."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

CHUNK = 64 * 1024

# A port of this machine, or a Unix socket.
Place = int | Path


def never() -> bool:
    """Loses nothing."""
    return False


async def connect(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to what listens there. Raises OSError where nothing does."""
    if isinstance(place, int):
        return await asyncio.open_connection("127.0.0.1", place)
    return await asyncio.open_unix_connection(place)


class Relay:
    """Carries bytes between a place of its own and one of several that listen, any of them. An async context manager.

    `loses` is asked once for each answer, when its first bytes come: so whatever was asked for has been done.
    """

    def __init__(self, listen: Place, *targets: Place, loses: Callable[[], bool] = never) -> None:
        self._listen, self._targets, self._loses = listen, targets, loses
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self._carrying: set[asyncio.Task[None]] = set()
        self.lost = 0

    async def __aenter__(self) -> Self:
        if isinstance(self._listen, int):
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._listen)
        else:
            self._listener = await asyncio.start_unix_server(self._accept, self._listen)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def stall(self) -> None:
        """Holds all bytes back, both ways."""
        self._flowing.clear()

    def cut(self) -> None:
        """Breaks all connections, and every new one."""
        self._is_cut = True
        for carrying in self._carrying:
            carrying.cancel()

    def mend(self) -> None:
        """Lets what was held back go on, and new connections through."""
        self._is_cut = False
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        # Cancelled is how it ends where the line is cut.
        with suppress(OSError, asyncio.CancelledError):
            await self._carry(reader, writer)
        self._carrying.discard(task)
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            return
        there, back = await self._reach()
        asked = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump(reader, back, asked.set)),
            asyncio.create_task(self._pump(there, writer, lambda: self._lose(asked))),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to any target that takes one."""
        *others, last = random.sample(self._targets, len(self._targets))
        for target in others:
            with suppress(OSError):
                return await connect(target)
        return await connect(last)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[], object]
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            seen()
            writer.write(data)
            await writer.drain()

    def _lose(self, asked: asyncio.Event) -> None:
        """Breaks the connection instead of an answer that has just begun, where it is to be lost."""
        if asked.is_set():
            asked.clear()
            if self._loses():
                self.lost += 1
                raise ConnectionAbortedError
