"""Allow rules (seed, "Allow Rules"): validation, and matching that explains itself."""

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from server.errors import FieldViolation

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Rule: TypeAlias = Mapping[str, JSON]

MAX_RULES = 64
MAX_CONDITIONS = 32
MAX_VALUES = 64
MAX_TEXT = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionResult:
    """How one condition of a rule came out: what it wanted and what the claim was (None where it is missing)."""

    claim: str
    expected: JSON
    actual: JSON
    matched: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """How one rule came out. It matched if all of its conditions did."""

    conditions: tuple[ConditionResult, ...]

    @property
    def matched(self) -> bool:
        """Whether every condition matched."""
        return all(condition.matched for condition in self.conditions)


def evaluate(rule: Rule, claims: Mapping[str, JSON]) -> RuleResult:
    """Holds every condition of a rule against the claims."""
    return RuleResult(conditions=tuple(_condition(claim, expected, claims) for claim, expected in rule.items()))


def _condition(claim: str, expected: JSON, claims: Mapping[str, JSON]) -> ConditionResult:
    actual = lookup(claims, claim)
    return ConditionResult(claim=claim, expected=expected, actual=actual, matched=matches(expected, actual))


def lookup(claims: Mapping[str, JSON], name: str) -> JSON:
    """A claim by its literal name, else by dotted path into nested claims; None where it is missing.

    Literal first, because CircleCI's claim names contain dots and slashes (contract, "Tunnel and gateway").
    """
    if name in claims:
        return claims[name]
    value: JSON = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def matches(expected: JSON, actual: JSON) -> bool:
    """Whether a claim fulfils a condition. Any element of either side may match: arrays mean OR within a field."""
    wanted = expected if isinstance(expected, list | tuple) else (expected,)
    given = actual if isinstance(actual, list | tuple) else (actual,)
    return any(_equal(one, other) for one in wanted for other in given)


def _equal(expected: JSON, actual: JSON) -> bool:
    if actual is None:
        return False
    if isinstance(expected, Mapping):
        return isinstance(actual, str) and _glob(str(expected["glob"])).fullmatch(actual) is not None
    # bool is an int in Python; in JSON true is not 1.
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return expected == actual and isinstance(expected, str) == isinstance(actual, str)


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` for any run of characters, `?` for one; nothing else is special, so `[` in a branch name is only a `[`."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def violations(allow: JSON) -> Iterator[FieldViolation]:
    """Everything that is wrong with an `allow` value, each with the path of its field."""
    if not isinstance(allow, list | tuple):
        yield FieldViolation(field="allow", description="must be an array of rule objects")
        return
    if len(allow) > MAX_RULES:
        yield FieldViolation(field="allow", description=f"has {len(allow)} rules; at most {MAX_RULES} are allowed")
        return
    for index, rule in enumerate(allow):
        yield from _rule_violations(f"allow[{index}]", rule)


def _rule_violations(path: str, rule: JSON) -> Iterator[FieldViolation]:
    if not isinstance(rule, Mapping):
        yield FieldViolation(field=path, description="must be an object of conditions")
    elif not rule:
        yield FieldViolation(field=path, description="is empty and would match everybody; remove it or add a condition")
    elif len(rule) > MAX_CONDITIONS:
        yield FieldViolation(field=path, description=f"has more than {MAX_CONDITIONS} conditions")
    else:
        for claim, expected in rule.items():
            yield from _condition_violations(f"{path}.{claim}" if claim else path, claim, expected)


def _condition_violations(path: str, claim: str, expected: JSON) -> Iterator[FieldViolation]:
    if not claim or len(claim) > MAX_TEXT:
        yield FieldViolation(field=path, description=f"a claim name has 1 to {MAX_TEXT} characters")
    if not isinstance(expected, list | tuple):
        yield from _value_violations(path, expected)
        return
    if not 1 <= len(expected) <= MAX_VALUES:
        yield FieldViolation(field=path, description=f"an array of values has 1 to {MAX_VALUES} of them")
        return
    for index, value in enumerate(expected):
        yield from _value_violations(f"{path}[{index}]", value)


def _value_violations(path: str, value: JSON) -> Iterator[FieldViolation]:
    if isinstance(value, Mapping):
        if set(value) != {"glob"}:
            yield FieldViolation(field=path, description='the only operator is {"glob": "pattern"}')
        elif not isinstance(value["glob"], str) or not value["glob"]:
            yield FieldViolation(field=f"{path}.glob", description="must be a pattern, such as repo:acme/*")
        else:
            yield from _value_violations(f"{path}.glob", value["glob"])
    elif not isinstance(value, str | int | float):
        yield FieldViolation(field=path, description="must be a string, number, boolean, array or glob")
    elif isinstance(value, float) and not math.isfinite(value):
        yield FieldViolation(field=path, description="must be a number that JSON has")
    elif isinstance(value, str) and len(value) > MAX_TEXT:
        yield FieldViolation(field=path, description=f"has more than {MAX_TEXT} characters")
