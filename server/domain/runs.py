"""Runs, and how the events that engines report of them become one state.

Events come late, twice and in any order, so what becomes of a run is a function of the set of its events alone: the
newest one says the state, among those of one moment the one that is further on, and an end wins over everything that is
no end, whatever its time. An event is known by its time, state and step (the engine's own rule for telling
repetitions).
"""

from bisect import insort
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Of the transitions of a run the first and the last ones are kept.
FIRST, LAST = 8, 24
MOST = FIRST + LAST
_MICROSECOND = timedelta(microseconds=1)


class RunState(StrEnum):
    """The states of a run, in the engine's words. Of those of one moment a later one here counts."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATES = tuple(RunState)
RANKS = {str(state): rank for rank, state in enumerate(STATES)}
FIRST_END = RANKS[RunState.COMPLETED]
ENDS = STATES[FIRST_END:]


class Transition(NamedTuple):
    """A state that a run came into: microseconds since 1970, the state's rank, and the step, or "". Sorted by time."""

    at: int
    rank: int
    step_id: str

    @property
    def state(self) -> RunState:
        """The state itself."""
        return STATES[self.rank]

    @property
    def is_end(self) -> bool:
        """Whether nothing comes after it."""
        return self.rank >= FIRST_END


class RunEvent(NamedTuple):
    """What an engine reports of one run. An empty text or None: nothing was told."""

    run_id: str
    transition: Transition
    sequence: str = ""
    sequence_version: int | None = None
    duration_ms: int | None = None
    error_kind: str | None = None
    sub_tenant: str | None = None


@dataclass(kw_only=True, slots=True)
class Run:
    """A run. `last` is the transition that says its state.

    `counted_at` is the start for which it was counted, once, whatever earlier event comes later. None: it was not yet.
    """

    run_id: str
    last: Transition
    transitions: list[Transition]
    counted_at: int | None = None
    cut: bool = False
    sequence: str = ""
    sequence_version: int | None = None
    duration_ms: int | None = None
    error_kind: str | None = None
    sub_tenant: str | None = None

    @classmethod
    def begin(cls, event: RunEvent) -> "Run":
        """A run of which this is the first event that came."""
        return cls(
            run_id=event.run_id,
            last=event.transition,
            transitions=[event.transition],
            sequence=event.sequence,
            sequence_version=event.sequence_version,
            duration_ms=event.duration_ms,
            error_kind=event.error_kind,
            sub_tenant=event.sub_tenant,
        )

    def absorb(self, event: RunEvent) -> bool:
        """Takes one more event. False: it was known already, and nothing has changed."""
        transition, last = event.transition, self.last
        if transition in self.transitions:
            return False
        insort(self.transitions, transition)
        if len(self.transitions) > MOST:
            del self.transitions[FIRST]
            self.cut = True
        if (transition.rank >= FIRST_END, transition) > (last.rank >= FIRST_END, last):
            self.last = transition
            self.duration_ms, self.error_kind = event.duration_ms, event.error_kind
        self._learn(event)
        return True

    def _learn(self, event: RunEvent) -> None:
        """A run may move on to a newer version of its sequence; what an event does not tell stays."""
        version = event.sequence_version
        if event.sequence == self.sequence and version == self.sequence_version and event.sub_tenant is None:
            return
        if _sequence_order(event.sequence, version) > _sequence_order(self.sequence, self.sequence_version):
            self.sequence, self.sequence_version = event.sequence, version
        if event.sub_tenant is not None and (self.sub_tenant is None or event.sub_tenant > self.sub_tenant):
            self.sub_tenant = event.sub_tenant

    @property
    def state(self) -> RunState:
        """The last state."""
        return self.last.state

    @property
    def started_at(self) -> datetime:
        """The moment of the earliest event."""
        return moment(self.transitions[0].at)

    @property
    def updated_at(self) -> datetime:
        """The moment of the latest event."""
        return moment(self.transitions[-1].at)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended; None where it has not."""
        return moment(self.last.at) if self.last.is_end else None

    @property
    def took_ms(self) -> int | None:
        """How long it took, as its engine said, else from start to end; None where it has not ended."""
        if not self.last.is_end:
            return None
        return (self.last.at - self.transitions[0].at) // 1000 if self.duration_ms is None else self.duration_ms


@dataclass(kw_only=True, slots=True)
class Batch:
    """What a batch of events makes of the runs that it is about: only those in `changed` are another than before."""

    runs: dict[str, Run]
    changed: dict[str, Run] = field(default_factory=dict)
    accepted: int = 0
    duplicates: int = 0

    def take(self, event: RunEvent) -> None:
        """Takes one event."""
        run = self.runs.get(event.run_id)
        if run is None:
            run = self.runs[event.run_id] = Run.begin(event)
        elif not run.absorb(event):
            self.duplicates += 1
            return
        self.changed[event.run_id] = run
        self.accepted += 1

    def count(self) -> list[datetime]:
        """The starts of the runs that were not counted before, and are now."""
        starts = []
        for run in self.changed.values():
            if run.counted_at is None:
                run.counted_at = run.transitions[0].at
                starts.append(run.started_at)
        return starts


def moment(microseconds: int) -> datetime:
    """The moment of so many microseconds since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(at: datetime) -> int:
    """The microseconds since 1970 of a moment."""
    return (at - EPOCH) // _MICROSECOND


def _sequence_order(name: str, version: int | None) -> tuple[bool, int, str]:
    return bool(name), -1 if version is None else version, name
