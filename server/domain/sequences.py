"""The engine's rules for sequences in authoring form, so that what it would refuse is found before it is asked."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

# The engine's limits at publish time, and tighter ones of ours where a template needs no more.
MAX_DEPTH = 32
MAX_BLOCKS = 500
MAX_BRANCHES = 256
MAX_ITERATIONS = 100_000
MAX_NAME = 255
REQUIRED = ("namespace", "name", "blocks")
OPTIONAL = frozenset({"$schema", "schema_version", "input_schema", "sla", "on_failure", "on_cancel", "interceptors"})
# What is stamped when a sequence is published.
STAMPED = ("id", "tenant_id", "version", "created_at", "deprecated", "status")
STEP = frozenset(
    {
        "handler",
        "params",
        "delay",
        "retry",
        "timeout",
        "rate_limit_key",
        "send_window",
        "context_access",
        "cancellable",
        "wait_for_input",
        "queue_name",
        "deadline",
        "on_deadline_breach",
        "fallback_handler",
        "cache_key",
        "output_schema",
        "when",
    }
)
# The fields of each kind of block beside `type` and `id`; those that hold lists of blocks are found by `_parts`.
KINDS: Mapping[str, frozenset[str]] = {
    "step": STEP,
    "parallel": frozenset({"branches"}),
    "race": frozenset({"branches", "semantics"}),
    "loop": frozenset({"condition", "body", "max_iterations", "retain_iterations", "break_on"}),
    "for_each": frozenset({"collection", "item_var", "body", "max_iterations", "retain_iterations"}),
    "router": frozenset({"routes", "default"}),
    "try_catch": frozenset({"try_block", "catch_block", "finally_block"}),
    "sub_sequence": frozenset({"sequence_name", "version", "input"}),
    "ab_split": frozenset({"variants"}),
    "cancellation_scope": frozenset({"blocks"}),
}
NEEDED: Mapping[str, tuple[str, ...]] = {
    "step": ("handler",),
    "parallel": ("branches",),
    "race": ("branches",),
    "loop": ("condition", "body"),
    "for_each": ("collection", "body"),
    "router": ("routes",),
    "try_catch": ("try_block", "catch_block"),
    "sub_sequence": ("sequence_name",),
    "ab_split": ("variants",),
    "cancellation_scope": ("blocks",),
}
TEXTS = ("handler", "condition", "collection", "item_var", "sequence_name", "queue_name", "rate_limit_key", "cache_key")
RETRY = frozenset({"max_attempts", "initial_backoff", "max_backoff", "backoff_multiplier", "retry_if"})
DELAY = frozenset({"duration", "business_days_only", "jitter", "holidays", "fire_at_local", "timezone"})
INPUT = frozenset({"prompt", "timeout", "escalation_handler", "choices", "store_as", "allow_comment"})


class SequenceInvalid(Exception):
    """The engine would refuse the sequence, or not do what it says. The message names the block and what is wrong."""


def check(sequence: Mapping[str, Any]) -> None:
    """Raises SequenceInvalid."""
    for name in STAMPED:
        if name in sequence:
            raise SequenceInvalid(f"{name!r} is set when the sequence is deployed: leave it out")
    for name in REQUIRED:
        if name not in sequence:
            raise SequenceInvalid(f"{name!r} is missing")
    _known("the sequence", sequence, OPTIONAL | set(REQUIRED))
    for name in ("namespace", "name"):
        if not isinstance(sequence[name], str) or not 1 <= len(sequence[name]) <= MAX_NAME:
            raise SequenceInvalid(f"{name!r} must be a text of 1 to {MAX_NAME} characters")
    if sequence["blocks"] == []:
        raise SequenceInvalid("'blocks' must not be empty")
    _check_ids([block["id"] for block in islice(blocks(sequence), MAX_BLOCKS + 1)])


def _check_ids(ids: list[str]) -> None:
    if len(ids) > MAX_BLOCKS:
        raise SequenceInvalid(f"there are more than {MAX_BLOCKS} blocks")
    if twice := [block_id for block_id, times in Counter(ids).items() if times > 1]:
        raise SequenceInvalid(f"two blocks have the id {twice[0]!r}")


def blocks(sequence: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every block of a sequence, the inner ones too. Raises SequenceInvalid for one that is not well formed."""
    for name in ("blocks", "on_failure", "on_cancel"):
        yield from _walk(sequence.get(name, []), name, 0)


