"""Real processes of the product, the lines between them, and where each of them listens."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from server.providers.runtime.local import stop_all
from tests.chaos.relay import Place, Relay, connect
from tests.support.parts import Parts

EDGE = "edge"


class World:
    """The parts, the lines (by the part whose line to the server it is), and the places at which parts listen.

    The parts are started in the order of `places`.
    """

    def __init__(self, folder: Path, parts: Parts, lines: Mapping[str, Relay], places: Mapping[str, Place]) -> None:
        self.folder, self.parts, self.lines, self.places = folder, parts, lines, places

    async def until_listening(self, part: str) -> None:
        """Waits until a part that was started takes connections. One that has ended instead fails with its log."""
        while not await self._listens(part):
            assert self.parts.is_running(part), f"{part} ended by itself:\n{self.parts.log(part)[-4000:]}"
            await asyncio.sleep(0.02)

    async def _listens(self, part: str) -> bool:
        try:
            _, writer = await connect(self.places[part])
        except OSError:
            return False
        writer.close()
        return True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started and listening; gone at the end, engines too, whatever happened to the server."""
        async with AsyncExitStack() as lines:
            for line in self.lines.values():
                await lines.enter_async_context(line)
            try:
                await self.parts.start(*self.places)
                for part in self.places:
                    await self.until_listening(part)
                yield
            finally:
                await self.parts.close()
                await stop_all(self.folder / "data")
