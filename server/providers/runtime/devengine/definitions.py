"""Which sequences this engine can run. What it cannot run is refused by name, never silently ignored.

Shapes are those of the engine's SequenceDefinition:

step       {"id", "handler", "params"?, "retry"?, "timeout"?, "delay"?: {"duration"}, "wait_for_input"?: {"prompt"?,
           "timeout"?, "choices"?: [{"label", "value"}], "store_as"?}}
parallel   {"id", "branches": [[block…]…]}
router     {"id", "routes": [{"condition", "blocks": [block…]}…], "default"?: [block…]}
try_catch  {"id", "try_block": [block…], "catch_block": [block…], "finally_block"?: [block…]}

Durations are milliseconds. Those of steps may also be text such as "100ms", "2s", "1m".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.providers.runtime.devengine import expressions
from server.providers.runtime.devengine.errors import InvalidArgument, missing, mistyped
from server.providers.runtime.devengine.models import JsonObject

HANDLERS = frozenset({"noop", "log", "sleep", "transform", "http_request", "fail"})
STEP_FIELDS = frozenset({"type", "id", "handler", "params", "retry", "timeout", "delay", "wait_for_input"})
DELAY_FIELDS = frozenset({"duration"})
INPUT_FIELDS = frozenset({"prompt", "timeout", "choices", "store_as"})
KINDS = ("step", "parallel", "router", "try_catch")
YES_OR_NO = [{"label": "Yes", "value": "yes"}, {"label": "No", "value": "no"}]
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_DEPTH = 32
# Fields of a sequence whose neglect would change what a run does.
BEHAVIOUR = ("interceptors", "input_schema", "sla", "on_failure", "on_cancel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a step is tried, and how long is waited between two tries."""

    max_attempts: int = 1
    initial_s: float = 1.0
    max_s: float = 60.0
    multiplier: float = 2.0

    def wait(self, failed_attempts: int) -> float:
        """Seconds before the next try, growing from one failure to the next."""
        try:
            return min(self.max_s, self.initial_s * self.multiplier ** (failed_attempts - 1))
        except OverflowError:
            return self.max_s


def check(body: JsonObject) -> None:
    """Raises Undecodable or InvalidArgument for a sequence that cannot be run."""
    for field in BEHAVIOUR:
        if body.get(field):
            raise InvalidArgument(f"'{field}' is not implemented by the development engine")
    blocks = body["blocks"]
    if not isinstance(blocks, list):
        raise mistyped("blocks", "a sequence")
    seen: set[str] = set()
    for block in _walk(blocks, 0):
        block_id = _block_id(block)
        if block_id in seen:
            raise InvalidArgument(f"duplicate block id: {block_id}")
        seen.add(block_id)


def _walk(blocks: list[Any], depth: int) -> Iterator[JsonObject]:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"blocks are nested more than {MAX_DEPTH} deep")
    for block in blocks:
        if not isinstance(block, dict):
            raise mistyped("blocks", "a map")
        if block.get("type") == "step":
            _check_step(block)
        for part in parts(block):
            yield from _walk(part, depth + 1)
        yield block


def parts(block: JsonObject) -> list[list[JsonObject]]:
    """The lists of blocks within a block. Raises Undecodable or InvalidArgument."""
    kind = block.get("type")
    if kind == "step":
        return []
    if kind == "parallel":
        return _lists(block, "branches", block.get("branches"))
    if kind == "router":
        chosen = [*_routes(block), *([] if block.get("default") is None else [block["default"]])]
        return _lists(block, "routes", chosen)
    if kind == "try_catch":
        last = [] if block.get("finally_block") is None else [block["finally_block"]]
        return _lists(block, "try_block", [block.get("try_block"), block.get("catch_block"), *last])
    raise InvalidArgument(f"block type {kind!r} is not known to the development engine ({', '.join(KINDS)})")


def steps(blocks: list[JsonObject]) -> Iterator[JsonObject]:
    """Every step of a sequence that was checked."""
    for block in blocks:
        if block["type"] == "step":
            yield block
        for part in parts(block):
            yield from steps(part)


def _block_id(block: JsonObject) -> str:
    if "id" not in block:
        raise missing("id")
    block_id = block["id"]
    if not isinstance(block_id, str):
        raise mistyped("id", "a string")
    if not block_id:
        raise InvalidArgument("block id must not be empty")
    return block_id


def _lists(block: JsonObject, field: str, value: Any) -> list[list[JsonObject]]:
    _block_id(block)
    if value is None:
        raise missing(field)
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise mistyped(field, "a sequence of sequences")
    return value


def _routes(block: JsonObject) -> list[Any]:
    routes = block.get("routes")
    if not isinstance(routes, list) or not all(isinstance(route, dict) for route in routes):
        raise mistyped("routes", "a sequence of maps")
    for route in routes:
        if not isinstance(route.get("condition"), str):
            raise mistyped("condition", "a string")
        expressions.parse(route["condition"])
    return [route.get("blocks") for route in routes]


