"""What becomes of runs, worked out the slow and plain way from all of their events at once."""

from collections.abc import Iterable

from server.domain.runs import FIRST, LAST, MOST, RunEvent, RunState, Transition, moment

ENDED = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)


def expected(events: Iterable[RunEvent]) -> dict[str, dict[str, object]]:
    """Each run, by its id."""
    found: dict[str, dict[Transition, RunEvent]] = {}
    for event in events:
        found.setdefault(event.run_id, {}).setdefault(event.transition, event)
    return {run_id: _run(distinct) for run_id, distinct in found.items()}


def _run(distinct: dict[Transition, RunEvent]) -> dict[str, object]:
    ordered = sorted(distinct)
    ends = [one for one in ordered if one.state in ENDED]
    last = (ends or ordered)[-1]
    named = [one for one in distinct.values() if one.sequence] or [
        one for one in distinct.values() if one.sequence_version is not None
    ]
    newest = max(
        ((-1 if one.sequence_version is None else one.sequence_version, one.sequence) for one in named),
        default=(-1, ""),
    )
    return {
        "state": last.state,
        "step_id": last.step_id,
        "sequence": (newest[1], None if newest[0] == -1 else newest[0]),
        "duration_ms": distinct[last].duration_ms,
        "error_kind": distinct[last].error_kind,
        "sub_tenant": max((one.sub_tenant for one in distinct.values() if one.sub_tenant is not None), default=None),
        "started_at": moment(ordered[0].at),
        "updated_at": moment(ordered[-1].at),
        "ended_at": moment(last.at) if ends else None,
        "transitions": ordered if len(ordered) <= MOST else ordered[:FIRST] + ordered[-LAST:],
        "cut": len(ordered) > MOST,
    }
