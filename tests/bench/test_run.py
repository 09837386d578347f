"""The whole benchmark, as `make bench` runs it, only short."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.meta.source import ROOT
from tests.support.calls import eventually
from tests.support.stack import processes_naming

NAMES = [
    "upstream",
    "bare-envoy",
    "tunnel-api-key",
    "tunnel-oidc",
    "tunnel-api-key-3",
    "tunnel-api-key-5",
    "direct-api-key",
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: pytest's own are too long for the paths of Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


async def start(folder: Path) -> asyncio.subprocess.Process:
    options = ("--seconds", "0.2", "--rounds", "1", "--keys", "3", "5", "--own-load")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *options, "--results", str(folder / "results.json")),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_prints_a_table_and_writes_it_down(folder: Path) -> None:
    process = await start(folder)
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    found = json.loads((folder / "results.json").read_text())
    assert set(found) == {"machine", "rows"}
    assert found["machine"]["generator"] == "bench/load.py"
    assert [(row["name"], row["connections"]) for row in found["rows"]] == [
        (name, connections) for name in NAMES for connections in (1, 32)
    ]
    bare = {row["connections"]: row["rps"] for row in found["rows"] if row["name"] == "bare-envoy"}
    for row in found["rows"]:
        assert set(row) == {"name", "connections", "rps", "p50_us", "p99_us", "of_bare_envoy"}
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert abs(row["of_bare_envoy"] - row["rps"] / bare[row["connections"]]) < 0.01
        assert row["name"] in printed
    assert processes_naming(str(folder)) == {}
    assert [path.name for path in folder.iterdir()] == ["results.json"]


async def test_ends_with_all_that_it_started(folder: Path) -> None:
    process = await start(folder)

    async def has_started_a_server() -> bool:
        return any("bench.control_plane" in command for command in processes_naming(str(folder)).values())

    await eventually(has_started_a_server, seconds=30)
    process.send_signal(signal.SIGINT)
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 130, printed
    assert printed.endswith("bench: interrupted\n")
    assert processes_naming(str(folder)) == {}
    assert list(folder.iterdir()) == []


async def test_run_events_are_measured_and_written_beside_the_rest(folder: Path) -> None:
    results = folder / "results.json"
    results.write_text('{"rows": []}')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.ingest", "--seconds", "0.5", "--database", "sqlite", "--results", str(results)),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    written = json.loads(results.read_text())
    (line,) = written["ingest"]
    assert line["database"] == "sqlite"
    assert min(line["most_per_s"], line["beside_per_s"], line["quiet_p99_ms"], line["beside_p99_ms"]) > 0
    assert written["rows"] == []
