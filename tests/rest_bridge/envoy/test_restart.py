"""An Envoy takes over from another one on the same port; and what killed edges leave is removed."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from rest_bridge.envoy import process as envoy_process
from rest_bridge.envoy.epoch import EnvoyError
from rest_bridge.envoy.folder import PREFIX, EdgeFolder
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.envoy.run import run_edge
from rest_bridge.envoy.validate import validate
from rest_bridge.proxy.processor import Processor
from rest_bridge.settings import EdgeSettings
from server.domain.addresses import Address
from tests.rest_bridge.envoy.conftest import settings
from tests.rest_bridge.envoy.fakes import FakeDecisions, FakeEngine, FakeStreams, serving
from tests.support.calls import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hot restarts need Linux")
MEMORY = Path("/dev/shm")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where edges of this test keep their folders; short, since sockets are in them."""
    with tempfile.TemporaryDirectory(prefix="o8-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@asynccontextmanager
async def calling(edge: EnvoyProcess, path: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A caller who keeps connections."""
    transport = httpx.AsyncHTTPTransport(uds=path or None)
    base = "http://edge" if path else f"http://{await edge.address()}"
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=30) as http:
        yield http


async def test_a_request_that_is_under_way_ends_where_it_began(temporary: Path) -> None:
    engine, decisions = FakeEngine(), FakeDecisions()
    edge = settings(temporary, drain_delay=300)
    watching = Processor(cast("Any", FakeStreams()), lambda: True).listening(Address(path=f"{temporary}/streams.sock"))
    async with (
        watching,
        serving(decisions, uds=f"{temporary}/proxy.sock"),
        serving(engine) as port,
        EnvoyProcess(edge) as process,
        calling(process) as http,
    ):
        decisions.upstream = f"127.0.0.1:{port}"
        before, address = process.pid, await process.address()
        slow = asyncio.create_task(http.get("/api/tunnel/inst_1/slow"))
        await eventually(lambda: _asked(decisions))
        await process.restart()
        assert process.pid != before
        assert await process.address() == address
        assert await process.is_ready()
        assert (await http.get("/healthz")).status_code == 200
        assert not slow.done()
        engine.release.set()
        answer = await slow
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"


async def _asked(decisions: FakeDecisions) -> bool:
    return len(decisions.asked) > 0


async def test_each_takes_over_from_the_one_before(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_process, "GRACE", 1)
    path = f"{temporary}/edge.sock"
    async with EnvoyProcess(settings(temporary, listen=f"unix:{path}")) as process:
        for _ in range(4):
            ended = asyncio.create_task(process.wait())
            await process.restart()
            await process.left()
            async with calling(process, path) as http:
                assert (await http.get("/healthz")).status_code == 200
            assert not ended.done()
            ended.cancel()
    assert not list(temporary.glob(f"{PREFIX}*"))


async def test_one_that_does_not_start_changes_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EnvoyProcess(settings(temporary)) as process, calling(process) as http:
        before = process.pid
        monkeypatch.setattr(process, "_settings", settings(temporary, envoy_bin=Path("/bin/false")))
        with pytest.raises(EnvoyError, match="exit code 1"):
            await process.restart()
        assert process.pid == before
        assert await process.is_ready()
        assert (await http.get("/healthz")).status_code == 200


async def test_where_no_other_can_take_over_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with EnvoyProcess(settings(tmp_path)) as process:
        with pytest.raises(EnvoyError, match="a short path in TMPDIR"):
            await process.restart()
        assert await process.is_ready()


async def test_sighup_starts_it_again_unless_its_files_are_wrong(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration is looked at first: an Envoy that begins ends the administration of the one before."""
    monkeypatch.setattr(envoy_process, "GRACE", 1)
    ready: asyncio.Queue[EnvoyProcess] = asyncio.Queue()
    start = EnvoyProcess.start

    async def start_and_tell(self: EnvoyProcess) -> None:
        await start(self)
        ready.put_nowait(self)

    wrong = False

    async def looked_at(edge: EdgeSettings) -> str:
        if wrong:
            raise EnvoyError("the certificate is of yesterday")
        return await validate(edge)

    monkeypatch.setattr(EnvoyProcess, "start", start_and_tell)
    monkeypatch.setattr("rest_bridge.envoy.run.validate", looked_at)
    running = asyncio.create_task(run_edge(settings(temporary)))
    edge = await ready.get()
    first = edge.pid

    async def changed() -> bool:
        return edge.pid != first

    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(changed)
    await edge.left()
    second, wrong = edge.pid, True
    os.kill(os.getpid(), signal.SIGHUP)

    async def told() -> bool:
        return "not started again: the certificate is of yesterday" in capsys.readouterr().err

    await eventually(told)
    assert edge.pid == second
    assert await edge.is_ready()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


LEFT = """
import os, signal, sys
from rest_bridge.envoy.folder import EdgeFolder
folder = EdgeFolder()
folder.write("base-id", sys.argv[1])
print(folder.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_edge_left_is_removed_by_the_next_one(temporary: Path) -> None:
    number = 900_000_000 + os.getpid()
    memory = MEMORY / f"envoy_shared_memory_{number * 10}"
    memory.touch()
    running = EdgeFolder()
    command = [sys.executable, "-c", LEFT, str(number)]
    left = Path(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.decode().strip())
    assert left.parent == temporary
    assert left.is_dir()
    fresh = EdgeFolder()
    assert not left.exists()
    assert not memory.exists()
    assert running.path.is_dir()
    for folder in (running, fresh, fresh):
        folder.remove()
    assert not list(temporary.iterdir())


async def test_an_envoy_leaves_no_shared_memory(temporary: Path) -> None:
    async with EnvoyProcess(settings(temporary)):
        (file,) = temporary.glob(f"{PREFIX}*/base-id")
        memory = MEMORY / f"envoy_shared_memory_{int(file.read_text()) * 10}"
        assert memory.exists()
    assert not memory.exists()
