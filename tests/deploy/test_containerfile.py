"""The steps of the Containerfile work, and what they make runs: as far as that goes without a container engine."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.deploy.containerfile import FILE, KNOWN, Image, Step, clean, stages
from tests.deploy.layouts import GIVEN
from tests.meta.source import ROOT
from tests.support.calls import eventually
from tests.support.stack import free_port

pytestmark = pytest.mark.timeout(900)  # about a minute where packages are in pip's cache
BUILD, FINAL = stages()


def only(steps: list[Step], name: str) -> Step:
    (found,) = [step for step in steps if step.name == name]
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the build stage makes, in a folder; the final stage copies it to the same place."""
    folder = tmp_path_factory.mktemp("image")
    made = Image(folder)
    for step in BUILD:
        made.carry_out(step)
    yield folder / "opt/orch8/bin"
    shutil.rmtree(folder)  # half a gigabyte


def test_only_instructions_that_are_known_here() -> None:
    assert {step.name for step in (*BUILD, *FINAL)} <= KNOWN


def test_it_copies_only_what_is_there_and_not_ignored() -> None:
    ignored = FILE.with_name("Containerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for step in BUILD:
        for source in step.words()[:-1] if step.name == "COPY" else ():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


def test_it_runs_as_nobody_and_stops_by_the_signal_that_is_graceful() -> None:
    assert int(only(FINAL, "USER").value.partition(":")[0]) >= 10_000
    assert only(FINAL, "STOPSIGNAL").value == "SIGTERM"
    assert only(FINAL, "ENTRYPOINT").words() == ["orch8-cloud"]
    copied = only(FINAL, "COPY")
    assert copied.flags == ("--from=build",)
    inside, target = copied.words()
    assert inside == target, "scripts of a venv name the folder that it was made in"
    assert f"PATH={target}/bin" in only(FINAL, "ENV").value


def test_the_lock_is_the_one_with_hashes() -> None:
    (install,) = [step for step in BUILD if "--require-hashes" in step.value]
    lock = (ROOT / install.value.split()[-1]).read_text()
    packages = [line for line in lock.splitlines() if "==" in line]
    assert len(packages) > 30
    assert lock.count("--hash=sha256:") >= len(packages)


def test_the_command_answers(image: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [image / "orch8-cloud", *only(FINAL, "CMD").words()],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "doctor" in done.stdout) == (0, True), done.stderr


def test_envoy_and_its_files_are_in_it(image: Path, tmp_path: Path) -> None:
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("ORCH8_LISTEN", "ORCH8_EDGE_ADMIN_ADDR")}
    done = subprocess.run(
        [image / "orch8-cloud", "doctor", "--part", "edge"],
        cwd=tmp_path,
        env=clean(**ports),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "takes the configuration" in done.stdout) == (0, True), done.stdout + done.stderr


async def test_a_server_of_it_becomes_ready(image: Path, tmp_path: Path) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    environment = clean(
        ORCH8_DATA_DIR=str(tmp_path / "data"),
        ORCH8_SERVER_LISTEN=f"127.0.0.1:{free_port()}",
        ORCH8_SERVER_METRICS_LISTEN=metrics,
        ORCH8_DATAPLANE_TOKEN=GIVEN["ORCH8_DATAPLANE_TOKEN"],
        ORCH8_SECRET_KEY=GIVEN["ORCH8_SECRET_KEY"],
        ORCH8_SUPABASE_URL=GIVEN["ORCH8_SUPABASE_URL"],
    )
    process = await asyncio.create_subprocess_exec(image / "orch8-cloud", "serve", cwd=tmp_path, env=environment)
    try:

        async def is_ready() -> bool:
            with suppress(httpx.TransportError):
                async with httpx.AsyncClient() as http:
                    return (await http.get(f"http://{metrics}/readyz")).status_code == 200
            return False

        await eventually(is_ready, 60)
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
