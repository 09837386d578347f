"""Child processes of `up`: each in its own session, with its own log, and gone when `up` is gone."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from server.domain.addresses import Address
from server.tether import tied
from server.up.parts import Part

TAIL_LINES = 20
TAIL_BYTES = 16 * 1024
# A part that takes longer to end is killed with the rest: all must be over within 10 s.
STAGE_S = 1.5
STOP_WITHIN_S = 6.5
KILL_WITHIN_S = 0.5
_POLL_S = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Child:
    """A part that was started."""

    name: str
    address: Address
    log: Path
    ended: asyncio.Task[int]
    pid: int

    @classmethod
    async def start(cls, part: Part, logs: Path) -> Self:
        """Starts a part. A Ctrl-C in the terminal does not reach it: `up` stops the parts in order."""
        log = logs / f"{part.name}.log"
        with _fresh_log(log) as output:
            process = await asyncio.create_subprocess_exec(
                *tied(*part.command),
                env=part.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        ended = asyncio.create_task(process.wait())
        return cls(name=part.name, address=part.address, log=log, ended=ended, pid=process.pid)

    def terminate(self) -> None:
        """Asks it to end gracefully, also where it was halted by a SIGSTOP. What it started is its own business."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
                os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Ends it and all that it started, also what it left behind when it died."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def how_it_ended(self) -> str:
        """Its exit code, or the signal that killed it, in words."""
        code = self.ended.result()
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"

    def log_tail(self) -> str:
        """The last lines that it logged."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])

    async def wait_listening(self) -> None:
        """Returns once it takes connections."""
        while True:
            if _accepts(self.address):
                return
            await asyncio.sleep(_POLL_S)


async def stop_in_order(children: Sequence[Child], hurry: asyncio.Event) -> None:
    """Ends them one after the other; by force whoever takes too long, and all of them in a hurry."""
    deadline = time.monotonic() + STOP_WITHIN_S
    for child in children:
        child.terminate()
        await _all_ended([child], STAGE_S, hurry)
    await _all_ended(children, deadline - time.monotonic(), hurry)
    for child in children:
        child.kill()
    await _all_ended(children, KILL_WITHIN_S, asyncio.Event())


async def _all_ended(children: Sequence[Child], within: float, hurry: asyncio.Event) -> None:
    if not children:
        return
    hurried = asyncio.create_task(hurry.wait())
    everybody = asyncio.ensure_future(asyncio.wait([child.ended for child in children]))
    await asyncio.wait({hurried, everybody}, timeout=max(0, within), return_when=asyncio.FIRST_COMPLETED)
    for waiting in (hurried, everybody):
        waiting.cancel()


def _fresh_log(log: Path) -> IO[bytes]:
    """A new log. The one of the run before is kept beside it."""
    log.parent.mkdir(mode=0o700, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _accepts(address: Address) -> bool:
    family = socket.AF_UNIX if address.is_unix else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(address.path if address.is_unix else (address.host, address.port))
        except OSError:
            return False
        return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
