"""Schedules: when they fire, and that they do."""

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from server.providers.runtime.devengine import cron
from server.providers.runtime.devengine.errors import InvalidArgument
from tests.providers.devengine.running import TENANT, RunningEngine, engine_in, eventually, step

PATH = "/api/v1/cron"


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def schedule(engine: RunningEngine, **changes: Any) -> dict[str, Any]:
    sequence_id = engine.sequence(step("a", "transform", {"got": "{{context.data}}"}))
    body = {"tenant_id": TENANT, "namespace": "default", "sequence_id": sequence_id, "cron_expr": "0 9 * * MON-FRI"}
    answer = engine.http.post(PATH, json=body | changes)
    assert answer.status_code == 201, answer.text
    return {"sequence_id": sequence_id, **answer.json()}


@pytest.mark.parametrize(
    ("expression", "zone", "after", "next_at"),
    [
        ("0 9 * * MON-FRI", "UTC", "2026-01-16T09:00:00+00:00", "2026-01-19T09:00:00+00:00"),
        ("0 9 * * 2-6", "UTC", "2026-01-16T08:59:59+00:00", "2026-01-16T09:00:00+00:00"),
        ("*/15 * * * *", "UTC", "2026-01-16T09:14:59+00:00", "2026-01-16T09:15:00+00:00"),
        ("*/5 * * * * *", "UTC", "2026-01-16T09:14:58+00:00", "2026-01-16T09:15:00+00:00"),
        ("30 4 1,15 jan *", "UTC", "2026-01-15T04:30:00+00:00", "2027-01-01T04:30:00+00:00"),
        ("0 0 29 2 *", "UTC", "2026-01-15T04:30:00+00:00", "2028-02-29T00:00:00+00:00"),
        ("0 9 * * *", "America/New_York", "2026-07-01T00:00:00+00:00", "2026-07-01T13:00:00+00:00"),
        ("0 9 * * *", "America/New_York", "2026-01-01T00:00:00+00:00", "2026-01-01T14:00:00+00:00"),
        ("0 0 0 1 1 * 2030", "UTC", "2026-01-01T00:00:00+00:00", "2030-01-01T00:00:00+00:00"),
    ],
)
def test_next_times(expression: str, zone: str, after: str, next_at: str) -> None:
    assert cron.parse(expression, zone).after(at(after)) == at(next_at)


def test_there_may_be_no_next_time() -> None:
    assert cron.parse("0 0 30 2 *", "UTC").after(0) is None


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("", "UTC"),
        ("* * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("* * * * 0", "UTC"),
        ("* * * * MON-", "UTC"),
        ("*/0 * * * *", "UTC"),
        ("banana * * * *", "UTC"),
        ("* * * * *", "Mars/Base"),
        ("* * * * *", "../etc/passwd"),
    ],
)
def test_what_is_no_schedule(expression: str, zone: str) -> None:
    with pytest.raises(InvalidArgument):
        cron.parse(expression, zone)


def test_create_change_delete(engine: RunningEngine) -> None:
    made = schedule(engine, timezone="Europe/Berlin", metadata={"a": 1})
    path = f"{PATH}/{made['id']}"
    found = engine.http.get(path).json()
    assert {"cron_expr": "0 9 * * MON-FRI", "enabled": True, "metadata": {"a": 1}}.items() <= found.items()
    assert found["next_fire_at"] == made["next_fire_at"]
    assert found in engine.http.get(PATH).json()
    changed = engine.http.put(path, json={"enabled": False, "cron_expr": "0 0 1 1 *"}).json()
    assert (changed["enabled"], changed["cron_expr"], changed["timezone"]) == (False, "0 0 1 1 *", "Europe/Berlin")
    assert engine.http.put(path, json={"cron_expr": "x"}).status_code == 400
    assert engine.http.get(path, headers={"x-tenant-id": "stranger"}).status_code == 404
    assert engine.http.delete(path).status_code == 204
    assert engine.http.get(path).status_code == 404


def test_refusals(engine: RunningEngine) -> None:
    body = {"tenant_id": TENANT, "namespace": "default", "sequence_id": str(uuid.uuid4()), "cron_expr": "* * * * *"}
    assert engine.http.post(PATH, json=body).status_code == 404
    assert engine.http.post(PATH, json={**body, "tenant_id": "other"}).status_code == 403
    known = {**body, "sequence_id": engine.sequence(step("a", "noop"))}
    assert engine.http.post(PATH, json={**known, "cron_expr": "x"}).status_code == 400
    assert engine.http.post(PATH, json={**known, "enabled": "yes"}).status_code == 422


def test_it_fires_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    def runs(engine: RunningEngine, sequence_id: str) -> list[dict[str, Any]]:
        query = {"sequence_id": sequence_id, "state": "completed"}
        items: list[dict[str, Any]] = engine.http.get("/api/v1/instances", params=query).json()["items"]
        return items

    with engine_in(tmp_path) as engine:
        made = schedule(engine, cron_expr="* * * * * *", metadata={"source": "cron"})
        first = eventually(lambda: runs(engine, made["sequence_id"]))
        assert first[0]["metadata"] == {"source": "cron"}
        assert engine.outputs(first[0]["id"]) == {"a": {"got": {}}}
    with engine_in(tmp_path) as engine:
        eventually(lambda: len(runs(engine, made["sequence_id"])) > len(first))
