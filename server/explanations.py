"""Explanations as messages: one form for those that are asked for (server) and those of real requests (proxy)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from orch8cloud.v1 import policies_pb2 as pb

from server.domain.decisions import Attempt
from server.domain.explanation import NearestMiss
from server.domain.rules import JSON, ConditionResult, RuleResult

# Each level of JSON is three of protobuf, which takes a hundred.
MAX_DEPTH = 16
TOO_DEEP = "…"
MAX_SENTENCE = 2000

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Room:
    """How many bytes an explanation may still take. `short` once something did not fit; nothing fits after that."""

    left: float = math.inf
    short: bool = False

    def take(self, size: int) -> bool:
        """Takes some of it; False where it does not suffice."""
        self.short = self.short or size > self.left
        if not self.short:
            self.left -= size
        return not self.short


def attempts(found: Sequence[Attempt], room: Room) -> list[pb.PolicyAttempt]:
    """How each policy came out, in order. Where there is no room, whole rules and then whole policies are left out.

    Every policy without its rules goes before the rules of any, and the last one, which may have let the request pass,
    before all others.
    """
    bare = [_bare(attempt) for attempt in found[-1:]]
    room.take(sum(one.ByteSize() for one in bare))
    others = _fitting((_bare(attempt) for attempt in found[:-1]), room)
    shown = [*others, *bare]
    kept = [*found[: len(others)], *found[-1:]]
    for one, attempt in zip(shown, kept, strict=True):
        one.rules.extend(_rules(attempt.rules, room))
    return shown


def miss(found: NearestMiss | None, room: Room) -> Value:
    """The rule that came closest, as an object; null where there is none."""
    if found is None:
        return Value(null_value=NULL_VALUE)
    fits = room.take(len(found.message.encode(errors="replace")))
    conditions = _fitting(map(_failed, found.conditions), room)
    fields = {
        "policy_id": value(found.policy_id),
        "rule": value(found.rule),
        "message": value(found.message if fits else f"{found.message[:MAX_SENTENCE]}…"),
        "conditions": Value(list_value=ListValue(values=conditions)),
    }
    return Value(struct_value=Struct(fields=fields))


def value(found: JSON, depth: int = MAX_DEPTH) -> Value:
    """Any JSON, however odd, as a message. What protobuf cannot hold becomes the nearest text."""
    if isinstance(found, str):
        return Value(string_value=_text(found))
    if isinstance(found, bool):
        return Value(bool_value=found)
    if isinstance(found, int | float):
        return _number(found)
    if found is None:
        return Value(null_value=NULL_VALUE)
    if depth == 0:
        return Value(string_value=TOO_DEEP)
    if isinstance(found, Sequence):
        return Value(list_value=ListValue(values=[value(item, depth - 1) for item in found]))
    fields = {_text(name): value(item, depth - 1) for name, item in found.items()}
    return Value(struct_value=Struct(fields=fields))


def _text(found: str) -> str:
    """Half of a surrogate pair is text to JSON, and not to protobuf."""
    return found.encode(errors="replace").decode()


def _number(found: float) -> Value:
    """JSON has no infinity and protobuf no large integers: both are shown as text, as they were written."""
    exact = math.isfinite(found) if isinstance(found, float) else abs(found) <= 2**53
    if exact:
        return Value(number_value=found)
    # Python refuses to write out integers of thousands of digits.
    return Value(string_value=repr(found) if isinstance(found, float) or found.bit_length() < 4096 else TOO_DEEP)


def _bare(attempt: Attempt) -> pb.PolicyAttempt:
    return pb.PolicyAttempt(
        policy_id=attempt.policy_id,
        provider=attempt.provider,
        applicable=attempt.applicable,
        accepted=attempt.accepted,
        why=_text(attempt.why),
    )


def _fitting(found: Iterable[M], room: Room) -> list[M]:
    """The messages up to the first one for which there is no room."""
    return list(takewhile(lambda one: room.take(one.ByteSize()), found))


def _rules(found: Iterable[RuleResult], room: Room) -> list[pb.RuleOutcome]:
    kept = []
    for rule in found:
        conditions = _fitting(map(_condition, rule.conditions), room)
        if room.short:
            break
        kept.append(pb.RuleOutcome(matched=rule.matched, conditions=conditions))
    return kept


def _condition(one: ConditionResult) -> pb.ConditionOutcome:
    return pb.ConditionOutcome(
        claim=_text(one.claim), expected=value(one.expected), actual=value(one.actual), matched=one.matched
    )


def _failed(one: ConditionResult) -> Value:
    return value({"claim": one.claim, "expected": one.expected, "actual": one.actual, "matched": one.matched})
