"""Allow rules: matching, and what is wrong with them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.rules import evaluate, lookup, violations

NAMES = st.text("abc", min_size=1, max_size=3)
SCALARS = st.one_of(st.text("xyz", max_size=3), st.integers(-3, 3), st.booleans())
CLAIMS = st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
RULES = st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=3)), min_size=1, max_size=3)


@given(rule=RULES, claims=CLAIMS)
def test_a_rule_matches_where_every_condition_does(rule: Any, claims: Any) -> None:
    every = all(evaluate({claim: expected}, claims).matched for claim, expected in rule.items())
    assert evaluate(rule, claims).matched == every


@given(claims=CLAIMS, name=NAMES, values=st.lists(SCALARS, min_size=1, max_size=3))
def test_an_array_matches_where_any_of_its_values_does(claims: Any, name: str, values: Any) -> None:
    any_of_them = any(evaluate({name: value}, claims).matched for value in values)
    assert evaluate({name: values}, claims).matched == any_of_them


@given(claims=CLAIMS.filter(bool), data=st.data())
def test_a_rule_made_of_the_claims_matches_until_one_condition_is_flipped(claims: Any, data: Any) -> None:
    rule = {name: value for name, value in claims.items() if value != []}
    if not rule:
        return
    assert evaluate(rule, claims).matched
    flipped = data.draw(st.sampled_from(sorted(rule)))
    assert not evaluate({**rule, flipped: "never a value"}, claims).matched
    without = {name: value for name, value in claims.items() if name != flipped}
    assert not evaluate(rule, without).matched


@given(rule=RULES)
def test_generated_rules_are_valid(rule: Any) -> None:
    assert list(violations([rule])) == []


@pytest.mark.parametrize(
    ("expected", "actual", "matched"),
    [
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (1, 1.0, True),
        ("1", 1, False),
        ("a", "A", False),
        ("a", ["b", "a"], True),
        ("a", [], False),
        ("None", None, False),
        ({"glob": "repo:acme/*"}, "repo:acme/site:ref", True),
        ({"glob": "repo:acme/*"}, "xrepo:acme/site", False),
        ({"glob": "feature[1]?"}, "feature[1]x", True),
        ({"glob": "feature[1]"}, "feature1", False),
        ({"glob": "*"}, 5, False),
        ({"glob": "a*"}, ["b", "ab"], True),
    ],
)
def test_equality_is_that_of_json(expected: Any, actual: Any, matched: bool) -> None:
    assert evaluate({"claim": expected}, {"claim": actual}).matched is matched


def test_claims_are_found_literally_first_then_by_path() -> None:
    claims: Any = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}
    assert lookup(claims, "a.b") == 1
    assert lookup(claims, "a.c.d") == 3
    assert lookup(claims, "a.x") is None


@pytest.mark.parametrize(
    ("allow", "field"),
    [
        ({}, "allow"),
        ([{}] * 65, "allow"),
        ([{}], "allow[0]"),
        (["x"], "allow[0]"),
        ([{"a": 1}, {"a": None}], "allow[1].a"),
        ([{"a": []}], "allow[0].a"),
        ([{"a": [1, None]}], "allow[0].a[1]"),
        ([{"a": {"regex": "x"}}], "allow[0].a"),
        ([{"a": {"glob": ""}}], "allow[0].a.glob"),
        ([{"": 1}], "allow[0]"),
        ([{"a": "x" * 1025}], "allow[0].a"),
        ([{f"a{number}": 1 for number in range(33)}], "allow[0]"),
        ([{"a": list(range(65))}], "allow[0].a"),
    ],
)
def test_each_violation_names_its_field(allow: Any, field: str) -> None:
    assert [violation.field for violation in violations(allow)] == [field]
