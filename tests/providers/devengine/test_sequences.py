import uuid
from typing import Any

import pytest

from tests.providers.devengine.running import RunningEngine, sequence, step

PATH = "/api/v1/sequences"
PARALLEL = {"type": "parallel", "id": "p", "branches": [[step("a", "noop")], [step("b", "noop"), step("c", "log")]]}


def test_create_and_read(engine: RunningEngine) -> None:
    body = sequence(step("first", "noop"), PARALLEL, name="whole")
    answer = engine.http.post(PATH, json=body)
    assert (answer.status_code, answer.json()) == (201, {"id": body["id"]})
    assert engine.http.get(f"{PATH}/{body['id']}").json() == {**body, "deprecated": False}


def test_an_empty_tenant_in_the_body_is_the_callers(engine: RunningEngine) -> None:
    body = sequence(step("a", "noop"), tenant_id="", name="empty-tenant")
    assert engine.http.post(PATH, json=body).status_code == 201
    assert engine.http.get(f"{PATH}/{body['id']}").json()["tenant_id"] == "acme"


@pytest.mark.parametrize("field", ["id", "tenant_id", "namespace", "name", "version", "blocks", "created_at"])
def test_required_fields(engine: RunningEngine, field: str) -> None:
    body = sequence(step("a", "noop"))
    del body[field]
    answer = engine.http.post(PATH, json=body)
    assert answer.status_code == 422
    assert f"missing field `{field}`" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "changes",
    [{"id": "x"}, {"version": "1"}, {"version": True}, {"blocks": {}}, {"created_at": "yesterday"}, {"name": 1}],
)
def test_wrong_types(engine: RunningEngine, changes: dict[str, Any]) -> None:
    assert engine.http.post(PATH, json=sequence(step("a", "noop"), **changes)).status_code == 422


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ([step("a", "llm_call")], "llm_call"),
        ([{"type": "race", "id": "r", "branches": []}], "race"),
        ([step("a", "noop"), step("a", "noop")], "duplicate block id: a"),
        ([{"type": "parallel", "id": "p", "branches": [[step("p", "noop")]]}], "duplicate block id: p"),
        ([step("a", "noop", when="true")], "when"),
        ([step("a", "noop", retry={"max_attempts": 2, "initial_backoff": "soon"})], "initial_backoff"),
        ([step("a", "noop", retry={})], "max_attempts"),
    ],
)
def test_what_cannot_run_is_refused_by_name(engine: RunningEngine, blocks: list[Any], named: str) -> None:
    answer = engine.http.post(PATH, json=sequence(*blocks))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("invalid argument: ")
    assert named in answer.json()["error"]


def test_optional_step_fields_that_are_off_pass(engine: RunningEngine) -> None:
    engine.sequence(step("a", "noop", delay=None, cancellable=True, queue_name=None, retry=None))


def test_duplicates(engine: RunningEngine) -> None:
    body = sequence(step("a", "noop"), name="twice")
    assert engine.http.post(PATH, json=body).status_code == 201
    for again in (body, {**body, "id": str(uuid.uuid4())}):
        answer = engine.http.post(PATH, json=again)
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("already exists: ")


def test_by_name_gives_the_newest(engine: RunningEngine) -> None:
    for version in (2, 10, 9):
        engine.sequence(step("a", "noop"), name="versions", version=version)
    query = {"tenant_id": "acme", "namespace": "default", "name": "versions"}
    assert engine.http.get(f"{PATH}/by-name", params=query).json()["version"] == 10
    assert engine.http.get(f"{PATH}/by-name", params={**query, "version": 9}).json()["version"] == 9
    assert engine.http.get(f"{PATH}/by-name", params={**query, "version": 3}).status_code == 404
    assert engine.http.get(f"{PATH}/by-name", params={"name": "versions"}).status_code == 400


def test_pages(engine: RunningEngine) -> None:
    for version in (1, 2, 3):
        engine.sequence(step("a", "noop"), name="paged", version=version)
    query: dict[str, Any] = {"name": "paged", "limit": 2}
    first = engine.http.get(PATH, params=query).json()
    second = engine.http.get(PATH, params={**query, "offset": 2}).json()
    assert [item["version"] for item in first["items"] + second["items"]] == [1, 2, 3]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert engine.http.get(PATH, params={"limit": "many"}).status_code == 400


def test_delete(engine: RunningEngine) -> None:
    sequence_id = engine.sequence(step("a", "noop"))
    assert engine.http.delete(f"{PATH}/{sequence_id}").status_code == 204
    assert engine.http.get(f"{PATH}/{sequence_id}").status_code == 404
    assert engine.http.get(f"{PATH}/not-a-uuid").status_code == 400


def test_delete_while_in_use(engine: RunningEngine) -> None:
    instance_id = engine.run(step("a", "sleep", {"seconds": 60}))
    sequence_id = engine.instance(instance_id)["sequence_id"]
    assert engine.http.delete(f"{PATH}/{sequence_id}").status_code == 409
    engine.http.post(f"/api/v1/instances/{instance_id}/signals", json={"signal_type": "cancel"})
    assert engine.http.delete(f"{PATH}/{sequence_id}").status_code == 204
