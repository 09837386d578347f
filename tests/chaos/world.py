"""One server, a proxy that decides behind Envoy, and two that carry the bytes themselves; all real processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from server.providers.runtime.local import stop_all
from tests.chaos import engine
from tests.chaos.relay import Relay
from tests.support.parts import Parts
from tests.support.stack import free_port

SERVER, EDGE = "serve", "edge"
DECIDING, DIRECT, STRICT = "proxy", "direct", "direct-strict"
PROXIES = (DECIDING, DIRECT, STRICT)
# One outlives a restart of the server, one most halts, and one nothing.
STALE_S = {DECIDING: 10.0, DIRECT: 2.5, STRICT: 0.0}
CONFIRM_S = 1.5


class World:
    """The parts, and where they listen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        own = {name: {"ORCH8_PROXY_ID": name, "ORCH8_STALE_LIMIT": str(STALE_S[name])} for name in PROXIES}
        own[STRICT]["ORCH8_PROXY_LISTEN"] = f"127.0.0.1:{port}"
        self.lines = {name: Relay(folder / f"{name}.line", folder / "server.sock") for name in PROXIES}
        for name in PROXIES:
            own[name]["ORCH8_SERVER_ADDR"] = f"unix:{folder}/{name}.line"
        settings = {
            "ORCH8_ENGINE_BIN": str(engine.install(folder)),
            "ORCH8_CONFIRM_TIMEOUT": str(CONFIRM_S),
            "ORCH8_DEFAULT_PLAN": "enterprise",
            "ORCH8_DEV_ALLOW_LOOPBACK": "1",
            "ORCH8_ACCESS_LOG": "false",
            # Busy at once, so that decisions are repeated and what is proved holds for them too.
            "ORCH8_BUSY_FROM": "0",
        }
        self.parts = Parts(folder, settings=settings, own=own)
        self.entrances = {EDGE: self.parts.port, DIRECT: self.parts.direct_port, STRICT: port}

    async def until_listening(self, part: str) -> None:
        """Waits until a part that was started takes connections. One that has ended instead fails with its log."""
        while not await self._listens(part):
            assert self.parts.is_running(part), f"{part} ended by itself:\n{self.parts.log(part)[-4000:]}"
            await asyncio.sleep(0.02)

    async def _listens(self, part: str) -> bool:
        with suppress(OSError):
            if part in self.entrances:
                _, writer = await asyncio.open_connection("127.0.0.1", self.entrances[part])
            else:
                socket = "server.sock" if part == SERVER else "proxy.sock"
                _, writer = await asyncio.open_unix_connection(self.folder / socket)
            writer.close()
            return True
        return False


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """Everything started and listening; gone at the end, engines too, whatever happened to the server."""
    world = World(folder)
    parts = (SERVER, *PROXIES, EDGE)
    async with AsyncExitStack() as lines:
        for line in world.lines.values():
            await lines.enter_async_context(line)
        try:
            await world.parts.start(*parts)
            for part in parts:
                await world.until_listening(part)
            yield world
        finally:
            await world.parts.close()
            await stop_all(folder / "data")
