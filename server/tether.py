"""Becomes another program that the kernel ends when its parent dies, however it dies.

A program of its own, run as `python tether.py PARENT PROGRAM ARGUMENT…`: the same done between fork and exec would run
gRPC's fork handlers in the child of a process that serves gRPC, which can abort it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tied(*command: str) -> tuple[str, ...]:
    """The command, changed so that the program ends when this process does."""
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *command)


def main(parent: int, program: list[str]) -> None:
    """Ties this process to its parent, and replaces it by the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the parent is gone already")
    try:
        os.execv(program[0], program)  # noqa: S606  # the arguments are our own, and no shell reads them
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
