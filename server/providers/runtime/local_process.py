"""Processes that outlive their parent: recognized again by their start, so that a recycled pid is never signalled."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# proc_pid_stat(5): the state is field 3 and the start time field 22; counted after the name, which is field 2.
_STATE, _STARTED = 0, 19
_DEAD = frozenset("ZXx")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessMark:
    """A process, and when it was started: the two together are never used twice."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessMark":
        """The mark of a process that runs now; one that has already ended gets a mark that matches nothing."""
        return cls(pid=pid, started=_started(pid) or "")

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs. A zombie does not."""
        # Where we are its parent ourselves, it must be reaped to be gone.
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return bool(self.started) and _started(self.pid) == self.started

    def signal_group(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to what it started, if it still runs. It must lead its own group."""
        if self.is_alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def terminate_group(self) -> None:
        """Asks it to end, also where it was halted by a SIGSTOP."""
        self.signal_group(signal.SIGTERM)
        self.signal_group(signal.SIGCONT)


def leaders_below(folder: Path) -> list[ProcessMark]:
    """The processes that lead a session of their own and work in a folder, or below it. Linux only; elsewhere none."""
    found = []
    for entry in Path("/proc").iterdir() if sys.platform == "linux" else ():
        if entry.name.isdigit():
            # It may be gone by now, or another user's.
            with suppress(OSError):
                pid = int(entry.name)
                if os.getsid(pid) == pid and (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(ProcessMark.of(pid))
    return found


def _started(pid: int) -> str | None:
    """When a process was started, as the system says it; None where there is no such process."""
    return _started_linux(pid) if sys.platform == "linux" else _started_elsewhere(pid)


def _started_linux(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text[text.rindex(")") + 1 :].split()
        # The start is counted in ticks since boot.
        return None if fields[_STATE] in _DEAD else f"{fields[_STARTED]}@{_BOOT_ID.read_text().strip()}"
    except (OSError, ValueError):
        return None


def _started_elsewhere(pid: int) -> str | None:
    command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    # Fixed arguments; the time zone and language are fixed, so that two processes of ours read the same text.
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "TZ": "UTC"})  # noqa: S603
    state, _, started = found.stdout.strip().partition(" ")
    return started.strip() or None if state and state[0] not in _DEAD else None
