"""Executions: how they start, what steps do, how they end."""

import json
import time
import uuid
from typing import Any

import httpx
import pytest

from tests.providers.devengine.running import TENANT, RunningEngine, eventually, step
from tests.support.target import Target

PATH = "/api/v1/instances"


def test_steps_run_in_order_and_see_each_other(engine: RunningEngine) -> None:
    instance_id = engine.run(
        step("hello", "transform", {"text": "hi {{context.data.name}}", "n": "{{context.data.n}}"}),
        step("wait", "sleep", {"duration_ms": 10}),
        step("say", "log", {"message": "{{outputs.hello.text}}, {{context.data.none|nobody}}"}),
        step("end", "noop"),
        context={"data": {"name": "Ada", "n": 7}},
    )
    found = engine.ended(instance_id)
    assert found["state"] == "completed"
    assert found["context"]["data"] == {"name": "Ada", "n": 7}
    assert engine.outputs(instance_id) == {
        "hello": {"text": "hi Ada", "n": 7},
        "wait": {"slept_ms": 10},
        "say": {"message": "hi Ada, nobody"},
        "end": {},
    }


def test_placeholders_in_data_are_not_followed(engine: RunningEngine) -> None:
    instance_id = engine.run(
        step("a", "transform", {"whole": "{{context.data.x}}", "part": "<{{context.data.x}}>"}),
        context={"data": {"x": "{{context.config.k}} credentials://any"}, "config": {"k": "hidden"}},
    )
    engine.ended(instance_id)
    text = "{{context.config.k}} credentials://any"
    assert engine.outputs(instance_id)["a"] == {"whole": text, "part": f"<{text}>"}


def test_branches_run_side_by_side(engine: RunningEngine) -> None:
    branches = [[step(f"s{n}", "sleep", {"duration_ms": 400})] for n in range(5)]
    started = time.monotonic()
    instance_id = engine.run({"type": "parallel", "id": "p", "branches": branches}, step("after", "noop"))
    assert engine.ended(instance_id)["state"] == "completed"
    assert time.monotonic() - started < 1.6
    assert list(engine.outputs(instance_id))[-1] == "after"


def test_a_failure_in_one_branch_fails_the_instance(engine: RunningEngine) -> None:
    branches = [[step("bad", "fail", {"message": "no luck"})], [step("good", "noop")]]
    found = engine.ended(engine.run({"type": "parallel", "id": "p", "branches": branches}, step("never", "noop")))
    assert found["state"] == "failed"
    assert found["error"] == {"step_id": "bad", "message": "no luck"}
    assert engine.outputs(found["id"]) == {"good": {}}


def test_retries_back_off(engine: RunningEngine, target: Target) -> None:
    target.script["/path"] = [500, 503]
    retry = {"max_attempts": 3, "initial_backoff": "100ms", "backoff_multiplier": 2}
    started = time.monotonic()
    instance_id = engine.run(step("call", "http_request", {"url": target.url("/path")}, retry=retry))
    assert engine.ended(instance_id)["state"] == "completed"
    assert time.monotonic() - started >= 0.3
    assert len(target.calls) == 3
    assert engine.http.get(f"{PATH}/{instance_id}/outputs").json()[0]["attempt"] == 2


def test_retries_come_to_an_end(engine: RunningEngine) -> None:
    retry = {"max_attempts": 2, "initial_backoff": 10}
    found = engine.ended(engine.run(step("a", "fail", {"message": "again", "retryable": True}, retry=retry)))
    assert (found["state"], found["error"]["message"]) == ("failed", "again")


def test_a_client_error_is_not_tried_again(engine: RunningEngine, target: Target) -> None:
    target.script["/path"] = [404]
    found = engine.ended(engine.run(step("a", "http_request", {"url": target.url("/path")}, retry={"max_attempts": 3})))
    assert (found["state"], found["error"]["message"]) == ("failed", "HTTP 404 from 127.0.0.1")
    assert len(target.calls) == 1


