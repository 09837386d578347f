"""What is read of an engine's export, and that one wrong event costs itself alone."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.domain.run_events import LARGEST, MOST_EVENTS, read_batch
from server.domain.runs import RANKS, RunEvent, Transition, microseconds
from server.errors import InvalidArgument

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "instance_id": "0197a1b0-0000-7000-8000-000000000001",
    "sequence_name": "welcome",
    "sequence_version": 3,
    "state": "failed",
    "at": "2026-01-02T03:04:05.000123Z",
    "step_id": "send",
    "duration_ms": 1500,
    "error_kind": "timeout",
    "sub_tenant": "acme",
}


def read(*events: Any) -> tuple[list[RunEvent], int]:
    batch = {"engine_id": "e", "engine_version": "0.7.1", "sent_at": "2026-01-02T03:04:05Z", "events": events}
    return counted(json.dumps(batch).encode())


def counted(body: bytes) -> tuple[list[RunEvent], int]:
    """The events that are sound, and the number of the others."""
    found = list(read_batch(body, NOW))
    return [event for event in found if event is not None], found.count(None)


def test_event_is_read_whole() -> None:
    transition = Transition(microseconds(NOW) + 123, RANKS["failed"], "send")
    assert read(GOOD) == ([RunEvent(GOOD["instance_id"], transition, "welcome", 3, 1500, "timeout", "acme")], 0)


def test_what_an_engine_does_not_tell_may_be_null_or_left_out() -> None:
    told = {"instance_id": "a", "state": "running", "at": "2026-01-02T03:04:05Z"}
    silent = {**dict.fromkeys(GOOD), **told, "sequence_name": ""}
    expected = RunEvent("a", Transition(microseconds(NOW), RANKS["running"], ""))
    assert read(told, silent) == ([expected, expected], 0)


@pytest.mark.parametrize(
    "change",
    [
        {"instance_id": None},
        {"instance_id": 7},
        {"instance_id": ""},
        {"instance_id": "../x"},
        {"instance_id": "a" * 65},
        {"state": "exploded"},
        {"state": None},
        {"state": ["running"]},
        {"at": None},
        {"at": 1767323045},
        {"at": "yesterday"},
        {"at": "2026-01-02T03:04:05"},
        {"at": "9999-12-31T23:59:59-23:59"},
        {"at": "0001-01-01T00:00:00+23:59"},
        {"at": "2026-01-02T05:00:00Z"},
        {"at": "2024-01-02T03:04:05Z"},
        {"sequence_version": "3"},
        {"sequence_version": True},
        {"sequence_version": -1},
        {"sequence_version": 1.5},
        {"duration_ms": "long"},
        {"duration_ms": float("nan")},
        {"duration_ms": [1]},
        {"sequence_name": 7},
        {"step_id": {"a": 1}},
        {"step_id": "nul \0"},
        {"error_kind": "half \ud83d"},
        {"sub_tenant": False},
    ],
)
def test_wrong_event_costs_itself_alone(change: dict[str, Any]) -> None:
    events, rejected = read(GOOD, GOOD | change, GOOD)
    assert (len(events), rejected) == (2, 1)


@pytest.mark.parametrize("event", [None, 7, "x", [], [GOOD], True])
def test_what_is_no_event_costs_itself_alone(event: Any) -> None:
    assert read(event, GOOD)[1] == 1


def test_unknown_fields_are_let_be() -> None:
    assert read(GOOD | {"new": {"deep": [1]}}) == read(GOOD)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("duration_ms", 2**40, LARGEST),
        ("duration_ms", float("inf"), LARGEST),
        ("duration_ms", 3.0, 3),
        ("sequence_name", "n" * 300, "n" * 255),
        ("step_id", "ünï 🚀", "ünï 🚀"),
    ],
)
def test_what_is_too_large_is_cut(field: str, given: Any, kept: Any) -> None:
    (event,), rejected = read(GOOD | {field: given})
    found = event.transition.step_id if field == "step_id" else getattr(event, field.replace("_name", ""))
    assert (found, rejected) == (kept, 0)


def test_bytes_and_numbers_that_json_readers_refuse_cost_one_event() -> None:
    body = json.dumps({"events": [GOOD, GOOD | {"step_id": "@"}, GOOD | {"duration_ms": 1234567}]}).encode()
    events, rejected = counted(body.replace(b"@", b"\xff").replace(b"1234567", b"9" * 5000))
    assert [one.transition.step_id for one in events] == ["send", "\ufffd", "send"]
    assert (events[2].duration_ms, rejected) == (None, 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"events": {}}', b'{"events": null}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000],
)
def test_what_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        counted(body)


def test_as_many_events_as_an_engine_sends_and_no_more() -> None:
    assert len(read(*[GOOD] * MOST_EVENTS)[0]) == MOST_EVENTS
    with pytest.raises(InvalidArgument):
        read(*[GOOD] * (MOST_EVENTS + 1))


def test_clock_of_an_engine_may_be_a_little_ahead() -> None:
    soon = NOW + timedelta(minutes=59)
    assert read(GOOD | {"at": soon.isoformat()})[1] == 0
