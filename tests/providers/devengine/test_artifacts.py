import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.providers.devengine.running import RunningEngine

PATH = "/api/v1/artifacts"
MIB = 1024 * 1024


def peak_memory(engine: RunningEngine) -> int:
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_large_artifacts_pass_through_in_pieces(engine: RunningEngine) -> None:
    piece, sent, received = os.urandom(MIB), hashlib.sha256(), hashlib.sha256()
    before = peak_memory(engine)

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            sent.update(piece)
            yield piece

    answer = engine.http.put(f"{PATH}/runs/1/big.bin", content=pieces())
    assert (answer.status_code, answer.json()) == (201, {"key": "runs/1/big.bin", "size": 20 * MIB})
    with engine.http.stream("GET", f"{PATH}/runs/1/big.bin") as download:
        assert download.headers["content-length"] == str(20 * MIB)
        for chunk in download.iter_raw():
            received.update(chunk)
    assert received.digest() == sent.digest()
    assert peak_memory(engine) - before < 10 * MIB


def test_overwrite_and_delete(engine: RunningEngine) -> None:
    for content in (b"one", b"two", b""):
        assert engine.http.put(f"{PATH}/a", content=content).status_code == 201
        assert engine.http.get(f"{PATH}/a").content == content
    assert engine.http.put(f"{PATH}/a/b", content=b"below").status_code == 201
    assert engine.http.delete(f"{PATH}/a").status_code == 204
    assert engine.http.delete(f"{PATH}/a").status_code == 404
    assert engine.http.get(f"{PATH}/a").status_code == 404
    assert engine.http.get(f"{PATH}/a/b").content == b"below"
    assert not list(engine.folder.glob("artifacts/**/*.part"))


def test_tenants_have_keys_of_their_own(engine: RunningEngine) -> None:
    engine.http.put(f"{PATH}/mine", content=b"x")
    assert engine.http.get(f"{PATH}/mine", headers={"x-tenant-id": "stranger"}).status_code == 404


@pytest.mark.parametrize(
    "key", ["%2e%2e/x", "a/%2e%2e/%2e%2e/x", "%2Fetc/passwd", "a//b", "a%00b", "a%5Cb", "x" * 1025]
)
def test_keys_stay_inside(engine: RunningEngine, key: str) -> None:
    assert engine.http.put(f"{PATH}/{key}", content=b"x").status_code == 400