def test_http_request(engine: RunningEngine, target: Target) -> None:
    params = {"url": target.url("/path"), "method": "POST", "body": '{"a":1}', "headers": {"x-one": "1"}}
    instance_id = engine.run(step("a", "http_request", params))
    engine.ended(instance_id)
    call = target.calls[0]
    assert (call.method, call.headers["x-one"], call.headers["content-type"], call.body) == (
        "POST",
        "1",
        "application/json",
        b'{"a":1}',
    )
    output = engine.outputs(instance_id)["a"]
    assert output["status"] == 200
    assert json.loads(output["body"])["body"] == '{"a":1}'
    assert "content-length" in output["headers"]


def test_a_step_may_time_out(engine: RunningEngine) -> None:
    found = engine.ended(engine.run(step("a", "sleep", {"seconds": 60}, timeout=50)))
    assert (found["state"], found["error"]["message"]) == ("failed", "the step has timed out")


def test_secrets_reach_the_target_and_nothing_else(engine: RunningEngine, target: Target) -> None:
    value = json.dumps({"authorization": 'Bearer tok-"quoted"-123456', "user": "u"})
    body = {"id": "cred-run", "name": "c", "value": value, "tenant_id": TENANT}
    assert engine.http.post("/api/v1/credentials", json=body).status_code == 201
    reference = "credentials://cred-run/authorization"
    instance_id = engine.run(
        step("call", "http_request", {"url": target.url("/path"), "headers": {"authorization": reference}}),
        step("keep", "transform", {"ref": reference}),
        step("say", "log", {"message": reference}),
    )
    assert engine.ended(instance_id)["state"] == "completed"
    assert target.calls[0].headers["authorization"] == 'Bearer tok-"quoted"-123456'
    outputs = engine.outputs(instance_id)
    assert json.loads(outputs["call"]["body"])["saw"] == "[REDACTED]"
    assert outputs["keep"] == {"ref": reference}
    stored = b"".join(path.read_bytes() for path in engine.folder.glob("orch8.db*"))
    assert b"-123456" not in stored
    assert "-123456" not in engine.log.read_text()


def test_a_reference_is_the_whole_text(engine: RunningEngine, target: Target) -> None:
    body = {"id": "cred-whole", "name": "c", "value": json.dumps("Bearer 1234"), "tenant_id": TENANT}
    assert engine.http.post("/api/v1/credentials", json=body).status_code == 201
    for sent, seen in (
        ("credentials://cred-whole", "Bearer 1234"),
        ("Bearer credentials://cred-whole", "Bearer credentials://cred-whole"),
    ):
        run = engine.run(step("call", "http_request", {"url": target.url("/path"), "headers": {"authorization": sent}}))
        assert engine.ended(run)["state"] == "completed"
        assert target.calls[-1].headers["authorization"] == seen


@pytest.mark.parametrize("reference", ["credentials://unknown", "credentials://foreign"])
def test_secrets_of_others_do_not_exist(engine: RunningEngine, target: Target, reference: str) -> None:
    body = {"id": "foreign", "name": "c", "value": "v", "tenant_id": "stranger"}
    engine.http.post("/api/v1/credentials", json=body, headers={"x-tenant-id": "stranger"})
    found = engine.ended(
        engine.run(step("a", "http_request", {"url": target.url("/path"), "headers": {"x": reference}}))
    )
    assert found["error"]["message"] == f"credential '{reference.removeprefix('credentials://')}' is not available"
    assert not target.calls


def test_idempotency_keys(engine: RunningEngine) -> None:
    body = {
        "sequence_id": engine.sequence(step("a", "noop")),
        "tenant_id": TENANT,
        "namespace": "default",
        "idempotency_key": uuid.uuid4().hex,
    }
    first, second = (engine.http.post(PATH, json=body) for _ in range(2))
    assert (first.status_code, first.json()["deduplicated"]) == (201, False)
    assert (second.status_code, second.json()) == (200, {"id": first.json()["id"], "deduplicated": True})


