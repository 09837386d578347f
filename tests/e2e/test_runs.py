"""Runs as an outsider sees them: the engine that `up` has started reports them through Envoy."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support.calls import eventually
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
INGEST = "/api/ingest/v1/runs"
BLOCKS = [{"type": "step", "id": "one", "handler": "noop", "params": {}}]


@pytest.fixture
def reports(stack: Stack) -> dict[str, str]:
    """Headers of the printed instance's engine, as it was told them."""
    note = stack.data_dir / "engines" / stack.ready["instance_id"] / "process.json"
    process = json.loads(note.read_text())["process"]["pid"]
    told = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    (key,) = (one.partition("=")[2] for one in told if one.startswith("ORCH8_CLOUD_OBSERVABILITY_API_KEY="))
    return {"Authorization": f"Bearer {key}"}


def event(run_id: str, **more: Any) -> dict[str, Any]:
    return {"instance_id": run_id, "sequence_name": "", "state": "running", "at": f"{datetime.now(UTC):%FT%TZ}", **more}


async def test_run_of_the_engine_is_seen_to_its_end(http: httpx.AsyncClient, key: dict[str, str], tunnel: str) -> None:
    name = f"seen-{uuid4().hex[:8]}"
    sequence = {"id": str(uuid4()), "tenant_id": "acme", "namespace": "default", "name": name, "version": 1}
    sequence |= {"blocks": BLOCKS, "created_at": "2026-01-01T00:00:00Z"}
    assert (await http.post(f"{tunnel}/sequences", json=sequence, headers=key)).status_code == 201
    start = {"sequence_id": sequence["id"], "tenant_id": "acme", "namespace": "default"}
    run_id = (await http.post(f"{tunnel}/instances", json=start, headers=key)).json()["id"]

    async def ended() -> dict[str, Any] | None:
        page = (await http.get("/api/runs", params={"sequence": name, "state": "completed"}, headers=key)).json()
        assert page["next_page_token"] == ""
        return next(iter(page["items"]), None)

    listed = await eventually(ended)
    assert listed["id"] == run_id
    assert (listed["error_kind"], listed["step_id"], listed["sequence_version"]) == (None, None, 1)
    shown = (await http.get(f"/api/runs/{run_id}", headers=key)).json()
    assert {name: shown[name] for name in listed} == listed
    assert [one["state"] for one in shown["transitions"]] == ["scheduled", "running", "completed"]
    assert (shown["transitions"][-1]["duration_ms"], shown["cut"]) == (None, False)
    assert isinstance(shown["duration_ms"], int | float)


async def test_one_wrong_event_does_not_block_a_batch(
    http: httpx.AsyncClient, key: dict[str, str], reports: dict[str, str]
) -> None:
    run_id = str(uuid4())
    wrong = [event(run_id, sequence_version="one"), event(run_id, at=5), event(run_id, state={}), 7, "x", None]
    batch = {"engine_id": 9, "new": [], "events": [*wrong, event(run_id, surprise={"a": 1})]}
    taken = await http.post(INGEST, json=batch, headers=reports)
    assert (taken.status_code, taken.json()) == (202, {"accepted": 1, "duplicates": 0, "rejected": 6})
    again = await http.post(INGEST, content=json.dumps(batch), headers=reports | {"Content-Type": "text/plain"})
    assert (again.status_code, again.json()) == (202, {"accepted": 0, "duplicates": 1, "rejected": 6})
    assert (await http.get(f"/api/runs/{run_id}", headers=key)).json()["state"] == "running"


async def test_what_is_no_batch_is_refused(http: httpx.AsyncClient, reports: dict[str, str]) -> None:
    check_error(await http.post(INGEST, content=b'{"events": [', headers=reports), 400, "INVALID_ARGUMENT")
    check_error(await http.post(INGEST, content=b" " * 2**21, headers=reports), 413, "PAYLOAD_TOO_LARGE")


async def test_ingest_key_is_good_for_nothing_else_and_nothing_else_for_it(
    http: httpx.AsyncClient, key: dict[str, str], owner: dict[str, str], reports: dict[str, str], tunnel: str
) -> None:
    for who in ({}, key, owner, {"Authorization": "Bearer orc8_ingest_none"}):
        check_error(await http.post(INGEST, json={"events": []}, headers=who), 401, "UNAUTHENTICATED")
    for path in ("/api/runs", "/api/instances", f"{tunnel}/sequences"):
        check_error(await http.get(path, headers=reports), 401, "UNAUTHENTICATED")


async def test_unknown_runs_and_filters(http: httpx.AsyncClient, key: dict[str, str], owner: dict[str, str]) -> None:
    check_error(await http.get(f"/api/runs/{uuid4()}", headers=key), 404, "NOT_FOUND")
    check_error(await http.get("/api/runs?state=exploded", headers=key), 400, "INVALID_ARGUMENT")
    check_error(await http.get("/api/runs?status=failed", headers=key), 400, "INVALID_ARGUMENT")
    check_error(await http.get("/api/runs"), 401, "UNAUTHENTICATED")
    assert (await http.get("/api/runs?since=2026-01-01T00:00:00Z&page_size=2", headers=owner)).json() == {
        "items": [],
        "next_page_token": "",
    }
