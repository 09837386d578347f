"""The folder of one engine: its data, its log, and the note of the process that runs it."""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from server.providers.runtime.local_process import ProcessMark

LOG_LIMIT = 10 * 1024 * 1024
TAIL_LINES = 20
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNote:
    """Which process ran last, and on which port: how a new server finds an engine that survived the old one."""

    process: ProcessMark
    port: int


@dataclass(frozen=True, slots=True)
class EngineFolder:
    """`<data folder>/engines/<instance id>`, for this user only."""

    path: Path

    @property
    def log(self) -> Path:
        """All that the engine prints."""
        return self.path / "engine.log"

    @property
    def _note(self) -> Path:
        return self.path / "process.json"

    @property
    def exists(self) -> bool:
        """Whether there ever was an engine, and it was not destroyed."""
        return self.path.is_dir()

    def changed_at(self) -> datetime | None:
        """When a file of it last came or went; None where it is gone."""
        try:
            return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        except OSError:
            return None

    def make(self) -> None:
        """Makes the folder, closed to others."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Removes the engine's data and log for good."""
        if self.exists:
            shutil.rmtree(self.path)

    def read_note(self) -> RunNote | None:
        """The note of the last process. One that cannot be read is as good as none."""
        try:
            found = json.loads(self._note.read_text())
            mark = ProcessMark(pid=int(found["process"]["pid"]), started=str(found["process"]["started"]))
            # kill(0) and kill(-1) mean "everybody".
            return RunNote(process=mark, port=int(found["port"])) if mark.pid > 1 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_note(self, note: RunNote) -> None:
        """Keeps the note, whole or not at all."""
        new = self._note.with_suffix(".new")
        new.write_text(json.dumps(asdict(note)))
        new.chmod(0o600)
        new.replace(self._note)

    def open_log(self) -> BinaryIO:
        """The log, to be written at its end. A long one begins anew; the one before it is kept."""
        if self.log_size() > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        return os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")

    def log_size(self) -> int:
        """How long the log is now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_tail(self, since: int) -> str:
        """The last lines of what was logged from a position on."""
        with self.log.open("rb") as file:
            file.seek(max(since, self.log_size() - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


def free_port(preferred: int | None, taken: Set[int]) -> int:
    """The preferred port if it is free, else another. Ports that are taken may not be listened on yet."""
    if preferred is not None and preferred not in taken and _can_bind(preferred):
        return preferred
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As engines do: a port whose last connections linger can be listened on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def folders(engines: Path) -> Iterator[EngineFolder]:
    """The folders of all engines below a data folder's `engines`."""
    if engines.is_dir():
        yield from (EngineFolder(path) for path in sorted(engines.iterdir()) if path.is_dir())
