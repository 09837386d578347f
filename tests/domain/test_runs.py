"""A run is a function of the set of its events: whatever comes twice, late or in pieces ends at the same."""

from datetime import UTC, datetime
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from server.domain.runs import FIRST, LAST, RANKS, Batch, Run, RunEvent, RunState, Transition, microseconds, moment
from tests.support.run_model import expected

START = microseconds(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def event(state: str, at: int = 0, *, run_id: str = "r", step_id: str = "", **more: object) -> RunEvent:
    return RunEvent(run_id, Transition(START + at, RANKS[state], step_id), **more)  # type: ignore[arg-type]


def run_of(*events: RunEvent) -> Run:
    batch = Batch(runs={})
    for one in events:
        batch.take(one)
    return batch.runs["r"]


@st.composite
def exports(draw: st.DrawFn) -> list[RunEvent]:
    """Events of a few runs, so close together that many meet. What else they say follows from what they are."""
    keys = st.tuples(
        st.sampled_from("rs"), st.integers(0, 12), st.sampled_from(list(RunState)), st.sampled_from(["", "a", "b"])
    )
    found = draw(st.lists(keys, min_size=1, max_size=60))
    return [
        event(
            state,
            at * 1000,
            run_id=run_id,
            step_id=step,
            sequence=("", "mail", "post")[at % 3],
            sequence_version=None if at % 4 == 0 else at % 4,
            duration_ms=at * 10 if state is RunState.COMPLETED else None,
            error_kind=f"kind-{at}" if state is RunState.FAILED else None,
            sub_tenant=None if at % 2 else f"tenant-{at}",
        )
        for run_id, at, state, step in found
    ]


@given(exports(), st.integers(), st.integers(1, 20))
def test_order_repetition_and_pieces_make_no_difference(events: list[RunEvent], seed: int, size: int) -> None:
    shuffled = events * 2
    Random(seed).shuffle(shuffled)
    runs: dict[str, Run] = {}
    for start in range(0, len(shuffled), size):
        batch = Batch(runs=runs)
        for one in shuffled[start : start + size]:
            batch.take(one)
        assert batch.accepted + batch.duplicates == len(shuffled[start : start + size])
        batch.count()
        runs = batch.runs
    assert {run_id: shown(run) for run_id, run in runs.items()} == expected(events)


def shown(run: Run) -> dict[str, object]:
    return {
        "state": run.state,
        "step_id": run.last.step_id,
        "sequence": (run.sequence, run.sequence_version),
        "duration_ms": run.duration_ms,
        "error_kind": run.error_kind,
        "sub_tenant": run.sub_tenant,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "ended_at": run.ended_at,
        "transitions": run.transitions,
        "cut": run.cut,
    }


def test_older_event_never_overrides_a_newer_one() -> None:
    run = run_of(event("waiting", 20, step_id="two"), event("running", 10, step_id="one"))
    assert (run.state, run.last.step_id) == (RunState.WAITING, "two")
    assert run.started_at == moment(START + 10)


def test_end_wins_over_whatever_comes_after_it() -> None:
    run = run_of(event("failed", 10, error_kind="timeout"), event("running", 20))
    assert (run.state, run.error_kind, run.ended_at) == (RunState.FAILED, "timeout", moment(START + 10))
    assert run.updated_at == moment(START + 20)


def test_newer_end_replaces_an_older_one_with_all_that_it_says() -> None:
    run = run_of(event("failed", 10_000, error_kind="timeout", duration_ms=5), event("completed", 20_000))
    assert (run.state, run.error_kind, run.took_ms) == (RunState.COMPLETED, None, 10)


def test_run_that_has_not_ended_took_nothing_yet() -> None:
    assert run_of(event("running", duration_ms=7)).took_ms is None


def test_first_and_last_transitions_are_kept() -> None:
    run = run_of(*(event("running", at, step_id=f"s{at}") for at in range(100)))
    kept = [*range(FIRST), *range(100 - LAST, 100)]
    assert ([one.at - START for one in run.transitions], run.cut) == (kept, True)


def test_run_is_counted_once_by_its_earliest_event_of_then() -> None:
    batch = Batch(runs={})
    for at in (30, 20):
        batch.take(event("running", at))
    assert batch.count() == [moment(START + 20)]
    later = Batch(runs=batch.runs)
    later.take(event("scheduled", 10))
    assert later.count() == []
    assert later.runs["r"].counted_at == START + 20
    assert later.runs["r"].started_at == moment(START + 10)


def test_what_was_known_is_not_written_again() -> None:
    known = run_of(event("running"))
    batch = Batch(runs={"r": known})
    batch.take(event("running"))
    assert (batch.changed, batch.accepted, batch.duplicates) == ({}, 0, 1)
