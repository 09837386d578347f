"""The process: its settings, its stop, its crash, and what it reports to the control plane."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.providers.devengine.running import (
    KEY,
    MODULE,
    ROOT,
    RunningEngine,
    engine_in,
    environment,
    eventually,
    sequence,
    step,
)
from tests.providers.devengine.test_triggers import new_trigger, signed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORCH8_API_KEY", ""),
        ("ORCH8_HTTP_ADDR", "8080"),
        ("ORCH8_HTTP_ADDR", "127.0.0.1:99999"),
        ("ORCH8_DATABASE_URL", "postgres://user:hunter2@host/db"),
        ("ORCH8_DATABASE_URL", "sqlite::memory:"),
        ("ORCH8_DATABASE_URL", "sqlite:///proc/none/orch8.db"),
        ("ORCH8_STORAGE_BACKEND", "postgres"),
        ("ORCH8_ENCRYPTION_KEY", "zz"),
        ("ORCH8_REQUIRE_TENANT_HEADER", "maybe"),
        ("ORCH8_REQUIRE_TENANT_HEADER", "false"),
        ("ORCH8_CLOUD_OBSERVABILITY_ENDPOINT", "http://example.com"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    env = environment(tmp_path, **{name: value})
    done = subprocess.run([sys.executable, "-m", MODULE], cwd=ROOT, env=env, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(name)
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_without_tenants_the_root_sees_all(tmp_path: Path) -> None:
    free = {"ORCH8_REQUIRE_TENANT_HEADER": "false", "ORCH8_ALLOW_NO_TENANT_ISOLATION": "1"}
    with engine_in(tmp_path, **free) as engine:
        root = {"x-api-key": KEY}
        for tenant in ("a", "b"):
            body = sequence(step("a", "noop"), tenant_id=tenant)
            assert engine.anyone.post("/sequences", json=body, headers=root).status_code == 201
        found = engine.anyone.get("/sequences", headers=root).json()["items"]
        assert {item["tenant_id"] for item in found} == {"a", "b"}
        found = engine.anyone.get("/sequences", headers={**root, "x-tenant-id": "b"}).json()["items"]
        assert [item["tenant_id"] for item in found] == ["b"]
        nameless = sequence(step("a", "noop"), tenant_id="")
        assert engine.anyone.post("/sequences", json=nameless, headers=root).status_code == 400
        # Requests into the engine's own network are off unless allowed, as in the real engine.
        internal = engine.run(step("a", "http_request", {"url": engine.base + "/info"}))
        assert engine.ended(internal)["error"]["message"].startswith("blocked: ")


def test_a_stop_ends_streams_and_is_quick(tmp_path: Path) -> None:
    with engine_in(tmp_path) as engine:
        instance_id = engine.run(step("a", "sleep", {"seconds": 60}))
        with engine.http.stream("GET", f"/api/v1/instances/{instance_id}/stream?poll_ms=5000") as stream:
            chunks = stream.iter_text()
            next(chunks)
            started = time.monotonic()
            engine.process.terminate()
            assert "done" not in "".join(chunks)
        assert engine.stop() == 0
        assert time.monotonic() - started < 4


def test_a_killed_engine_goes_on(tmp_path: Path) -> None:
    with engine_in(tmp_path) as first:
        done = first.ended(first.run(step("a", "noop")))
        instance_id = first.run(
            step("before", "transform", {"n": 1}),
            step("nap", "sleep", {"seconds": 1.5}),
            step("after", "transform", {"n": "{{outputs.before.n}}"}),
        )
        began = time.monotonic()
        retried = first.run(
            step("r", "fail", {"retryable": True}, retry={"max_attempts": 2, "initial_backoff": "1500ms"})
        )
        slug, used = new_trigger(first), signed(b"{}")
        assert first.anyone.post(f"/webhooks/{slug}", content=b"{}", headers=used).status_code == 202
        eventually(lambda: first.outputs(instance_id))
        first.kill()
    with engine_in(tmp_path) as second:
        found = second.instance(instance_id)
        assert (found["state"], found["current_step"]) == ("running", 1)
        assert second.ended(instance_id)["state"] == "completed"
        assert second.outputs(instance_id) == {"before": {"n": 1}, "nap": {"slept_ms": 1500}, "after": {"n": 1}}
        # The sleep and the attempts were those of the first life, not begun anew.
        assert time.monotonic() - began < 1.5 + 1.4
        assert second.ended(retried)["state"] == "failed"
        assert second.instance(done["id"]) == done
        assert second.anyone.post(f"/webhooks/{slug}", content=b"{}", headers=used).status_code == 401
        assert second.anyone.post(f"/webhooks/{slug}", content=b"{}", headers=signed(b"{}")).status_code == 202


def test_another_encryption_key_is_refused(tmp_path: Path) -> None:
    with engine_in(tmp_path) as engine:
        assert engine.stop() == 0
    env = environment(tmp_path, ORCH8_ENCRYPTION_KEY="cd" * 32)
    done = subprocess.run([sys.executable, "-m", MODULE], cwd=ROOT, env=env, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr.split()[0]) == (2, "ORCH8_ENCRYPTION_KEY")


def test_an_engine_without_a_key_makes_one(tmp_path: Path) -> None:
    for _ in range(2):
        with engine_in(tmp_path, ORCH8_ENCRYPTION_KEY="") as engine:
            assert engine.stop() == 0
    assert (tmp_path / "encryption.key").stat().st_mode & 0o777 == 0o600


class Receiver:
    """The control plane's side of run export. Answers with the statuses of `script`, then 202."""

    def __init__(self) -> None:
        self.script = [500]
        self.batches: list[tuple[int, str, str, dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = receiver.script.pop(0) if receiver.script else 202
                receiver.batches.append((status, self.path, self.headers["authorization"], body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def taken(self) -> list[dict[str, Any]]:
        return [event for status, _, _, body in self.batches if status == 202 for event in body["events"]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture
def reporting(tmp_path: Path, receiver: Receiver) -> Iterator[RunningEngine]:
    export = {
        "ENDPOINT": f"http://127.0.0.1:{receiver.server.server_port}/",
        "API_KEY": "ingest-key",
        "ENGINE_ID": "inst_1",
        "INTERVAL_MS": "250",
    }
    changes = {f"ORCH8_CLOUD_OBSERVABILITY_{name}": value for name, value in export.items()}
    with engine_in(tmp_path, **changes) as engine:
        yield engine


def test_runs_are_reported(reporting: RunningEngine, receiver: Receiver) -> None:
    good = reporting.run(step("a", "noop"))
    reporting.ended(good)
    bad = reporting.run(step("b", "fail"))
    eventually(lambda: len(receiver.taken()) == 6)
    assert receiver.batches[0][0] == 500
    _, path, authorization, body = receiver.batches[-1]
    assert (path, authorization) == ("/api/ingest/v1/runs", "Bearer ingest-key")
    assert (body["engine_id"], body["engine_version"]) == ("inst_1", "0.7.1+dev")
    told = [(event["instance_id"], event["state"]) for event in receiver.taken()]
    assert [state for instance, state in told if instance == good] == ["scheduled", "running", "completed"]
    assert [state for instance, state in told if instance == bad] == ["scheduled", "running", "failed"]
    last = receiver.taken()[-1]
    assert (last["step_id"], last["error_kind"], last["sequence_version"]) == ("b", "failed", 1)
    assert last["duration_ms"] >= 0
    assert receiver.taken()[0]["duration_ms"] is None


def test_the_last_events_are_reported_at_the_stop(reporting: RunningEngine, receiver: Receiver) -> None:
    receiver.script = []
    reporting.run(step("a", "sleep", {"seconds": 60}))
    assert reporting.stop() == 0
    assert [event["state"] for event in receiver.taken()] == ["scheduled", "running"]
    assert "ingest-key" not in reporting.log.read_text()
