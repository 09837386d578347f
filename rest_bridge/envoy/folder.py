"""What an edge keeps on disk while it runs. What one that was killed has left is removed when the next one starts."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "orch8-envoy-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory, which Envoy names and never removes
# Unix sockets have at most 108 bytes of a path on Linux, and Envoy adds "_udp_parent_" and a number of ten digits.
_LONGEST = 80


class EdgeFolder:
    """A folder that only its user can read, and that its lock keeps from being removed by other edges."""

    def __init__(self) -> None:
        sweep()
        self.path, self._held = _made()

    @property
    def restarts(self) -> tuple[str, ...]:
        """Arguments with which the Envoys of this folder find each other, and no other user finds them.

        Empty where a hot restart is not possible: it needs shared memory, and sockets in this folder.
        """
        socket = self.path / "hot"
        if sys.platform != "linux" or not os.access(_MEMORY, os.W_OK) or len(os.fsencode(socket)) > _LONGEST:
            return ()
        return ("--socket-path", str(socket), "--socket-mode", "600")

    @property
    def base_id_file(self) -> Path:
        """Where the first Envoy writes by which number the next ones find it."""
        return self.path / "base-id"

    def write(self, name: str, text: str) -> Path:
        """A new file that nobody else can read."""
        file = self.path / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    def remove(self) -> None:
        """Removes it with all that belongs to it. Can be called twice."""
        if self._held is not None:
            _remove(self.path)
            os.close(self._held)
            self._held = None


def sweep() -> None:
    """Removes the folders of edges that are gone. Those of other users cannot be opened, and stay."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with _held_by_us(path) as held:
            if held is not None:
                _remove(path)


def _made() -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        held = _hold(path)
        # An edge that started at the same time may have taken the new folder for one that is nobody's.
        if held is not None and path.exists():
            return path, held
        if held is not None:
            os.close(held)


def _hold(path: Path) -> int | None:
    """Locks a folder until the descriptor is closed or the process ends; None where another process has it."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


@contextmanager
def _held_by_us(path: Path) -> Iterator[int | None]:
    held = _hold(path)
    try:
        yield held
    finally:
        if held is not None:
            os.close(held)


def _remove(path: Path) -> None:
    with suppress(OSError, ValueError):
        # Envoy multiplies the number by ten.
        base_id = int((path / "base-id").read_text())
        (_MEMORY / f"envoy_shared_memory_{base_id * 10}").unlink()
    shutil.rmtree(path, ignore_errors=True)
