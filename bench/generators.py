"""The two load generators, behind one call: wrk where it is installed, else our own, which measures the same."""

import asyncio
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.envoys import BODY
from bench.errors import BenchFailed
from server.domain.addresses import Address
from server.tether import tied

_ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = Path(__file__).with_name("wrk.lua")
# A first pass asks the server for every key and route once.
_FIRST_PASS_S = 60.0
_FEWEST = 200
_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is called: an address, and a file of calls (load.py says which form it has)."""

    address: Address
    calls: Path
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one measurement gave."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float


class Generator(Protocol):
    """Makes load. Raises BenchFailed where any answer is not a success."""

    name: str

    async def run(self, target: Target, *, connections: int, seconds: float) -> Figures:
        """Closed loop: each connection sends its next request when it has the answer to the last."""
        ...


class OwnLoad:
    """load.py, in a process of its own."""

    name = "bench/load.py"

    async def run(self, target: Target, *, connections: int, seconds: float) -> Figures:
        """Every answer's body is checked too."""
        return await self._run(target, connections, seconds)

    async def first_pass(self, target: Target) -> Figures:
        """Sends every call at least once, one at a time: what is asked for the first time costs the most."""
        return await self._run(target, 1, _FIRST_PASS_S, "--most", str(max(target.count, _FEWEST)))

    async def _run(self, target: Target, connections: int, seconds: float, *more: str) -> Figures:
        address = target.address
        return await _figures(
            (sys.executable, "-m", "bench.load", address.host, str(address.port), str(target.calls)),
            ("--ending", BODY, "--connections", str(connections), "--seconds", str(seconds), *more),
            seconds,
        )


class Wrk:
    """wrk with one thread. It measures whole seconds only, and looks at no body."""

    def __init__(self, program: str) -> None:
        self.name = "wrk"
        self._program = program

    async def run(self, target: Target, *, connections: int, seconds: float) -> Figures:
        """Sends the calls by a script."""
        whole = max(1, math.floor(seconds))
        options = ("-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(_SCRIPT))
        url = f"http://{target.address}/"
        return await _figures((self._program, *options, url), ("--", str(target.calls)), whole)


def choose(*, own_load: bool) -> Generator:
    """wrk if it is on the PATH, unless our own is wanted."""
    program = None if own_load else shutil.which("wrk")
    return Wrk(program) if program else OwnLoad()


def write_calls(path: Path, calls: Sequence[tuple[str, str]]) -> None:
    """Writes paths and tokens in the form that both generators read, for this user only."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{where} {token}\n" for where, token in calls))


async def _figures(command: Sequence[str], arguments: Sequence[str], seconds: float) -> Figures:
    process = await asyncio.create_subprocess_exec(
        *tied(*command, *arguments),
        cwd=_ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds + _PATIENCE_S):
            said, complained = await process.communicate()
    except TimeoutError:
        raise BenchFailed("the load generator did not end in time") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode:
        raise BenchFailed((complained or said).decode(errors="replace").strip())
    return _read(said.decode())


def _read(said: str) -> Figures:
    """The figures in the last line."""
    found = json.loads(said.strip().splitlines()[-1])
    for problem in ("refused", "broken"):
        if found.get(problem):
            raise BenchFailed(f"{found[problem]} of {found['requests']} requests were {problem}")
    if not found["requests"]:
        raise BenchFailed("there was not one answer: give each line more seconds")
    count = found["requests"]
    return Figures(requests=count, rps=count / found["seconds"], p50_us=found["p50_us"], p99_us=found["p99_us"])
