"""The whole product as a newcomer starts it: `orch8-cloud up`, in a process of its own."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 60.0
STOP_S = 15.0


@dataclass
class Stack:
    """A running `up`: its process, what its ready file says, and what it printed."""

    process: asyncio.subprocess.Process
    port: int
    data_dir: Path
    output: Path
    ready: dict[str, str]

    @property
    def url(self) -> str:
        return self.ready["url"]

    def printed(self) -> str:
        return self.output.read_text()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks it to stop and says how it ended."""
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def start(data_dir: Path, *arguments: str, port: int, output: Path, env: Mapping[str, str] | None = None) -> Any:
    """Starts the command; its output goes to a file."""
    with output.open("wb") as stream:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "up", "--port", str(port), "--data-dir", str(data_dir), *arguments),
            stdout=stream,
            stderr=stream,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )


@asynccontextmanager
async def running_stack(
    folder: Path, *arguments: str, port: int = 0, env: Mapping[str, str] | None = None
) -> AsyncIterator[Stack]:
    """The product, ready; stopped at the end, whatever happened."""
    port = port or free_port()
    ready, output = folder / "ready.json", folder / "up.out"
    process = await start(folder / "data", "--ready-file", str(ready), *arguments, port=port, output=output, env=env)
    try:
        yield Stack(process, port, folder / "data", output, await _ready(ready, process, output))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await process.wait()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _ready(path: Path, process: asyncio.subprocess.Process, output: Path) -> dict[str, str]:
    async with asyncio.timeout(START_S):
        while not path.exists():
            assert process.returncode is None, output.read_text()
            await asyncio.sleep(0.02)
    return dict(json.loads(path.read_text()))


def processes_naming(text: str) -> dict[int, str]:
    """Every process whose command line or environment names the text."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                if text.encode() in words:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found
