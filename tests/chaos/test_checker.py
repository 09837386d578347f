"""The checker finds what is wrong in histories made by hand: a proof that cannot fail proves nothing."""

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.history import NEVER, Change, Fault, Grant, History, Request, Step

LATE = "let in after it was certain that nobody would be"
EARLY = "refused although everything that it needs was certain"
MADE = Step(granted=True, began=1, done=2, certain=2)


def request(started: float, status: int | None = 200, reason: str = "", **changes: Any) -> Request:
    made = Request(
        number=7,
        entrance="direct",
        needs=("key", "instance"),
        connected=started,
        started=started,
        ended=started + 0.5,
        status=status,
        reason=reason,
    )
    return replace(made, **changes)


def history(
    *key: Step, requests: list[Request], reached: bool | None = None, faults: tuple[Fault, ...] = ()
) -> History:
    made = History(requests=requests, faults=list(faults))
    made.step("instance", Step(granted=True, began=0, done=0, certain=0))
    for step in (MADE, *key):
        made.step("key", step)
    seen = {one.number for one in requests if one.status == 200} if reached is None else {7} if reached else set()
    made.reached = frozenset(seen)
    return made


def kinds(found: History) -> list[str]:
    return [violation.kind for violation in check(found)]


REVOKED = Step(granted=False, began=10, done=11, certain=11)
UNCONFIRMED = Step(granted=False, began=10, done=11, certain=15)
UNANSWERED = Step(granted=False, began=10)
EXPIRED = Step(granted=False, began=10, done=10, certain=10)
AGAIN = Step(granted=True, began=20, done=21, certain=21)


@pytest.mark.parametrize(
    ("steps", "started", "let_in", "refused"),
    [
        ((), 3, [], [EARLY]),
        ((REVOKED,), 5, [], [EARLY]),
        ((REVOKED,), 9.6, [], []),  # under way while the change is
        ((REVOKED,), 10.9, [], []),
        ((REVOKED,), 11.1, [LATE], []),
        ((UNCONFIRMED,), 14.9, [], []),
        ((UNCONFIRMED,), 15.1, [LATE], []),
        ((UNANSWERED,), 99, [], []),
        ((UNANSWERED, replace(REVOKED, began=12, done=13, certain=13)), 13.1, [LATE], []),
        ((EXPIRED,), 9.4, [], [EARLY]),
        ((EXPIRED,), 9.6, [], []),
        ((EXPIRED,), 10.1, [LATE], []),
        ((REVOKED, AGAIN), 19.4, [LATE], []),
        ((REVOKED, AGAIN), 19.6, [], []),
        ((REVOKED, AGAIN), 21.1, [], [EARLY]),
        # A step back that was never answered may come at any time, also after the next revocation.
        ((REVOKED, replace(AGAIN, done=NEVER, certain=NEVER)), 99, [], []),
        ((replace(AGAIN, began=8, done=NEVER, certain=NEVER), REVOKED), 99, [], []),
        # And so may a revocation without an answer, after the next grant.
        ((UNANSWERED, AGAIN), 99, [], []),
    ],
)
def test_time_of_a_change_decides(steps: tuple[Step, ...], started: float, let_in: Any, refused: Any) -> None:
    assert kinds(history(*steps, requests=[request(started)])) == let_in
    assert kinds(history(*steps, requests=[request(started, 401, "KEY_REVOKED")])) == refused
    assert kinds(history(*steps, requests=[request(started, 503, "DATA_PLANE_NOT_READY")])) == []


def test_one_missing_need_is_enough() -> None:
    made = history(requests=[request(12), request(8, 409, "STATE_CONFLICT", number=8)])
    made.step("instance", Step(granted=False, began=10, done=11, certain=11))
    assert kinds(made) == [LATE, EARLY]


@pytest.mark.parametrize("status", [200, 502, 504, 500])
def test_every_answer_behind_the_decision_counts_as_let_in(status: int) -> None:
    reason = {502: "ENGINE_ERROR", 504: "ENGINE_TIMEOUT", 500: "INTERNAL"}.get(status, "")
    assert LATE in kinds(history(REVOKED, requests=[request(12, status, reason)]))


def test_broken_request_that_the_engine_saw_was_let_in() -> None:
    killed = Fault("direct", "kill", began=12, ended=13)
    assert kinds(history(REVOKED, requests=[request(12, None)], reached=True, faults=(killed,))) == [LATE]
    assert kinds(history(REVOKED, requests=[request(12, None)], faults=(killed,))) == []


def test_refused_request_may_not_reach_the_engine() -> None:
    for started, status, reason in ((12, 401, "KEY_REVOKED"), (10.5, 503, "DATA_PLANE_NOT_READY")):
        found = kinds(history(REVOKED, requests=[request(started, status, reason)], reached=True))
        assert "refused, and the engine saw it" in found


def test_answer_that_has_not_begun_may_be_cut_when_its_key_is_revoked() -> None:
    assert kinds(history(REVOKED, requests=[request(10.5, 401, "KEY_REVOKED")], reached=True)) == []


def test_answered_request_must_have_reached_the_engine() -> None:
    assert kinds(history(requests=[request(5)], reached=False)) == ["answered, and the engine never saw it"]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (None, ["broken off, and nothing had happened to the part"]),
        (Fault("direct", "kill", began=5.2, ended=7), []),
        (Fault("direct", "term", began=4, ended=4.9), []),  # the connection was there before
        (Fault("direct", "kill", began=1, ended=2), ["broken off, and nothing had happened to the part"]),
        (Fault("direct", "halt", began=4, ended=6), ["broken off, and nothing had happened to the part"]),
        (Fault("serve", "kill", began=4, ended=6), ["broken off, and nothing had happened to the part"]),
    ],
)
def test_connection_breaks_only_where_a_process_ends(fault: Fault | None, found: list[str]) -> None:
    broken = request(5, None, connected=4.5)
    assert kinds(history(requests=[broken], reached=False, faults=(fault,) if fault else ())) == found


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "INTERNAL"), (503, ""), (401, "RULE_MISMATCH"), (418, ""), (200, "NOT_FOUND")]
)
def test_answers_are_those_of_the_contract(status: int, reason: str) -> None:
    unsure = replace(UNANSWERED, began=4)
    assert "not an answer of the contract" in kinds(history(unsure, requests=[request(5, status, reason)]))


def test_changes_answer_as_the_contract_says() -> None:
    found = History(
        changes=[
            Change("key.revoke", 1, 2, 204),
            Change("key.revoke", 1, 2, 503, "CHANGE_UNCONFIRMED"),
            Change("key.revoke", 1, 2, 503, "UNAVAILABLE"),
            Change("key.revoke", 1, 2, 500, "INTERNAL"),
            Change("key.revoke", 1, 2, 401, "UNAUTHENTICATED"),
        ]
    )
    assert len(check(found)) == 2


def test_grant_of_which_nothing_is_known_may_be_either() -> None:
    assert Grant().may_be(True, 1, 2)
    assert Grant().may_be(False, 1, 2)
