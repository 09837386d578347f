"""Opens the socket on which a program listens, so that what goes wrong can be said in one sentence."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.configuration import StartFailed
from server.domain.addresses import Address

BACKLOG = 2048


class CannotListen(StartFailed):
    """The address cannot be listened on. The message is one sentence that says why."""


def open_socket(address: Address, part: str) -> socket.socket:
    """A listening socket of a part of the product. A Unix socket is for this user only (mode 0600).

    Raises CannotListen.
    """
    try:
        opened = _unix(Path(address.path)) if address.is_unix else _tcp(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotListen(f"The {part} cannot listen on {address}: {reason}.") from error
    opened.setblocking(False)
    return opened


def close_socket(opened: socket.socket, address: Address) -> None:
    """Closes the socket, and removes its file."""
    opened.close()
    if address.is_unix:
        Path(address.path).unlink(missing_ok=True)


def _tcp(address: Address) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def _unix(path: Path) -> socket.socket:
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with private_files():
            opened.bind(str(path))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


@contextmanager
def private_files() -> Iterator[None]:
    """Files that are made within are for this user only: they never have a wider mode, not even for a moment."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    """Removes the socket file of a process that is gone. One that still answers is left alone: bind then fails."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
