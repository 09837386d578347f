"""What happens to an organization and its instances and engines, as their owners are told of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from server.domain.instances import Instance, Phase


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened. `details` is JSON, and holds no secret. `id` is None until it is stored.

    `instance_id` is None where it happened to the organization.
    """

    org_id: str
    instance_id: str | None
    kind: EventKind
    at: datetime
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    id: int | None = None


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
