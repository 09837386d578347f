"""The development engine's export of run events: nothing is lost, whatever the other side answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.domain.run_events import MOST_EVENTS, read_batch
from server.services.identifiers import utc_now
from tests.providers.devengine.running import RunningEngine, eventually

INSTANCE = "inst_abc"
SEQUENCE = {
    "id": "0197a1b0-0000-7000-8000-000000000001",
    "tenant_id": "acme",
    "namespace": "default",
    "name": "welcome",
    "version": 1,
    "blocks": [{"type": "step", "id": "one", "handler": "noop", "params": {}}],
    "created_at": "2026-01-01T00:00:00Z",
}


class Taker:
    """Where events are reported: refuses the first so many batches, and keeps all that it was sent."""

    def __init__(self, refusals: list[int]) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.taken: list[Any] = []
        self._refusals = refusals

    def answer(self, authorization: str, body: bytes) -> int:
        self.sent.append((authorization, body))
        if self._refusals:
            return self._refusals.pop(0)
        self.taken += json.loads(body)["events"]
        return 202


@contextmanager
def listening(taker: Taker) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/api/ingest/v1/runs"
            self.send_response(taker.answer(self.headers["authorization"], body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def exporting(folder: Path, address: str) -> RunningEngine:
    prefix = "ORCH8_CLOUD_OBSERVABILITY_"
    told = {"ENDPOINT": address, "API_KEY": "ingest-key", "ENGINE_ID": INSTANCE, "INTERVAL_MS": "250"}
    return RunningEngine(folder, **{prefix + name: value for name, value in told.items()})


def start(engine: RunningEngine, runs: int) -> None:
    body = {"sequence_id": SEQUENCE["id"], "tenant_id": "acme", "namespace": "default"}
    for _ in range(runs):
        assert engine.http.post("/instances", json=body).status_code == 201


def test_what_was_refused_is_sent_again_in_order_and_in_batches(tmp_path: Path) -> None:
    taker, runs = Taker([503, 400]), 200
    with listening(taker) as address:
        engine = exporting(tmp_path, address)
        try:
            assert engine.http.post("/sequences", json=SEQUENCE).status_code == 201
            start(engine, runs)
            ends = ("completed", "failed", "cancelled")
            eventually(lambda: sum(one["state"] in ends for one in taker.taken) >= runs, seconds=60)
        finally:
            engine.stop()
    assert {who for who, _ in taker.sent} == {"Bearer ingest-key"}
    batches = [json.loads(body) for _, body in taker.sent]
    assert batches[0]["events"] == batches[1]["events"][: len(batches[0]["events"])]
    assert max(len(one["events"]) for one in batches) <= MOST_EVENTS
    assert {one["engine_id"] for one in batches} == {INSTANCE}
    # Of each run all three states, once, and in order; and all of it is what the control plane takes.
    seen: dict[str, list[str]] = {}
    for one in taker.taken:
        seen.setdefault(one["instance_id"], []).append(one["state"])
    assert len(seen) == runs
    assert {tuple(states) for states in seen.values()} == {("scheduled", "running", "completed")}
    assert None not in [one for _, body in taker.sent for one in read_batch(body, utc_now())]


def test_what_nobody_took_is_reported_by_the_next_process(tmp_path: Path) -> None:
    refused, taker = Taker([503] * 1000), Taker([])
    with listening(refused) as address:
        engine = exporting(tmp_path, address)
        assert engine.http.post("/sequences", json=SEQUENCE).status_code == 201
        start(engine, 3)
        eventually(lambda: refused.sent)
        engine.kill()
    with listening(taker) as address:
        engine = exporting(tmp_path, address)
        try:
            eventually(lambda: len({one["instance_id"] for one in taker.taken}) == 3)
        finally:
            engine.stop()
