"""Which sequences this engine can run. What it cannot run is refused by name, never silently ignored.

Shapes are those of the engine's SequenceDefinition: a step is `{"type": "step", "id", "handler", "params"?, "retry"?,
"timeout"?}`, a parallel block `{"type": "parallel", "id", "branches": [[block…]…]}`. Durations are milliseconds, or
text such as "100ms", "2s", "1m".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.providers.runtime.devengine.errors import InvalidArgument, missing, mistyped
from server.providers.runtime.devengine.models import JsonObject

HANDLERS = frozenset({"noop", "log", "sleep", "transform", "http_request", "fail"})
STEP_FIELDS = frozenset({"type", "id", "handler", "params", "retry", "timeout"})
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
        kind = block.get("type")
        if kind == "step":
            _check_step(block)
        elif kind == "parallel":
            for branch in _branches(block):
                yield from _walk(branch, depth + 1)
        else:
            raise InvalidArgument(f"block type {kind!r} is not known to the development engine (step, parallel)")
        yield block


def _block_id(block: JsonObject) -> str:
    if "id" not in block:
        raise missing("id")
    block_id = block["id"]
    if not isinstance(block_id, str):
        raise mistyped("id", "a string")
    if not block_id:
        raise InvalidArgument("block id must not be empty")
    return block_id


def _branches(block: JsonObject) -> list[list[Any]]:
    branches = block.get("branches")
    if branches is None:
        raise missing("branches")
    if not isinstance(branches, list) or not all(isinstance(branch, list) for branch in branches):
        raise mistyped("branches", "a sequence of sequences")
    return branches


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
