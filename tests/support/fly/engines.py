"""What runs inside a machine: the development engine, in the place of the image."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from server.providers.runtime.environment import inherited_environment

COMMAND = (sys.executable, "-P", "-m", "server.providers.runtime.devengine")
KILL_AFTER_S = 5.0


class Guest:
    """The process of one machine. Its mounts are folders here, and its network is one loopback address."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self, env: Mapping[str, str], mounts: Mapping[str, Path], address: str) -> None:
        """Starts the engine, told what the machine's configuration says."""
        inside = dict(env)
        inside["ORCH8_DATABASE_URL"] = _mounted(env.get("ORCH8_DATABASE_URL", ""), mounts)
        port = env.get("ORCH8_HTTP_ADDR", "0.0.0.0:8080").rpartition(":")[2]
        inside["ORCH8_HTTP_ADDR"] = f"{address}:{port}"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                env=inherited_environment() | inside,
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Waits for its end, and says its exit code."""
        return await self._process.wait() if self._process is not None else 0

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Asks it to end, insists after a while, and waits."""
        self._signal(number)
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await self.ended()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.ended()

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def _mounted(url: str, mounts: Mapping[str, Path]) -> str:
    """The database's address, where its path inside is a folder here. One on no volume would be lost with a stop."""
    path = url.removeprefix("sqlite://")
    for mount, folder in mounts.items():
        if path.startswith(f"{mount}/"):
            return f"sqlite://{folder}{path.removeprefix(mount)}"
    raise ValueError(f"the engine's database {url!r} is on no volume")
