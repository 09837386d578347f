"""The line between one proxy and the server, which can be stalled and cut while both of them go on."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Self

CHUNK = 64 * 1024


class Relay:
    """Carries bytes between a Unix socket of its own and that of the server. An async context manager."""

    def __init__(self, listen: Path, server: Path) -> None:
        self._listen, self._server = listen, server
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self._carrying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
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
        there, back = await asyncio.open_unix_connection(self._server)
        pumps = [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
