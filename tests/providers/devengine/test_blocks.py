"""What holds steps together: routers, try and catch, delays, and the wait for somebody's input."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.providers.devengine.running import RunningEngine, engine_in, eventually, sequence, step

PATH = "/api/v1/instances"
CHOICES = [{"label": "Approve", "value": "approved"}, {"label": "Reject", "value": "rejected"}]


def router(*routes: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "router",
        "id": "router",
        "routes": [{"condition": condition, "blocks": [step(name, "noop")]} for condition, name in routes],
        "default": [step("otherwise", "noop")],
    }


def try_catch(bad: dict[str, Any], **more: Any) -> dict[str, Any]:
    caught = step("caught", "transform", {"error": "{{context.data._error}}"})
    return {"type": "try_catch", "id": "tc", "try_block": [bad], "catch_block": [caught], **more}


def gate(**wait: Any) -> dict[str, Any]:
    return step("gate", "noop", wait_for_input={"prompt": "Really?", "choices": CHOICES, "store_as": "answer", **wait})


def answer(engine: RunningEngine, instance_id: str, value: Any) -> int:
    body = {"signal_type": {"custom": "human_input:gate"}, "payload": {"value": value}}
    return engine.http.post(f"{PATH}/{instance_id}/signals", json=body).status_code


def waiting(engine: RunningEngine, instance_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        items = engine.http.get("/api/v1/approvals", params={"limit": 1000}).json()["items"]
        return next((item for item in items if item["instance_id"] == instance_id), None)

    return eventually(look)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("data.n == 7", True),
        ("n == 7", True),
        ('context.data.s == "x" && context.data.n > 6.5', True),
        ("context.data.s == 'y' || !context.data.none", True),
        ('s in ["y", "x"]', True),
        ("s in []", False),
        ("outputs.first.a == null", False),
        ("steps.first.a >= 1 && outputs.first.list.1 == 3", True),
        ("n == '7'", False),
        ("n < '8'", False),
        ("flag == 1", False),
        ("(n != 7 || flag) && empty", False),
        ("config.k", True),
    ],
)
def test_the_first_route_whose_condition_holds(engine: RunningEngine, condition: str, holds: bool) -> None:
    first = step("first", "transform", {"a": 1, "list": [2, 3]})
    data = {"n": 7, "s": "x", "flag": True, "empty": []}
    blocks = router((condition, "taken"), ("true", "later"))
    run = engine.run(first, blocks, context={"data": data, "config": {"k": {}}})
    assert engine.ended(run)["state"] == "completed"
    assert list(engine.outputs(run)) == ["first", "taken" if holds else "later"]


def test_without_a_route_the_default_is_taken(engine: RunningEngine) -> None:
    run = engine.run(router(("false", "never")), step("after", "noop"))
    assert engine.ended(run)["state"] == "completed"
    assert list(engine.outputs(run)) == ["otherwise", "after"]


def test_a_failure_is_caught(engine: RunningEngine) -> None:
    block = try_catch(step("bad", "fail", {"message": "no luck"}), finally_block=[step("last", "noop")])
    run = engine.run(block, step("after", "noop"))
    assert engine.ended(run)["state"] == "completed"
    outputs = engine.outputs(run)
    assert list(outputs) == ["caught", "last", "after"]
    assert outputs["caught"]["error"] == {"failed_blocks": ["bad"], "source": "try_catch", "block_id": "tc"}


def test_a_catch_block_that_is_not_needed_is_skipped(engine: RunningEngine) -> None:
    run = engine.run(try_catch(step("good", "noop"), finally_block=[step("last", "noop")]))
    assert engine.ended(run)["state"] == "completed"
    assert list(engine.outputs(run)) == ["good", "last"]


def test_a_failure_while_catching_fails_after_finally(engine: RunningEngine) -> None:
    block = try_catch(step("bad", "fail"), finally_block=[step("last", "noop")])
    block["catch_block"] = [step("worse", "fail", {"message": "worse"})]
    run = engine.run(block, step("never", "noop"))
    assert engine.ended(run)["error"] == {"step_id": "worse", "message": "worse"}
    assert list(engine.outputs(run)) == ["last"]


def test_a_delay_is_waited_before_the_step(engine: RunningEngine) -> None:
    started = time.time()
    run = engine.run(step("late", "noop", delay={"duration": 300}))
    assert engine.ended(run)["state"] == "completed"
    assert time.time() - started >= 0.3


def test_an_answer_lets_the_step_go_on(engine: RunningEngine) -> None:
    run = engine.run(gate(timeout=60_000), router(('answer == "approved"', "yes")), context={"data": {"kept": 1}})
    item = waiting(engine, run)
    assert {"block_id": "gate", "prompt": "Really?", "choices": CHOICES, "timeout_seconds": 60}.items() <= item.items()
    assert engine.instance(run)["state"] == "waiting"
    assert answer(engine, run, "maybe") == 201
    assert answer(engine, run, "approved") == 201
    found = engine.ended(run)
    assert (found["state"], found["context"]["data"]) == ("completed", {"kept": 1, "answer": "approved"})
    assert list(engine.outputs(run)) == ["gate", "yes"]
    assert answer(engine, run, "approved") == 400


def test_what_is_no_choice_is_no_answer(engine: RunningEngine) -> None:
    run = engine.run(gate(timeout=60_000))
    waiting(engine, run)
    for value in ("maybe", 1, None, ["approved"], "rejected"):
        assert answer(engine, run, value) == 201
    found = engine.ended(run)
    assert (found["state"], found["context"]["data"]) == ("completed", {"answer": "rejected"})


def test_nobody_answers(engine: RunningEngine) -> None:
    found = engine.ended(engine.run(gate(timeout=50)))
    assert found["error"] == {"step_id": "gate", "message": "the wait for input has timed out"}


def test_one_who_waits_can_be_cancelled(engine: RunningEngine) -> None:
    run = engine.run(gate())
    waiting(engine, run)
    assert engine.http.post(f"{PATH}/{run}/signals", json={"signal_type": "cancel"}).status_code == 201
    assert engine.ended(run)["state"] == "cancelled"


def test_a_restart_keeps_waits_and_ways(tmp_path: Path) -> None:
    blocks = [try_catch(step("bad", "fail")), router(("_error.source", "way")), gate(), step("end", "noop")]
    with engine_in(tmp_path) as engine:
        run = engine.run(*blocks)
        waiting(engine, run)
    with engine_in(tmp_path) as engine:
        assert waiting(engine, run)["block_id"] == "gate"
        assert answer(engine, run, "rejected") == 201
        assert engine.ended(run)["state"] == "completed"
        assert list(engine.outputs(run)) == ["caught", "way", "gate", "end"]


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (router(("n ==", "a")), "a value is missing"),
        (router(("n + 1 == 2", "a")), "'+ 1 == 2' is not known"),
        (router(("(n", "a")), "')' is missing"),
        (router(("n 1", "a")), "'1' is one too many"),
        (router(("(" * 65 + "n" + ")" * 65, "a")), "nested too deeply"),
        (step("a", "noop", delay={"duration": "2s"}), "delay.duration must be a whole number"),
        (step("a", "noop", delay={"duration": 1, "jitter": 5}), "'jitter' is not implemented"),
        (step("a", "sleep", delay={"duration": 1}), "of a sleep is not implemented"),
        (gate(choices=[]), "needs choices"),
        (gate(choices=[CHOICES[0], CHOICES[0]]), "needs choices"),
        (gate(store_as=""), "needs choices"),
        (gate(escalation_handler="x"), "'escalation_handler' is not implemented"),
        (try_catch(step("caught", "noop")), "duplicate block id: caught"),
    ],
)
def test_what_cannot_run_is_refused_by_name(engine: RunningEngine, block: dict[str, Any], named: str) -> None:
    refused = engine.http.post("/api/v1/sequences", json=sequence(block))
    assert refused.status_code == 400
    assert named in refused.json()["error"]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "router", "id": "r"},
        {"type": "router", "id": "r", "routes": [{"blocks": []}]},
        {"type": "router", "id": "r", "routes": [{"condition": "true"}]},
        {"type": "try_catch", "id": "t", "try_block": []},
        {"type": "try_catch", "id": "t", "catch_block": [], "try_block": {}},
    ],
)
def test_what_does_not_decode(engine: RunningEngine, block: dict[str, Any]) -> None:
    assert engine.http.post("/api/v1/sequences", json=sequence(block)).status_code == 422
