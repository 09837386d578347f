"""One Envoy program. An edge that starts again without a gap has two of them for a while, on one port."""

import asyncio
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from rest_bridge.envoy.admin import Admin, written_address
from server.configuration import StartFailed
from server.domain.addresses import Address

KILL_AFTER = 1.5
_POLL = 0.02
_LINES_KEPT = 20


class EnvoyError(StartFailed):
    """Envoy did not start, or ended by itself. The message says why, in Envoy's own words where there are any."""


class Epoch:
    """A running Envoy; `number` is how many came before it."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, admin_file: Path) -> None:
        self.number = number
        self.process = process
        self.admin: Admin | None = None
        self._admin_file = admin_file
        self._last_lines: list[str] = []
        self._log = asyncio.create_task(self._forward_log())

    @classmethod
    async def spawn(cls, number: int, admin_file: Path, *command: str) -> Self:
        """Starts the program. The command tells it to write the address of its administration to the file."""
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        return cls(number, process, admin_file)

    async def _forward_log(self) -> None:
        """Passes Envoy's log on, and keeps its last lines to explain an early end."""
        stream = self.process.stderr
        while stream is not None and (line := await stream.readline()):
            text = line.decode(errors="replace").rstrip()
            self._last_lines = [*self._last_lines[1 - _LINES_KEPT :], text]
            sys.stderr.write(text + "\n")

    async def until_ready(self, within: float, listen: Address) -> None:
        """Waits until it takes requests. Raises EnvoyError with the reason if it does not."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise EnvoyError(await self._why_it_ended())
            if self.admin is None and (address := written_address(self._admin_file)):
                self.admin = Admin(address)
            if await self.is_ready():
                return
            await asyncio.sleep(_POLL)
        raise EnvoyError(f"Envoy was not ready within {within:g} s on {listen}")

    async def _why_it_ended(self) -> str:
        await self._log
        said = "\n".join(self._last_lines)
        if busy := re.search(r"cannot bind '([^']+)': Address already in use", said):
            return f"{busy[1]} is in use by another program. Stop it, or listen elsewhere."
        last = self._last_lines[-1] if self._last_lines else "it said nothing"
        return f"{how_it_ended(self.process.returncode or 0)}: {last}"

    async def is_ready(self) -> bool:
        """Whether it takes requests now."""
        return self.admin is not None and await self.admin.ready()

    async def end(self) -> None:
        """Ends it, if it has not ended."""
        for send in (self.process.terminate, self.process.kill):
            if self.process.returncode is None:
                with suppress(ProcessLookupError):
                    send()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), KILL_AFTER)
        await self._log


def how_it_ended(code: int) -> str:
    """An exit code of Envoy, in words; a negative one is the signal that killed it."""
    if code >= 0:
        return f"Envoy ended with exit code {code}"
    return f"Envoy was killed by {signal.Signals(-code).name}"