def _walk(found: Any, where: str, depth: int) -> Iterator[Mapping[str, Any]]:
    if not isinstance(found, list):
        raise SequenceInvalid(f"{where} must be a list of blocks")
    if depth > MAX_DEPTH:
        raise SequenceInvalid(f"blocks are nested more than {MAX_DEPTH} deep")
    for block in found:
        if not isinstance(block, Mapping):
            raise SequenceInvalid(f"{where} must hold objects")
        _check_block(block, where)
        yield block
        for name, part in _parts(block):
            yield from _walk(part, f"{block['id']}.{name}", depth + 1)


def _check_block(block: Mapping[str, Any], where: str) -> None:
    block_id, kind = block.get("id"), block.get("type")
    if not isinstance(block_id, str) or not block_id:
        raise SequenceInvalid(f"a block of {where} has no id")
    if not isinstance(kind, str) or kind not in KINDS:
        raise SequenceInvalid(f"{block_id}: there is no block type {kind!r}; write {', '.join(KINDS)}")
    _known(block_id, block, KINDS[kind] | {"id", "type"})
    for name in NEEDED[kind]:
        if name not in block:
            raise SequenceInvalid(f"{block_id}: {name!r} is missing")
    for name in TEXTS:
        if name in block and (not isinstance(block[name], str) or not block[name]):
            raise SequenceInvalid(f"{block_id}: {name!r} must be a text")
    most = block.get("max_iterations", 1)
    if not _is_count(most) or not 1 <= most <= MAX_ITERATIONS:
        raise SequenceInvalid(f"{block_id}: 'max_iterations' must be 1 to {MAX_ITERATIONS}")
    if kind == "step":
        _check_step(block_id, block)


def _parts(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The lists of blocks within a block, by the field that holds them."""
    for name in ("body", "default", "try_block", "catch_block", "finally_block", "blocks"):
        if block.get(name) is not None:
            yield name, block[name]
    for name in ("branches", "routes", "variants"):
        if name not in block:
            continue
        parts = block[name]
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_BRANCHES:
            raise SequenceInvalid(f"{block['id']}: {name!r} must be a list of 1 to {MAX_BRANCHES}")
        for index, part in enumerate(parts):
            yield f"{name}[{index}]", part if name == "branches" else _inner(block["id"], name, part)


def _inner(block_id: str, name: str, part: Any) -> Any:
    """The blocks of a route, which has a condition, or of a variant, which has a name and a weight."""
    known = {"condition", "blocks"} if name == "routes" else {"name", "weight", "blocks"}
    if not isinstance(part, Mapping) or set(part) != known:
        raise SequenceInvalid(f"{block_id}: each of {name!r} must have {', '.join(sorted(known))}, and nothing else")
    if name == "routes" and (not isinstance(part["condition"], str) or not part["condition"].strip()):
        raise SequenceInvalid(f"{block_id}: a condition must be a text")
    if name == "variants" and (not isinstance(part["name"], str) or not _is_count(part["weight"])):
        raise SequenceInvalid(f"{block_id}: a variant needs a name, and a weight that is a whole number")
    return part["blocks"]


def _check_step(block_id: str, step: Mapping[str, Any]) -> None:
    if not isinstance(step.get("params", {}), Mapping):
        raise SequenceInvalid(f"{block_id}: 'params' must be an object")
    for name in ("timeout", "deadline"):
        _check_duration(block_id, name, step.get(name))
    _check_object(block_id, "retry", step.get("retry"), RETRY, ("initial_backoff", "max_backoff"), needed=True)
    _check_object(block_id, "delay", step.get("delay"), DELAY, ("duration",), needed=True)
    _check_object(block_id, "wait_for_input", step.get("wait_for_input"), INPUT, ("timeout",), needed=False)
    retry = step.get("retry")
    if retry is not None and (not _is_count(retry.get("max_attempts")) or retry["max_attempts"] < 1):
        raise SequenceInvalid(f"{block_id}: retry.max_attempts must be a whole number of at least 1")


def _check_object(
    block_id: str, name: str, value: Any, known: frozenset[str], durations: tuple[str, ...], *, needed: bool
) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise SequenceInvalid(f"{block_id}: {name!r} must be an object")
    _known(f"{block_id}: {name}", value, known)
    for duration in durations:
        if needed and duration not in value:
            raise SequenceInvalid(f"{block_id}: {name}.{duration} is missing")
        _check_duration(block_id, f"{name}.{duration}", value.get(duration))


def _check_duration(block_id: str, name: str, value: Any) -> None:
    if value is not None and not _is_count(value):
        raise SequenceInvalid(f"{block_id}: {name} must be a whole number of milliseconds")


def _known(where: str, value: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    if unknown := sorted(set(value) - known):
        raise SequenceInvalid(f"{where}: there is no field {unknown[0]!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
