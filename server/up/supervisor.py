"""Keeps the parts together: starts them, notices which one dies, and stops them all within 10 s."""

import asyncio
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.configuration import StartFailed
from server.providers.runtime.local import stop_all
from server.up.parts import Part
from server.up.processes import Child, stop_in_order

# Terminals and `make` may send the same Ctrl-C twice: only a later one is impatience.
SAME_PRESS_S = 0.5
TRACE_S = 0.3
SWEEP_KILL_AFTER_S = 1.0
SWEEP_WITHIN_S = 1.5
WRONG_SETTING = 2
_PROGRAM = "orch8-cloud: "


class PartDied(Exception):
    """A part ended by itself. The message names it and shows the end of its log."""

    def __init__(self, child: Child) -> None:
        tail = child.log_tail() or "(nothing)"
        super().__init__(f"The {child.name} {child.how_it_ended()}. The end of {child.log}:\n{tail}")


class Stop:
    """The wish to stop: SIGINT, SIGTERM or SIGHUP; a second one later means: at once."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.hurry = asyncio.Event()
        self._first_at = 0.0

    def listen(self) -> None:
        """Takes over the signals of this program. Under `nohup` it goes on without its terminal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """What a signal does."""
        if not self.wanted.is_set():
            self._first_at = time.monotonic()
            self.wanted.set()
        elif time.monotonic() - self._first_at >= SAME_PRESS_S:
            self.hurry.set()


class Supervisor:
    """The running parts of one data folder. Use it as an async context manager: it stops what it started."""

    def __init__(self, parts: Sequence[Part], *, data_dir: Path, logs: Path, stop: Stop) -> None:
        self._parts = parts
        self._data_dir = data_dir
        self._logs = logs
        self._stop = stop
        self.children: list[Child] = []

    async def __aenter__(self) -> "Supervisor":
        try:
            for part in self._parts:
                self.children.append(await Child.start(part, self._logs))
        except BaseException:
            await self._stop_all()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_all()

    async def watch(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work, and returns when a stop is wanted. Raises what the work raises, PartDied, or StartFailed."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wanted.wait())
        try:
            await self._until_over(working, stopping)
        finally:
            for task in (working, stopping):
                task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await working

    async def _until_over(self, working: asyncio.Task[None], stopping: asyncio.Task[bool]) -> None:
        watched: set[asyncio.Task[Any]] = {working, stopping, *(child.ended for child in self.children)}
        while True:
            done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                return
            started = working.done()
            if started and working.exception() is not None:
                # What failed may only be the first trace of a part that died.
                await asyncio.wait(
                    [child.ended for child in self.children], timeout=TRACE_S, return_when=asyncio.FIRST_COMPLETED
                )
            for child in self.children:
                if child.ended.done():
                    raise self._explain(child, started=started)
            await working

    def _explain(self, child: Child, *, started: bool) -> Exception:
        """A part that ends at its start because of a setting has said so in its last line."""
        last = child.log_tail().rpartition("\n")[2]
        if not started and child.ended.result() == WRONG_SETTING and last.startswith(_PROGRAM):
            return StartFailed(last.removeprefix(_PROGRAM))
        return PartDied(child)

    async def _stop_all(self) -> None:
        """The parts, then the engines that a server which died has left behind."""
        await stop_in_order(self.children, self._stop.hurry)
        patience = 0.0 if self._stop.hurry.is_set() else SWEEP_KILL_AFTER_S
        await stop_all(self._data_dir, kill_after=patience, within=SWEEP_WITHIN_S)
