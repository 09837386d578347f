"""What is looked at before anything is started. Each check fails with one sentence that says what to change."""

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.configuration import StartFailed
from server.up.options import HOST, Options


@contextmanager
def prepared(options: Options) -> Iterator[None]:
    """Checks everything, and holds the data folder until the block ends. Raises StartFailed."""
    make_data_folder(options)
    with locked(options):
        check_port(options.port)
        if options.ready_file is not None:
            check_ready_file(options.ready_file)
        yield


def make_data_folder(options: Options) -> None:
    """Makes the data folder, for this user only. One that holds other things too keeps the mode that it has."""
    folder = options.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if options.keyring.exists() or not any(folder.iterdir()):
            folder.chmod(0o700)
    except (FileExistsError, NotADirectoryError):
        raise StartFailed(f"The data folder {folder} is not a folder; choose another with --data-dir.") from None
    except OSError as error:
        raise StartFailed(_unusable(folder, error)) from error


def _unusable(folder: Path, error: OSError) -> str:
    why = (error.strerror or str(error)).lower()
    return f"The data folder {folder} cannot be written to ({why}); choose another with --data-dir."


@contextmanager
def locked(options: Options) -> Iterator[None]:
    """Holds the folder: a second `up` on it would start the same engines on the same data."""
    try:
        file = os.open(options.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartFailed(_unusable(options.data_dir, error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise StartFailed(
            f"Another `orch8-cloud up` (process {holder}) runs on the data folder {options.data_dir}; "
            "stop it, or choose another folder with --data-dir and another --port."
        ) from None
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(file)


def check_port(port: int) -> None:
    """Nobody else may listen on the port, under any of the addresses that `localhost` stands for."""
    for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartFailed(f"Port {port} is in use by another program; choose one with --port.") from None
            if error.errno == errno.EACCES:
                raise StartFailed(f"Port {port} is not for ordinary users; choose one with --port.") from None
            if family == socket.AF_INET:
                raise StartFailed(f"Port {port} cannot be listened on: {error.strerror}.") from error


def check_ready_file(path: Path) -> None:
    """The ready file can be written, and none of an earlier run is left."""
    try:
        path.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StartFailed(f"The ready file {path} cannot be written ({why}); see --ready-file.") from error
