import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from server.providers.runtime import local_engine
from server.providers.runtime.base import EngineSpec, EngineState, Observation, RuntimeFailed
from server.providers.runtime.environment import reporting
from server.providers.runtime.local import LocalRuntime, stop_all
from tests.providers.runtime import stand_in

ID = "inst_abc123"
SPEC = EngineSpec(
    instance_id=ID, org_id="org_1", name="dev", region="iad", engine_key="k" * 32, encryption_key="ab" * 32
)


@asynccontextmanager
async def runtime(data: Path, **options: object) -> AsyncIterator[LocalRuntime]:
    made = LocalRuntime(data_dir=data, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


async def until(state: EngineState, look: Callable[[], Awaitable[Observation]], seconds: float = 15) -> Observation:
    async with asyncio.timeout(seconds):
        while (found := await look()).state is not state:
            await asyncio.sleep(0.02)
        return found


async def started(made: LocalRuntime, spec: EngineSpec = SPEC) -> Observation:
    return await until(EngineState.RUNNING, lambda: made.run(spec))


def pid_of(data: Path, instance_id: str = ID) -> int:
    return int(json.loads((data / "engines" / instance_id / "process.json").read_text())["process"]["pid"])


async def get(found: Observation, path: str) -> httpx.Response:
    assert found.upstream is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://{found.upstream.host}:{found.upstream.port}{path}", timeout=5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine_bin(tmp_path: Path) -> Path:
    return stand_in.install(tmp_path / "bin")


async def test_development_engine_starts_stops_and_starts_again_with_its_data(data: Path) -> None:
    sequence = {
        "id": "0197a1b0-0000-7000-8000-000000000001",
        "tenant_id": "acme",
        "namespace": "default",
        "name": "welcome",
        "version": 1,
        "blocks": [{"type": "step", "id": "one", "handler": "noop", "params": {}}],
        "created_at": "2026-01-01T00:00:00Z",
    }
    async with runtime(data, path="") as made, httpx.AsyncClient(trust_env=False) as client:
        assert (await made.observe(ID)).state is EngineState.ABSENT
        assert (await made.run(SPEC)).state is EngineState.STARTING
        found = await started(made)
        headers = {"x-api-key": SPEC.engine_key}
        assert found.upstream is not None
        url = f"http://127.0.0.1:{found.upstream.port}"
        assert (await client.get(f"{url}/sequences")).status_code == 401
        assert (await client.post(f"{url}/sequences", json=sequence, headers=headers)).status_code == 201
        assert (await made.describe()).startswith("development engine 0.7.1")
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        assert (await made.observe(ID)) == Observation(state=EngineState.STOPPED)
        again = await started(made)
        assert again.upstream == found.upstream
        listed = (await client.get(f"{url}/sequences", headers=headers)).json()
        assert [item["name"] for item in listed["items"]] == ["welcome"]


async def test_crash_is_seen_and_the_next_run_starts_it_again(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        (data / "engines" / ID / "orch8.db").write_text("mine")
        first = pid_of(data)
        stand_in.kill(first)
        await until(EngineState.STOPPED, lambda: made.observe(ID))
        await started(made)
        assert pid_of(data) != first
        assert (data / "engines" / ID / "orch8.db").read_text() == "mine"


async def test_real_engine_on_the_path_is_preferred(data: Path, engine_bin: Path) -> None:
    async with runtime(data, path=str(engine_bin.parent)) as made:
        assert await made.describe() == "orch8-server 9.8.7"
        found = await started(made)
        assert "argv" in (data / "engines" / ID / "engine.log").read_text()
        assert SPEC.engine_key not in (data / "engines" / ID / "engine.log").read_text()
        told = (await get(found, "/")).json()
        assert told["ORCH8_API_KEY"] == SPEC.engine_key
        assert told["ORCH8_REQUIRE_TENANT_HEADER"] == "false"


@pytest.mark.parametrize(
    ("address", "is_told"),
    [("https://cloud.example.com", True), ("http://localhost:8080", False), ("", False)],
)
async def test_real_engine_reports_its_runs_where_it_can_by_https(
    data: Path, engine_bin: Path, address: str, is_told: bool
) -> None:
    async with runtime(data, engine_bin=engine_bin, report_to=address) as made:
        told = (await get(await started(made, replace(SPEC, ingest_key="orc8_ingest_x")), "/")).json()
    found = {name: value for name, value in told.items() if name.startswith("ORCH8_CLOUD_OBSERVABILITY_")}
    expected = {"ENDPOINT": address, "API_KEY": "orc8_ingest_x", "ENGINE_ID": ID, "INTERVAL_MS": "1000"}
    assert found == (
        {f"ORCH8_CLOUD_OBSERVABILITY_{name}": value for name, value in expected.items()} if is_told else {}
    )


@pytest.mark.parametrize(
    ("address", "is_real", "is_told"),
    [
        ("http://localhost:8080", False, True),
        ("http://127.0.0.1:8080", False, True),
        ("http://cloud.example.com", False, False),
        ("https://cloud.example.com/", False, True),
        ("http://localhost:8080", True, False),
    ],
)
def test_development_engine_reports_by_plain_http_on_this_machine_only(
    address: str, is_real: bool, is_told: bool
) -> None:
    told = reporting(replace(SPEC, ingest_key="orc8_ingest_x"), address, is_real=is_real)
    assert told.get("ORCH8_CLOUD_OBSERVABILITY_ENDPOINT") == (address.rstrip("/") if is_told else None)
    assert reporting(SPEC, address, is_real=is_real) == {}


async def test_secrets_of_the_control_plane_do_not_reach_an_engine(
    data: Path, engine_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH8_SECRET_KEY", "not for engines")
    async with runtime(data, engine_bin=engine_bin) as made:
        assert "not for engines" not in (await get(await started(made), "/")).text


async def test_folder_is_closed_to_others(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
    folder = data / "engines" / ID
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


async def test_engine_that_cannot_start_fails_with_the_end_of_its_log(
    data: Path, engine_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_STAND_IN", "fails")
    async with runtime(data, engine_bin=engine_bin) as made:
        with pytest.raises(RuntimeFailed, match=r"exit code 3.*3 times in a row.*the wheels came off …") as caught:
            await started(made)
        assert SPEC.engine_key not in str(caught.value)


async def test_missing_engine_fails(data: Path, tmp_path: Path) -> None:
    async with runtime(data, engine_bin=tmp_path / "nowhere") as made:
        with pytest.raises(RuntimeFailed, match="nowhere"):
            await made.run(SPEC)


async def test_engine_that_is_not_ready_is_starting(
    data: Path, engine_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_STAND_IN", "never-ready")
    async with runtime(data, engine_bin=engine_bin) as made:
        await made.run(SPEC)
        await until(EngineState.STARTING, lambda: made.observe(ID))


async def test_silent_engine_is_killed_and_started_again(
    data: Path, engine_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "SILENCE_S", 0.3)
    monkeypatch.setattr(local_engine, "PROBE_INTERVAL_S", 0.05)
    monkeypatch.setattr(local_engine, "PROBE_TIMEOUT_S", 0.1)
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        first = pid_of(data)
        os.kill(first, signal.SIGSTOP)
        assert (await made.observe(ID)).state is EngineState.RUNNING
        await until(EngineState.STOPPED, lambda: made.observe(ID))
        await started(made)
        assert pid_of(data) != first


async def test_port_of_another_program_is_avoided(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        found = await started(made)
        assert found.upstream is not None
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        other = await asyncio.start_server(lambda *_: None, "127.0.0.1", found.upstream.port)
        async with other:
            again = await started(made)
        assert again.upstream is not None
        assert again.upstream.port != found.upstream.port


async def test_resume_while_still_stopping_waits_for_the_end(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        first = pid_of(data)
        assert (await made.stop(ID)).state is EngineState.STOPPING
        await started(made)
        assert pid_of(data) != first
        assert not stand_in.is_running(first)


async def test_stop_insists(data: Path, engine_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_STAND_IN", "stubborn")
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        engine = made._engine(ID)
        async with asyncio.timeout(5):
            while engine.stop(kill_after=0.2) is not EngineState.STOPPED:
                await asyncio.sleep(0.02)
        assert not stand_in.is_running(pid_of(data))


async def test_halted_engine_stops_soon(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        os.kill(pid_of(data), signal.SIGSTOP)
        began = time.monotonic()
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        assert time.monotonic() - began < 3


async def test_destroy_removes_everything(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        pid = pid_of(data)
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert not stand_in.is_running(pid)
        assert list((data / "engines").iterdir()) == []
        assert (await made.stop(ID)).state is EngineState.ABSENT
        assert (await made.destroy(ID)).state is EngineState.ABSENT


async def test_what_exists_is_listed_whoever_started_it(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        assert await made.engines() == []
        await started(made)
        (data / "engines" / "inst_left").mkdir()
        (data / "engines" / "of somebody else").mkdir()
        found = {engine.name: engine for engine in await made.engines()}
        assert {name: (engine.instance_id, engine.state) for name, engine in found.items()} == {
            ID: (ID, EngineState.RUNNING),
            "inst_left": ("inst_left", EngineState.STOPPED),
            "of somebody else": (None, EngineState.STOPPED),
        }
        made_at = found["inst_left"].created_at
        assert made_at is not None
        assert abs(made_at.timestamp() - time.time()) < 60
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert ID not in {engine.name for engine in await made.engines()}


@pytest.mark.parametrize("name", ["", "inst_", "../inst_a", "inst_a/../../b", "inst_A", "inst_a\n", "secrets.json"])
async def test_only_instance_ids_become_folders(data: Path, name: str) -> None:
    async with runtime(data) as made:
        with pytest.raises(RuntimeFailed):
            await made.destroy(name)


async def test_close_stops_all_engines_and_leaves_no_zombies(data: Path, engine_bin: Path) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        for name in ("inst_a", "inst_b"):
            await started(made, EngineSpec(**{**{f: getattr(SPEC, f) for f in SPEC.__slots__}, "instance_id": name}))
        pids = [pid_of(data, name) for name in ("inst_a", "inst_b")]
    assert [Path(f"/proc/{pid}").exists() for pid in pids] == [False, False]


CRASHING_SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.providers.runtime.test_local import SPEC, started
from server.providers.runtime.local import LocalRuntime

async def main():
    await started(LocalRuntime(data_dir=Path(sys.argv[1]), engine_bin=Path(sys.argv[2])))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def survivor(data: Path, engine_bin: Path) -> int:
    """The pid of an engine whose server was killed."""
    command = [sys.executable, "-c", CRASHING_SERVER, str(data), str(engine_bin)]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
    assert ended.returncode == -signal.SIGKILL
    return pid_of(data)


async def test_engine_that_survived_its_server_is_found_again(data: Path, engine_bin: Path, survivor: int) -> None:
    async with runtime(data, engine_bin=engine_bin) as made:
        assert (await made.observe(ID)).state is EngineState.RUNNING
        assert (await made.run(SPEC)).state is EngineState.RUNNING
        assert pid_of(data) == survivor
    assert not stand_in.is_running(survivor)


@pytest.fixture
def sleepers(data: Path, tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that only sleep: one in the folder of an engine, without a note, and one elsewhere."""
    folder = data / "engines" / ID
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    made = [subprocess.Popen(command, cwd=place, start_new_session=True) for place in (folder, tmp_path)]
    yield made
    for process in made:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not tell in which folder it works")
async def test_engine_that_its_server_could_not_note_is_ended_and_replaced(
    data: Path, engine_bin: Path, sleepers: list[subprocess.Popen[bytes]]
) -> None:
    """The server was killed between the start and the note. Whatever works in other folders is left alone."""
    stray, stranger = sleepers
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
        assert stray.poll() is not None
        assert stand_in.is_running(pid_of(data))
    assert stranger.poll() is None


async def test_sweep_stops_engines_of_a_crashed_server(data: Path, survivor: int) -> None:
    await stop_all(data)
    assert not stand_in.is_running(survivor)
    await stop_all(data / "nowhere")


async def test_recycled_pid_is_never_signalled(data: Path, engine_bin: Path) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    folder = data / "engines" / ID
    folder.mkdir(parents=True)
    note = {"process": {"pid": stranger.pid, "started": "another start"}, "port": 9}
    (folder / "process.json").write_text(json.dumps(note))
    async with runtime(data, engine_bin=engine_bin) as made:
        assert (await made.observe(ID)).state is EngineState.STOPPED
        assert (await made.stop(ID)).state is EngineState.STOPPED
        await stop_all(data)
        await started(made)
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"process": {"pid": -1, "started": ""}, "port": 1}', "\0"])
async def test_broken_note_is_as_good_as_none(data: Path, text: str) -> None:
    folder = data / "engines" / ID
    folder.mkdir(parents=True)
    (folder / "process.json").write_text(text)
    await stop_all(data)
    async with runtime(data) as made:
        assert (await made.observe(ID)).state is EngineState.STOPPED


async def test_long_log_begins_anew(data: Path, engine_bin: Path) -> None:
    folder = data / "engines" / ID
    folder.mkdir(parents=True)
    (folder / "engine.log").write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    async with runtime(data, engine_bin=engine_bin) as made:
        await started(made)
    assert (folder / "engine.log").stat().st_size < 1024
    assert (folder / "engine.log.1").exists()
