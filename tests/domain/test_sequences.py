"""The engine's rules for sequences, as far as they can be known without an engine."""

from typing import Any

import pytest

from server.domain.schedules import is_cron
from server.domain.sequences import SequenceInvalid, check

STEP = {"type": "step", "id": "a", "handler": "noop"}


def sequence(*blocks: Any, **more: Any) -> dict[str, Any]:
    return {"namespace": "default", "name": "s", "blocks": list(blocks), **more}


def step(block_id: str = "a", **more: Any) -> dict[str, Any]:
    return {**STEP, "id": block_id, **more}


def nested(depth: int) -> dict[str, Any]:
    block: dict[str, Any] = step("leaf")
    for level in range(depth):
        block = {"type": "cancellation_scope", "id": f"scope_{level}", "blocks": [block]}
    return block


def test_every_kind_of_block_may_be_there() -> None:
    retry = {"max_attempts": 2, "initial_backoff": 1, "max_backoff": 2, "backoff_multiplier": 2.5}
    check(
        sequence(
            step("s", params={"x": 1}, retry=retry, timeout=5, delay={"duration": 0}, wait_for_input={"timeout": 1}),
            {"type": "parallel", "id": "p", "branches": [[step("p1")], []]},
            {"type": "race", "id": "r", "branches": [[step("r1")]], "semantics": "first_to_succeed"},
            {"type": "loop", "id": "l", "condition": "true", "body": [step("l1")], "max_iterations": 3},
            {"type": "for_each", "id": "f", "collection": "items", "item_var": "x", "body": [step("f1")]},
            {"type": "router", "id": "o", "routes": [{"condition": "true", "blocks": [step("o1")]}], "default": []},
            {
                "type": "try_catch",
                "id": "t",
                "try_block": [step("t1")],
                "catch_block": [],
                "finally_block": [step("t2")],
            },
            {"type": "sub_sequence", "id": "u", "sequence_name": "other", "input": {}},
            {"type": "ab_split", "id": "v", "variants": [{"name": "x", "weight": 1, "blocks": [step("v1")]}]},
            nested(2),
            on_failure=[step("cleanup")],
            schema_version=1,
        )
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sequence(STEP, id="x"), "'id' is set when the sequence is deployed"),
        (sequence(STEP, tenant_id="x"), "'tenant_id' is set"),
        ({"name": "s", "blocks": [STEP]}, "'namespace' is missing"),
        (sequence(STEP, blokcs=[]), "there is no field 'blokcs'"),
        (sequence(STEP, name=""), "'name' must be a text"),
        (sequence(), "'blocks' must not be empty"),
        (sequence(STEP, STEP), "two blocks have the id 'a'"),
        (sequence(STEP, on_failure=[STEP]), "two blocks have the id 'a'"),
        (sequence("x"), "blocks must hold objects"),
        (sequence({"type": "step", "handler": "noop"}), "a block of blocks has no id"),
        (sequence({"type": "if", "id": "a"}), "there is no block type 'if'"),
        (sequence({"type": "step", "id": "a"}), "a: 'handler' is missing"),
        (sequence(step(handler="")), "a: 'handler' must be a text"),
        (sequence(step(handlr="x")), "a: there is no field 'handlr'"),
        (sequence(step(params=[])), "a: 'params' must be an object"),
        (sequence(step(timeout="2s")), "a: timeout must be a whole number of milliseconds"),
        (sequence(step(timeout=-1)), "a: timeout must be a whole number"),
        (sequence(step(timeout=0.5)), "a: timeout must be a whole number"),
        (sequence(step(delay={})), "a: delay.duration is missing"),
        (sequence(step(delay={"duration": True})), "a: delay.duration must be a whole number"),
        (sequence(step(retry={"max_attempts": 2})), "a: retry.initial_backoff is missing"),
        (
            sequence(step(retry={"max_attempts": 0, "initial_backoff": 1, "max_backoff": 1})),
            "a: retry.max_attempts must be a whole number of at least 1",
        ),
        (sequence(step(wait_for_input={"tiemout": 1})), "a: wait_for_input: there is no field 'tiemout'"),
        (sequence({"type": "parallel", "id": "p", "branches": []}), "p: 'branches' must be a list of 1 to 256"),
        (sequence({"type": "parallel", "id": "p", "branches": [[STEP]] * 257}), "p: 'branches' must be a list of 1"),
        (sequence({"type": "parallel", "id": "p", "branches": [STEP]}), "p.branches[0] must be a list of blocks"),
        (sequence({"type": "router", "id": "r", "routes": [{"blocks": []}]}), "r: each of 'routes' must have"),
        (sequence({"type": "router", "id": "r", "routes": [{"condition": " ", "blocks": []}]}), "must be a text"),
        (
            sequence({"type": "ab_split", "id": "v", "variants": [{"name": 1, "weight": 1, "blocks": []}]}),
            "needs a name",
        ),
        (
            sequence({"type": "loop", "id": "l", "condition": "true", "body": [], "max_iterations": 100_001}),
            "l: 'max_iterations' must be 1 to 100000",
        ),
        (sequence(nested(40)), "blocks are nested more than 32 deep"),
        (sequence(*(step(f"s{n}") for n in range(501))), "there are more than 500 blocks"),
    ],
)
def test_what_the_engine_would_refuse(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(SequenceInvalid) as refused:
        check(body)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "text", ["* * * * *", "0 9 * * MON-FRI", "*/15 0-6/2 1,15 jan,DEC 1", "59 23 31 12 7", "  0 9 * *   sun "]
)
def test_schedules(text: str) -> None:
    assert is_cron(text)


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 0", "5-1 * * * *",
     "*/0 * * * *", "a * * * *", "1,,2 * * * *", "٣ * * * *", "1-2-3 * * * *"],
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    assert not is_cron(text)
