"""Starts the development engine as its own process and speaks to it over HTTP."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[3]
KEY = "root-key-of-the-tests"
TENANT = "acme"
MODULE = "server.providers.runtime.devengine"
T = TypeVar("T")


def eventually(look: Callable[[], T | None], seconds: float = 8.0) -> T:
    """The first true answer, or a failure when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return found


def environment(folder: Path, **changes: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("ORCH8_")}
    return {
        **own,
        "ORCH8_API_KEY": KEY,
        "ORCH8_HTTP_ADDR": "127.0.0.1:0",
        "ORCH8_DATABASE_URL": f"sqlite://{folder}/orch8.db",
        "ORCH8_STORAGE_BACKEND": "sqlite",
        "ORCH8_ENCRYPTION_KEY": "ab" * 32,
        "ORCH8_LOG_JSON": "true",
        **changes,
    }


class RunningEngine:
    """A process, and a client that sends the key and a tenant."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self.folder = folder
        self.log = folder / f"log-{uuid.uuid4().hex}"
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE], cwd=ROOT, env=environment(folder, **changes), stderr=log
            )
        self.base = "http://" + eventually(self._address)
        self.ready_after = time.monotonic() - started
        headers = {"x-api-key": KEY, "x-tenant-id": TENANT}
        self.http = httpx.Client(base_url=self.base, headers=headers, timeout=10, trust_env=False)
        self.anyone = httpx.Client(base_url=self.base, timeout=10, trust_env=False)

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        match = re.search(r'"address": "([^"]+)"', self.log.read_text())
        return match and match[1]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        self.process.kill()
        self._gone()

    def stop(self) -> int:
        self.process.terminate()
        return self._gone()

    def _gone(self) -> int:
        self.http.close()
        self.anyone.close()
        return self.process.wait(10)

    # The shortest way to the things most tests need.

    def sequence(self, *blocks: dict[str, Any], name: str | None = None, **changes: Any) -> str:
        body = sequence(*blocks, name=name or f"s-{uuid.uuid4().hex[:8]}", **changes)
        answer = self.http.post("/api/v1/sequences", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, *blocks: dict[str, Any], **changes: Any) -> str:
        body = {"sequence_id": self.sequence(*blocks), "tenant_id": TENANT, "namespace": "default", **changes}
        answer = self.http.post("/api/v1/instances", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def instance(self, instance_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/api/v1/instances/{instance_id}").json()
        return found

    def ended(self, instance_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.instance(instance_id)
            return found if found["state"] in ("completed", "failed", "cancelled") else None

        return eventually(look)

    def outputs(self, instance_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/instances/{instance_id}/outputs").json()
        return {output["block_id"]: output["output"] for output in answer}


def step(block_id: str, handler: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "step", "id": block_id, "handler": handler, "params": params or {}, **more}


def sequence(*blocks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "tenant_id": TENANT,
        "namespace": "default",
        "name": "greeting",
        "version": 1,
        "blocks": list(blocks),
        "created_at": "2026-01-01T00:00:00Z",
        **changes,
    }


@contextmanager
def engine_in(folder: Path, **changes: str) -> Iterator[RunningEngine]:
    running = RunningEngine(folder, **changes)
    try:
        yield running
    finally:
        running.kill()
