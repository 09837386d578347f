"""Starts the engine: `python -m server.providers.runtime.devengine`, configured by the real engine's variables."""

import asyncio
import signal
import socket
import sys
from types import FrameType

import uvicorn

from server.providers.runtime.devengine import log, settings
from server.providers.runtime.devengine.app import build
from server.providers.runtime.devengine.engine import VERSION

GRACE_S = 5


class _Server(uvicorn.Server):
    """Says where it listens, and tells the streams when it is time to end."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("development engine is ready", address=f"{host}:{port}", version=VERSION)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)


async def serve(chosen: settings.Settings) -> bool:
    """Serves until a signal, and says whether it could."""
    stopping = asyncio.Event()
    config = uvicorn.Config(
        build(chosen, stopping),
        host=chosen.host,
        port=chosen.port,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, stopping)
    await server.serve()
    return server.started


def main() -> int:
    """The exit status: 0 after a stop that was asked for, 2 for a wrong setting."""
    try:
        chosen = settings.load()
    except settings.WrongSetting as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 2
    log.configure(as_json=chosen.log_json)
    # The web server raises the signal again once it is down; by then it has been obeyed.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    try:
        return 0 if _run(chosen) else 1
    except settings.WrongSetting as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 2


def _run(chosen: settings.Settings) -> bool:
    if sys.platform == "win32":
        return asyncio.run(serve(chosen))
    import uvloop

    return bool(uvloop.run(serve(chosen)))


if __name__ == "__main__":
    raise SystemExit(main())
