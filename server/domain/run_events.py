"""Reads what an engine exports (its `cloud_observability` exporter): one event after the other, whatever is wrong.

An engine sends a batch that was not taken again, for ever, so a fault in one event must cost that event alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from server.domain.runs import RANKS, RunEvent, Transition, microseconds
from server.errors import FieldViolation, InvalidArgument

MOST_EVENTS = 500
# The engine's are UUIDs. It becomes part of a path.
RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}", re.ASCII)
# Longer texts are cut: a run counts whatever its names are.
MOST_CHARACTERS = 255
LARGEST = 2**31 - 1
# How far an engine's clock may be ahead, and how old a run may be of which we hear for the first time.
AHEAD = timedelta(hours=1)
OLDEST = timedelta(days=400)
_DIGITS = 18
# Halves of surrogate pairs: like the NUL character, no database takes them.
_SURROGATES = re.compile("[\ud800-\udfff]")


class BadEvent(Exception):
    """An event that is wrong in itself."""


def read_batch(body: bytes, now: datetime) -> Iterator[RunEvent | None]:
    """The events of a batch, in its order, and None in place of each that is wrong.

    Raises InvalidArgument, before the first one, where it is no batch at all.
    """
    earliest, latest = microseconds(now - OLDEST), microseconds(now + AHEAD)
    for report in _events(_document(body)):
        try:
            yield _event(report, earliest, latest)
        except BadEvent:
            yield None


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise _wrong("body", "is nested too deeply") from None
    except ValueError:
        return _patient_document(body)


def _patient_document(body: bytes) -> Any:
    """The same for bytes that are not UTF-8 and for numbers without end, where the JSON around them is sound."""
    try:
        return json.loads(body.decode(errors="replace"), parse_int=_number)
    except (ValueError, RecursionError):
        raise _wrong("body", 'must be JSON: {"engine_id": …, "events": […]}') from None


def _number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS else None


def _events(document: Any) -> list[Any]:
    events = document.get("events") if isinstance(document, Mapping) else None
    if not isinstance(events, list):
        raise _wrong("events", "must be a list of run events")
    if len(events) > MOST_EVENTS:
        raise _wrong("events", f"must be at most {MOST_EVENTS}; send the others in further batches")
    return events


def _event(report: Any, earliest: int, latest: int) -> RunEvent:
    """The event that a member of the list stands for. Raises BadEvent."""
    if not isinstance(report, dict):
        raise BadEvent
    get = report.get
    run_id, state = get("instance_id"), get("state")
    if not isinstance(run_id, str) or RUN_ID.fullmatch(run_id) is None:
        raise BadEvent
    if not isinstance(state, str) or state not in RANKS:
        raise BadEvent
    at = _at(get("at"))
    if not earliest <= at <= latest:
        raise BadEvent
    return RunEvent(
        run_id,
        Transition(at, RANKS[state], _text(get("step_id")) or ""),
        _text(get("sequence_name")) or "",
        _count(get("sequence_version")),
        _count(get("duration_ms")),
        _text(get("error_kind")),
        _text(get("sub_tenant")),
    )


def _at(value: Any) -> int:
    """A time as RFC 3339. One without a zone means nobody knows what."""
    try:
        at = datetime.fromisoformat(value)
        return microseconds(at)
    except (TypeError, ValueError, OverflowError):
        raise BadEvent from None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise BadEvent
    if not value.isascii() and _SURROGATES.search(value):
        raise BadEvent
    return value[:MOST_CHARACTERS]


def _count(value: Any) -> int | None:
    """A whole number from 0 on, also where it is written as 3.0. Of one that is too large the largest is kept."""
    if value is None:
        return None
    if type(value) is int and 0 <= value < LARGEST:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise BadEvent
    if value >= LARGEST:
        return LARGEST
    if value != int(value):
        raise BadEvent
    return int(value)


def _wrong(field: str, what: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field=field, description=what)])
