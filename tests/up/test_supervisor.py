import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from server.configuration import StartFailed
from server.domain.addresses import Address
from server.up.parts import Part
from server.up.processes import KILL_WITHIN_S, STOP_WITHIN_S
from server.up.supervisor import SWEEP_WITHIN_S, PartDied, Stop, Supervisor

OBEDIENT = """
import pathlib, signal, socket, sys
pathlib.Path(sys.argv[1]).unlink(missing_ok=True)
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit(0)))
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("up", flush=True)
while True:
    signal.pause()
"""
STUBBORN = OBEDIENT.replace('lambda *_: (print("bye", flush=True), sys.exit(0))', "signal.SIG_IGN")
DYING = "import sys; print('the last words', flush=True); sys.exit(7)"
MISCONFIGURED = "import sys; print('orch8-cloud: ORCH8_X: is wrong', flush=True); sys.exit(2)"
PARENT = (
    "import subprocess, sys; "
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True);" + OBEDIENT
)


def part(folder: Path, name: str, code: str) -> Part:
    path = folder / f"{name}.sock"
    return Part(
        name=name,
        command=(sys.executable, "-c", code, str(path)),
        environment={},
        address=Address(path=str(path)),
    )


def supervise(folder: Path, stop: Stop, **codes: str) -> Supervisor:
    chosen = [part(folder, name, code) for name, code in codes.items()]
    return Supervisor(chosen, data_dir=folder, logs=folder / "logs", stop=stop)


async def all_listening(supervisor: Supervisor) -> None:
    async with asyncio.timeout(10):
        for child in supervisor.children:
            await child.wait_listening()


async def run(supervisor: Supervisor, work: Coroutine[Any, Any, None]) -> None:
    async with supervisor:
        await supervisor.watch(work)


def is_gone(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


async def test_stops_in_order_when_asked(tmp_path: Path) -> None:
    stop = Stop()
    async with supervise(tmp_path, stop, edge=OBEDIENT, proxy=OBEDIENT, server=OBEDIENT) as supervisor:

        async def work() -> None:
            await all_listening(supervisor)
            stop.ask()
            await asyncio.Event().wait()

        await supervisor.watch(work())
        pids = [child.pid for child in supervisor.children]
    assert [Path(f"/proc/{pid}").exists() for pid in pids] == [False] * 3
    said = [(tmp_path / "logs" / f"{name}.log") for name in ("edge", "proxy", "server")]
    assert [log.read_text() for log in said] == ["up\nbye\n"] * 3
    times = [log.stat().st_mtime_ns for log in said]
    assert times == sorted(times)


async def test_part_that_dies_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Stop(), edge=OBEDIENT, proxy=DYING)
    with pytest.raises(PartDied, match=r"The proxy ended with exit code 7(.|\n)*the last words"):
        await run(supervisor, asyncio.sleep(60))
    assert [child.ended.done() for child in supervisor.children] == [True, True]


async def test_part_that_is_killed_is_named_even_where_the_work_notices_first(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Stop(), edge=OBEDIENT)

    async def work() -> None:
        await all_listening(supervisor)
        os.kill(supervisor.children[0].pid, signal.SIGKILL)
        raise ValueError("the edge does not answer")

    with pytest.raises(PartDied, match="The edge was killed by SIGKILL"):
        await run(supervisor, work())


async def test_wrong_setting_of_a_part_is_told_in_its_sentence(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Stop(), server=MISCONFIGURED)
    with pytest.raises(StartFailed, match=r"^ORCH8_X: is wrong$"):
        await run(supervisor, asyncio.sleep(60))


async def test_failure_of_the_work_stops_everything(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, Stop(), edge=OBEDIENT)

    async def work() -> None:
        raise ValueError("nothing works")

    with pytest.raises(ValueError, match="nothing works"):
        await run(supervisor, work())
    assert supervisor.children[0].ended.done()


async def test_halted_part_ends_gracefully(tmp_path: Path) -> None:
    began = time.monotonic()
    async with supervise(tmp_path, Stop(), edge=OBEDIENT) as supervisor:
        await all_listening(supervisor)
        os.kill(supervisor.children[0].pid, signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "bye" in (tmp_path / "logs" / "edge.log").read_text()


async def test_stubborn_part_is_killed_at_once_in_a_hurry(tmp_path: Path) -> None:
    stop = Stop()
    async with supervise(tmp_path, stop, edge=STUBBORN) as supervisor:
        await all_listening(supervisor)
        stop.hurry.set()
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert supervisor.children[0].ended.result() == -signal.SIGKILL


async def test_stubborn_part_is_killed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All must be over within 10 s, and a machine may be slow.
    assert STOP_WITHIN_S + KILL_WITHIN_S + SWEEP_WITHIN_S < 9
    monkeypatch.setattr("server.up.processes.STOP_WITHIN_S", 2)
    async with supervise(tmp_path, Stop(), edge=STUBBORN, proxy=OBEDIENT) as supervisor:
        await all_listening(supervisor)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert supervisor.children[0].ended.result() == -signal.SIGKILL
    assert supervisor.children[1].ended.result() == 0


async def test_what_a_dead_part_left_behind_is_killed(tmp_path: Path) -> None:
    async with supervise(tmp_path, Stop(), edge=PARENT) as supervisor:
        await all_listening(supervisor)
        grandchild = int((tmp_path / "logs" / "edge.log").read_text().split()[0])
        os.kill(supervisor.children[0].pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        while True:
            if is_gone(grandchild):
                return
            await asyncio.sleep(0.02)


async def test_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        async with supervise(tmp_path, Stop(), edge=OBEDIENT) as supervisor:
            await all_listening(supervisor)
    assert sorted(log.name for log in (tmp_path / "logs").iterdir()) == ["edge.log", "edge.log.1"]
    assert all(log.stat().st_mode & 0o077 == 0 for log in (tmp_path / "logs").iterdir())


async def test_part_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    nowhere = Part(name="edge", command=("/nowhere",), environment={}, address=Address(path="/nowhere"))
    with pytest.raises(PartDied, match=r"edge ended with exit code 1(.|\n)*cannot run /nowhere"):
        async with Supervisor([nowhere], data_dir=tmp_path, logs=tmp_path / "logs", stop=Stop()) as supervisor:
            await supervisor.watch(asyncio.sleep(10))


async def test_signals_are_wishes_and_only_a_later_one_is_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("server.up.supervisor.time.monotonic", lambda: now[0])
    stop = Stop()
    stop.ask()
    stop.ask()
    assert stop.wanted.is_set()
    assert not stop.hurry.is_set()
    now[0] += 1
    stop.ask()
    assert stop.hurry.is_set()


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux can do this")
    code = f"""
import asyncio, os, signal
from pathlib import Path
from tests.up.test_supervisor import OBEDIENT, Stop, all_listening, supervise

async def main():
    async with supervise(Path({str(tmp_path)!r}), Stop(), edge=OBEDIENT) as supervisor:
        await all_listening(supervisor)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == -signal.SIGKILL
    log = tmp_path / "logs" / "edge.log"
    deadline = time.monotonic() + 5
    while "bye" not in log.read_text():
        assert time.monotonic() < deadline
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect_ex(str(tmp_path / "edge.sock"))
