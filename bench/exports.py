"""What engines report: batches as they are exported, each with half of its runs beginning and half of them ending."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

EVENTS = 500
_RUNS = EVENTS // 4
_NEW, _OLD = "aaaaaaaa", "bbbbbbbb"


def batches(engine: int) -> Iterator[bytes]:
    """Batches of one engine, for ever. Each of its runs is in two of them, with two events in each."""
    template = _template(engine, datetime.now(UTC)).encode()
    for number in range(1, 2**32):
        fresh, old = b"%08x" % number, b"%08x" % (number - 1)
        yield template.replace(_NEW.encode(), fresh).replace(_OLD.encode(), old)


def _template(engine: int, at: datetime) -> str:
    events = [event for run in range(_RUNS) for event in _begins(f"{_NEW}-0000-7000-{engine:04x}-{run:012x}", at)]
    events += [event for run in range(_RUNS) for event in _ends(f"{_OLD}-0000-7000-{engine:04x}-{run:012x}", at)]
    sent = at.isoformat().replace("+00:00", "Z")
    return json.dumps({"engine_id": "bench", "engine_version": "0.7.1", "sent_at": sent, "events": events})


def _begins(run_id: str, at: datetime) -> list[dict[str, object]]:
    return [_event(run_id, "scheduled", at), _event(run_id, "running", at + timedelta(milliseconds=5))]


def _ends(run_id: str, at: datetime) -> list[dict[str, object]]:
    waits = _event(run_id, "waiting", at + timedelta(milliseconds=500))
    ends = _event(run_id, "completed", at + timedelta(milliseconds=900))
    return [waits | {"step_id": "wait-for-answer"}, ends | {"duration_ms": 900}]


def _event(run_id: str, state: str, at: datetime) -> dict[str, object]:
    return {
        "instance_id": run_id,
        "sequence_name": "welcome-campaign",
        "sequence_version": 3,
        "state": state,
        "at": at.isoformat().replace("+00:00", "Z"),
        "step_id": None,
        "duration_ms": None,
        "error_kind": None,
        "sub_tenant": None,
    }
