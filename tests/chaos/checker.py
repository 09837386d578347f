"""Decides, from a recorded history alone, whether the product kept its word."""

from collections.abc import Iterator
from dataclasses import dataclass

from rest_bridge.errors import http_status
from tests.chaos.history import Change, History, Request

DECIDED_AGAINST = frozenset({401, 403, 404, 409})
NOT_DECIDED = frozenset({429, 503})
REFUSED = DECIDED_AGAINST | NOT_DECIDED
# What a decision against the caller may say, and what may go wrong on the way to an engine that is being stopped.
REASONS = frozenset(
    {
        *("KEY_REVOKED", "KEY_EXPIRED", "UNAUTHENTICATED", "TOKEN_INVALID", "RULE_MISMATCH", "NOT_FOUND"),
        *("STATE_CONFLICT", "DATA_PLANE_NOT_READY", "RATE_LIMITED", "ENGINE_ERROR", "ENGINE_TIMEOUT"),
    }
)
CHANGE_REASONS = frozenset(
    {
        *("CHANGE_UNCONFIRMED", "UNAVAILABLE", "ENGINE_TIMEOUT", "NOT_FOUND", "STATE_CONFLICT", "RATE_LIMITED"),
        *("IDEMPOTENCY_IN_PROGRESS", "DATABASE_UNAVAILABLE"),
    }
)


@dataclass(frozen=True, slots=True)
class Violation:
    """A word that was not kept: which, and what shows it."""

    kind: str
    what: str


def check(history: History) -> list[Violation]:
    """All violations; none in a good history."""
    return [*_requests(history), *_changes(history)]


def _requests(history: History) -> Iterator[Violation]:
    for request in history.requests:
        for kind in _broken_by(history, request):
            yield Violation(kind, f"{request} {_story(history, request)}")


def _broken_by(history: History, request: Request) -> Iterator[str]:
    reached = request.number in history.reached
    if was_let_in(request, reached=reached) and not history.may_all_be_granted(request):
        yield "let in after it was certain that nobody would be"
    if request.status in DECIDED_AGAINST and not history.may_one_be_missing(request):
        yield "refused although everything that it needs was certain"
    # An answer that has not begun is cut too when what let the request in is taken away.
    taken_away_meanwhile = history.may_all_be_granted(request) and history.may_one_be_missing(request)
    cut = request.status in DECIDED_AGAINST and taken_away_meanwhile
    if request.status in REFUSED and reached and not cut:
        yield "refused, and the engine saw it"
    if request.status == 200 and not reached:
        yield "answered, and the engine never saw it"
    if request.status is None and not _was_broken(history, request):
        yield "broken off, and nothing had happened to the part"
    if request.status is not None and not _is_contract(request.status, request.reason, REASONS):
        yield "not an answer of the contract"


def was_let_in(request: Request, *, reached: bool) -> bool:
    """Whether the decision was for the caller, also where the engine could not be reached then."""
    return reached or (request.status is not None and request.status not in REFUSED)


def _was_broken(history: History, request: Request) -> bool:
    return any(
        fault.part == request.entrance
        and fault.breaks_connections
        and fault.began <= request.ended
        and fault.ended >= request.connected
        for fault in history.faults
    )


def _changes(history: History) -> Iterator[Violation]:
    for change in history.changes:
        if not _is_allowed(change):
            faults = [fault for fault in history.faults if fault.ended >= change.began - 1][:3]
            yield Violation("not an answer of the contract", f"{change} faults {faults}")


def _is_allowed(change: Change) -> bool:
    if (change.kind, change.status, change.reason) == ("key.create", 400, "INVALID_ARGUMENT"):
        # Its expiry was reached before a server that had been halted read the request.
        return True
    return _is_contract(change.status, change.reason, CHANGE_REASONS)


def _is_contract(status: int, reason: str, reasons: frozenset[str]) -> bool:
    if 200 <= status < 300:
        return not reason
    return reason in reasons and http_status(reason) == status


def _story(history: History, request: Request) -> str:
    """The last steps of what the request needs."""
    steps = {name: history.grants[name].steps[-6:] for name in request.needs}
    return f"needs {steps}, faults {[fault for fault in history.faults if fault.ended >= request.started - 5][:6]}"