def test_refusals(engine: RunningEngine) -> None:
    body = {"sequence_id": str(uuid.uuid4()), "tenant_id": TENANT, "namespace": "default"}
    assert engine.http.post(PATH, json=body).status_code == 404
    assert engine.http.post(PATH, json={**body, "tenant_id": "other"}).status_code == 403
    assert engine.http.post(PATH, json={"tenant_id": TENANT, "namespace": "default"}).status_code == 422
    known = {**body, "sequence_id": engine.sequence(step("a", "noop"))}
    large = {**known, "context": {"data": {"x": "x" * 256 * 1024}}}
    answer = engine.http.post(PATH, json=large)
    assert (answer.status_code, answer.json()["error"][:17]) == (413, "payload too large")
    assert engine.http.post(PATH, json={**known, "dry_run": True}).status_code == 501
    assert engine.http.get(f"{PATH}/{uuid.uuid4()}").status_code == 404
    assert engine.http.get(f"{PATH}/x").status_code == 400


def test_lists(engine: RunningEngine) -> None:
    sequence_id = engine.sequence(step("a", "sleep", {"seconds": 60}))
    body = {"sequence_id": sequence_id, "tenant_id": TENANT, "namespace": "default"}
    ids = [engine.http.post(PATH, json=body).json()["id"] for _ in range(3)]
    eventually(lambda: engine.instance(ids[2])["state"] == "running")
    engine.http.post(f"{PATH}/{ids[0]}/signals", json={"signal_type": "cancel"})
    query: dict[str, Any] = {"sequence_id": sequence_id}
    found = engine.http.get(PATH, params={**query, "limit": 2}).json()
    assert ([item["id"] for item in found["items"]], found["has_more"]) == ([ids[2], ids[1]], True)
    found = engine.http.get(PATH, params={**query, "state": "cancelled,failed"}).json()
    assert [item["id"] for item in found["items"]] == [ids[0]]
    assert engine.http.get(PATH, params={"state": "odd"}).status_code == 400


def test_cancel(engine: RunningEngine) -> None:
    instance_id = engine.run(step("a", "sleep", {"seconds": 60}), step("never", "noop"))
    signals = f"{PATH}/{instance_id}/signals"
    assert engine.http.post(signals, json={"signal_type": "pause"}).status_code == 501
    assert engine.http.post(signals, json={}).status_code == 422
    answer = engine.http.post(signals, json={"signal_type": "cancel"})
    assert (answer.status_code, list(answer.json())) == (201, ["signal_id"])
    assert engine.instance(instance_id)["state"] == "cancelled"
    assert engine.http.post(signals, json={"signal_type": "cancel"}).status_code == 400
    assert engine.outputs(instance_id) == {}


def test_stream_follows_to_the_end(engine: RunningEngine) -> None:
    instance_id = engine.run(step("a", "transform", {"x": 1}), step("b", "sleep", {"duration_ms": 300}))
    with engine.http.stream("GET", f"{PATH}/{instance_id}/stream?poll_ms=100") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [chunk.split("\n") for chunk in "".join(answer.iter_text()).strip().split("\n\n")]
    names = [event[0].removeprefix("event: ") for event in events]
    data = [json.loads(event[1].removeprefix("data: ")) for event in events]
    assert names.count("output") == 2
    assert data[names.index("output")]["output"] == {"x": 1}
    assert names[-1] == "done"
    assert data[-1] == {"state": "completed"}
    assert {"instance_id": instance_id, "state": "completed"} in data


def test_streams_are_limited_and_given_back(engine: RunningEngine) -> None:
    instance_id = engine.run(step("a", "sleep", {"seconds": 60}))
    url = f"{PATH}/{instance_id}/stream?poll_ms=5000"
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=engine.base, headers=engine.http.headers, limits=limits, trust_env=False) as client:
        held = [client.send(client.build_request("GET", url), stream=True) for _ in range(256)]
        assert {answer.status_code for answer in held} == {200}
        # A dropped iterator would close its stream.
        readers = [answer.iter_raw() for answer in held]
        for reader in readers:
            assert next(reader).startswith(b"event: state")
        assert engine.http.get(url).status_code == 503
        for answer in held:
            answer.close()

    def free() -> bool:
        with engine.http.stream("GET", url) as answer:
            return answer.status_code == 200

    assert eventually(free)
