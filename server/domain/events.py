"""What happens to an organization's instances, policies, deployments and runs, as it is told of it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from server.domain.instances import Instance, Phase
from server.domain.policies import Policy
from server.domain.runs import Move, moment

# A cursor that names no part stands behind all parts of its row.
WHOLE = 2**31 - 1
_ID = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?", re.ASCII)


class EventKind(StrEnum):
    """What happened."""

    CREATED = "instance.created"  # somebody wants it
    RUNNING = "instance.running"  # its engine is ready: after a create or a resume
    SUSPENDING = "instance.suspending"
    SUSPENDED = "instance.suspended"
    RESUMING = "instance.resuming"
    DELETING = "instance.deleting"
    DELETED = "instance.deleted"  # nothing of it is left
    FAILED = "instance.failed"  # provisioning ended with an error
    LATE = "instance.late"  # a transition is past its deadline, and tried on
    ENGINE_DOWN = "engine.down"  # it ended by itself
    ENGINE_RESTARTED = "engine.restarted"  # it is ready again
    ENGINE_FAILING = "engine.failing"  # it ended too often, and is started slowly from now on
    DEPLOYMENT_CREATED = "deployment.created"  # somebody wants it
    DEPLOYMENT_RUNNING = "deployment.running"  # its webhook lets callers in
    DEPLOYMENT_FAILED = "deployment.failed"  # its engine could not take it
    DEPLOYMENT_DELETED = "deployment.deleted"  # by itself, or with its instance
    QUOTA_80 = "usage.quota_80"  # four fifths of the period's executions are used
    QUOTA_100 = "usage.quota_100"  # all of them are
    POLICY_CREATED = "policy.created"
    POLICY_UPDATED = "policy.updated"
    POLICY_DELETED = "policy.deleted"
    RUN_STARTED = "run.started"  # the engine told of it for the first time
    RUN_CHANGED = "run.changed"  # it is in another state, which is not its last: `state` in the details
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"


class Cursor(NamedTuple):
    """A place in the stream of all events, between two of them. Later ones compare greater.

    Events are stored in rows, and many of runs in one row: a cursor stands behind a part of a row, or behind all of it.
    """

    row: int
    part: int = WHOLE

    def __str__(self) -> str:
        return str(self.row) if self.part == WHOLE else f"{self.row}.{self.part}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """The place that an event's id names; None where it is no id of ours."""
        match = _ID.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]) if match[2] else WHOLE)


BEGINNING = Cursor(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened, and the ids of what it happened to.

    `details` is JSON, and holds no secret. `cursor` is None until it is stored. `kind` may be one that this version
    does not know: a newer one has stored it.
    """

    org_id: str
    kind: str
    at: datetime
    instance_id: str | None = None
    deployment_id: str | None = None
    policy_id: str | None = None
    run_id: str | None = None
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    cursor: Cursor | None = None


PHASES = {
    Phase.RUNNING: EventKind.RUNNING,
    Phase.SUSPENDING: EventKind.SUSPENDING,
    Phase.SUSPENDED: EventKind.SUSPENDED,
    Phase.RESUMING: EventKind.RESUMING,
    Phase.FAILED: EventKind.FAILED,
    Phase.DELETING: EventKind.DELETING,
    Phase.DELETED: EventKind.DELETED,
}


def event(instance: Instance, kind: EventKind, at: datetime, **details: str | int | float) -> Event:
    """An event of an instance."""
    return Event(org_id=instance.org_id, instance_id=instance.id, kind=kind, at=at, details=details)


def happened(before: Instance, after: Instance, at: datetime) -> Iterator[Event]:
    """What the difference between an instance before and after a change tells its owner."""
    told = {"error": after.error} if after.error is not None else {}
    if after.phase is not before.phase:
        yield event(after, PHASES[after.phase], at, **told)
    elif after.error is not None and before.error is None:
        kind = EventKind.ENGINE_FAILING if after.phase is Phase.RUNNING else EventKind.LATE
        yield event(after, kind, at, **told)
    down, was_down = after.restarts.down_since, before.restarts.down_since
    if down is not None and was_down is None:
        yield event(after, EventKind.ENGINE_DOWN, at)
    if was_down is not None and down is None and after.phase is before.phase is Phase.RUNNING:
        yield event(after, EventKind.ENGINE_RESTARTED, at, down_seconds=(at - was_down).total_seconds())


def policy_event(org_id: str, policy: Policy, kind: EventKind, at: datetime) -> Event:
    """An event of a policy: what it is for, and nothing of its rules and secrets."""
    known = {"provider": policy.fields.provider, "slug": policy.fields.slug}
    details = {name: value for name, value in known.items() if value is not None}
    return Event(org_id=org_id, instance_id=policy.instance_id, policy_id=policy.id, kind=kind, at=at, details=details)


RUN_STATES = {
    "completed": EventKind.RUN_COMPLETED,
    "failed": EventKind.RUN_FAILED,
    "cancelled": EventKind.RUN_CANCELLED,
}


def run_kind(state: str, *, first: bool) -> EventKind:
    """How a run's new state (the engine's word) is told. `first`: nothing was known of the run before."""
    return RUN_STATES.get(state, EventKind.RUN_STARTED if first else EventKind.RUN_CHANGED)


def run_event(org_id: str, instance_id: str, move: Move) -> Event:
    """An event of a run: the state that it has come into, and of which sequence it is."""
    run, state = move.run, move.transition.state
    return Event(
        org_id=org_id,
        instance_id=instance_id,
        run_id=run.run_id,
        kind=run_kind(state, first=move.first),
        at=moment(move.transition.at),
        details={"state": str(state), "sequence": run.sequence},
    )
