"""One engine as a process of this machine: started, watched, stopped, and found again after a crash of ours."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import httpx

from server.providers.runtime.base import EngineState, RuntimeFailed
from server.providers.runtime.local_folder import EngineFolder, RunNote, folders
from server.providers.runtime.local_process import ProcessMark, leaders_below

PROBE_TIMEOUT_S = 1.0
PROBE_INTERVAL_S = 1.0
SILENCE_S = 30.0  # an engine that answers nothing for so long is as good as dead
KILL_AFTER_S = 8.0
STRAYS_WITHIN_S = 2.0
STARTS = 3
_POLL_S = 0.02


class LocalEngine:
    """What this process knows of one engine. The note in its folder is what the next process will know."""

    def __init__(self, folder: EngineFolder) -> None:
        self.folder = folder
        self.lock = asyncio.Lock()
        self._note = folder.read_note()
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._starting = False
        self._failed_starts = 0
        self._exit_code: int | None = None
        self._log_start = 0
        self._heard_at = time.monotonic()
        self._probed_at = 0.0
        self._stopping_since: float | None = None

    @property
    def port(self) -> int | None:
        """Where it listens, or did last."""
        return self._note.port if self._note else None

    @property
    def is_alive(self) -> bool:
        """Whether its process runs. Reaps it if it has ended."""
        if self._child is not None:
            if self._child.poll() is None:
                return True
            self._exit_code, self._child = self._child.returncode, None
        return self._note is not None and self._note.process.is_alive

    def start(self, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
        """Starts the process, in a session of its own: a Ctrl-C in our terminal is ours. Raises RuntimeFailed."""
        with self.folder.open_log() as log:
            self._log_start = self.folder.log_size()
            try:
                # The command is the operator's choice (ORCH8_ENGINE_BIN) or ours, never a caller's.
                self._child = subprocess.Popen(  # noqa: S603
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder.path,
                    env=environment,
                    start_new_session=True,
                    umask=0o077,
                )
            except OSError as error:
                raise RuntimeFailed(f"The engine {command[0]} cannot be started: {error.strerror}.") from error
        self._note = RunNote(process=ProcessMark.of(self._child.pid), port=port)
        self.folder.write_note(self._note)
        self._ready, self._starting, self._stopping_since = False, True, None
        self._heard_at, self._probed_at = time.monotonic(), 0.0

    def give_up_after_failures(self, secrets: Collection[str]) -> None:
        """Counts a start that ended before the engine was ready. Raises RuntimeFailed at the third in a row."""
        if not self._starting:
            return
        self._starting = False
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            self._failed_starts = 0
            raise RuntimeFailed(self._why_it_ended(secrets))

    def _why_it_ended(self, secrets: Collection[str]) -> str:
        tail = self.folder.log_tail(self._log_start)
        for secret in filter(None, secrets):
            tail = tail.replace(secret, "…")
        code = self._exit_code
        how = "ended" if code is None else f"ended with exit code {code}" if code >= 0 else f"ended by signal {-code}"
        return f"The engine {how} before it was ready, {STARTS} times in a row. {tail or 'It logged nothing.'}"

    async def look(self, http: httpx.AsyncClient) -> EngineState:
        """What state it is in. An engine that has been silent for too long is killed, to be started again."""
        if not self.is_alive:
            return EngineState.STOPPED
        if self._stopping_since is not None:
            return self.stop()
        now = time.monotonic()
        if not self._ready or now - self._probed_at >= PROBE_INTERVAL_S:
            self._probed_at = now
            await self._probe(http)
        if time.monotonic() - self._heard_at >= SILENCE_S:
            self._stopping_since = time.monotonic()
            self._signal(signal.SIGKILL)
            return EngineState.STOPPING
        return EngineState.RUNNING if self._ready else EngineState.STARTING

    async def _probe(self, http: httpx.AsyncClient) -> None:
        """Asks its health endpoint. Any answer proves that it lives; the first 200 proves that it was ready."""
        try:
            answer = await http.get(f"http://127.0.0.1:{self.port}/health/ready", timeout=PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return
        self._heard_at = time.monotonic()
        if answer.status_code == httpx.codes.OK:
            self._ready, self._starting, self._failed_starts = True, False, 0

    def stop(self, kill_after: float = KILL_AFTER_S) -> EngineState:
        """Asks it to end, and insists after a while. Returns at once; call it until it says STOPPED."""
        if not self.is_alive:
            self._ready, self._starting, self._stopping_since = False, False, None
            return EngineState.STOPPED
        now = time.monotonic()
        if self._stopping_since is None:
            self._starting, self._stopping_since = False, now
            self._terminate()
        elif now - self._stopping_since >= kill_after:
            self._signal(signal.SIGKILL)
        return EngineState.STOPPING

    def _terminate(self) -> None:
        if self._note is not None:
            self._note.process.terminate_group()

    def _signal(self, number: signal.Signals) -> None:
        if self._note is not None:
            self._note.process.signal_group(number)


def end_strays(engines: Path) -> None:
    """Kills engines that no note names: their server was killed after it had started them and before it noted it.

    Nobody can be sure of such an engine's port and keys, and a second one must not work on the same data.
    """
    notes = (folder.read_note() for folder in folders(engines))
    noted = {note.process for note in notes if note is not None}
    strays = [process for process in leaders_below(engines) if process not in noted]
    for process in strays:
        process.signal_group(signal.SIGKILL)
    deadline = time.monotonic() + STRAYS_WITHIN_S
    while any(process.is_alive for process in strays) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


async def stop_engines(engines: Collection[LocalEngine], *, kill_after: float, within: float) -> None:
    """Stops several at once. Returns when all are gone, or when the time is over."""
    deadline = time.monotonic() + within
    left = [engine for engine in engines if engine.is_alive]
    while left and time.monotonic() < deadline:
        left = [engine for engine in left if engine.stop(kill_after) is not EngineState.STOPPED]
        await asyncio.sleep(_POLL_S)