def _check_step(step: JsonObject) -> None:
    block_id = _block_id(step)
    handler = step.get("handler")
    if handler is None:
        raise missing("handler")
    if handler not in HANDLERS:
        known = ", ".join(sorted(HANDLERS))
        raise InvalidArgument(f"block '{block_id}': the development engine has no handler {handler!r}, only {known}")
    for field in sorted(step.keys() - STEP_FIELDS):
        # False, null and empty mean "off" for every optional field but `cancellable`, which is on by default.
        if step[field] if field != "cancellable" else step[field] is False:
            raise InvalidArgument(f"block '{block_id}': '{field}' is not implemented by the development engine")
    if not isinstance(step.get("params") or {}, dict):
        raise InvalidArgument(f"block '{block_id}': params must be an object")
    retry_of(step)
    timeout_of(step)
    delay_of(step)
    gate_of(step)


def retry_of(step: JsonObject) -> Retry:
    """The retry policy of a step; without one it is tried once. Raises InvalidArgument."""
    policy = step.get("retry")
    if policy is None:
        return Retry()
    where = f"block '{step['id']}': retry"
    if not isinstance(policy, dict) or not _is_count(policy.get("max_attempts")):
        raise InvalidArgument(f"{where}.max_attempts must be a whole number")
    multiplier = policy.get("backoff_multiplier", 2.0)
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 1 <= multiplier <= 1000:
        raise InvalidArgument(f"{where}.backoff_multiplier must be a number from 1 to 1000")
    return Retry(
        max_attempts=max(1, policy["max_attempts"]),
        initial_s=duration(policy.get("initial_backoff", 1000), f"{where}.initial_backoff"),
        max_s=duration(policy.get("max_backoff", 60_000), f"{where}.max_backoff"),
        multiplier=float(multiplier),
    )


def timeout_of(step: JsonObject) -> float | None:
    """Seconds that one try of a step may take. Raises InvalidArgument."""
    value = step.get("timeout")
    return None if value is None else duration(value, f"block '{step['id']}': timeout")


def delay_of(step: JsonObject) -> float | None:
    """Seconds that are waited before a step begins. Raises InvalidArgument."""
    delay = step.get("delay")
    if delay is None:
        return None
    where = f"block '{step['id']}': delay"
    _check_fields(delay, DELAY_FIELDS, where)
    if step["handler"] == "sleep":
        raise InvalidArgument(f"{where} of a sleep is not implemented by the development engine")
    return _milliseconds(delay.get("duration"), f"{where}.duration")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a step waits for before it begins: one of some values, given by somebody, for a while."""

    prompt: str
    timeout_s: float | None
    choices: list[JsonObject]
    store_as: str | None


def gate_of(step: JsonObject) -> Gate | None:
    """The input that a step waits for. Raises InvalidArgument."""
    wait = step.get("wait_for_input")
    if wait is None:
        return None
    where = f"block '{step['id']}': wait_for_input"
    _check_fields(wait, INPUT_FIELDS, where)
    choices = YES_OR_NO if wait.get("choices") is None else wait["choices"]
    texts = [wait.get("prompt", ""), wait.get("store_as") or "x"]
    if not _are_choices(choices) or not all(isinstance(text, str) for text in texts) or wait.get("store_as") == "":
        raise InvalidArgument(f"{where} needs choices with a label and a value of their own, and texts")
    timeout = None if wait.get("timeout") is None else _milliseconds(wait["timeout"], f"{where}.timeout")
    return Gate(prompt=texts[0], timeout_s=timeout, choices=choices, store_as=wait.get("store_as"))


def _are_choices(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(choice, dict) for choice in value):
        return False
    values = [choice.get("value") for choice in value]
    texts = [*values, *(choice.get("label") for choice in value)]
    return all(isinstance(text, str) for text in texts) and len(set(values)) == len(values)


def _check_fields(value: Any, known: frozenset[str], where: str) -> None:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where} must be an object")
    for field in sorted(value.keys() - known):
        if value[field]:
            raise InvalidArgument(f"{where}: '{field}' is not implemented by the development engine")


def _milliseconds(value: Any, where: str) -> float:
    # The engine takes no text here, and would refuse the whole sequence.
    if not _is_count(value):
        raise InvalidArgument(f"{where} must be a whole number of milliseconds")
    return float(value / 1000)


def duration(value: Any, where: str) -> float:
    """Seconds, from milliseconds or from text with a unit. Raises InvalidArgument."""
    if _is_count(value):
        return float(value / 1000)
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)", value) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"{where} must be milliseconds or text such as '100ms'")
    return float(match[1]) * UNITS[match[2]]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
