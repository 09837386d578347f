"""The programs that a run starts: each in a session of its own, with its own log, and gone when the run is over."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.errors import BenchFailed
from server.tether import tied

_ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.05
_STOP_WITHIN_S = 8.0
_LINES = 12


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    name: str
    log: Path
    process: asyncio.subprocess.Process

    def check(self) -> None:
        if self.process.returncode is not None:
            said = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LINES:])
            raise BenchFailed(f"{self.name} ended with exit code {self.process.returncode}:\n{said}")

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Programs:
    """Starts programs, and ends them all, the last one first. Use it as an async context manager."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._running: list[_Program] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, name: str, *command: str, env: Mapping[str, str] | None = None, quiet: bool = False) -> None:
        """Starts a program with `env` added to its environment. `quiet` throws its standard output away."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *tied(*command),
                env={**self._environment, **(env or {})},
                cwd=_ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL if quiet else output,
                stderr=output,
                start_new_session=True,
            )
        self._running.append(_Program(name=name, log=log, process=process))

    def check(self) -> None:
        """Raises BenchFailed where a program has ended, with what it said last."""
        for program in self._running:
            program.check()

    async def until(self, ready: Callable[[], Awaitable[bool]], *, what: str, within: float) -> None:
        """Returns when something is ready. Raises BenchFailed where a program ends, or it takes too long."""
        deadline = time.monotonic() + within
        while not await ready():
            self.check()
            if time.monotonic() > deadline:
                raise BenchFailed(f"{what} was not ready within {within:g} s")
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Ends all programs: gracefully, and by force those that take too long."""
        running, self._running = self._running[::-1], []
        for program in running:
            program.send(signal.SIGTERM)
        ends = [asyncio.ensure_future(program.process.wait()) for program in running]
        if ends:
            await asyncio.wait(ends, timeout=_STOP_WITHIN_S)
        for program in running:
            program.send(signal.SIGKILL)
        await asyncio.gather(*ends)
