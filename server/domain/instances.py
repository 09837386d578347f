"""Instances: their names, regions, states, and which change is allowed in which state."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from server.domain.restarts import Restarts
from server.errors import FieldViolation, InvalidArgument, StateConflict

# Seed, "Create Instance".
NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,31}")
# Proxies and browsers between us and the caller give up on answers that take much longer.
MAX_WAIT_S = 60.0


class Region(StrEnum):
    """Where an engine may run (seed, "Regions")."""

    SAO_PAULO = "gru"
    WASHINGTON = "iad"
    FRANKFURT = "fra"
    SAN_JOSE = "sjc"
    TOKYO = "nrt"


class Desired(StrEnum):
    """What the owner wants of an instance."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class Phase(StrEnum):
    """How far the reconciler is. Those that end in -ing resolve by themselves."""

    PROVISIONING = "provisioning"  # its engine was never ready yet
    RUNNING = "running"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    RESUMING = "resuming"
    FAILED = "failed"  # provisioning ended with an error; only a delete is left
    DELETING = "deleting"
    DELETED = "deleted"  # nothing of it is left anywhere


class Status(StrEnum):
    """What the API shows (contract, "Instances"): a transition already shows its target."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    SUSPENDED = "suspended"
    FAILED = "failed"


class Action(StrEnum):
    """What PATCH can ask for."""

    SUSPEND = "suspend"
    RESUME = "resume"


SHOWN = {
    Phase.PROVISIONING: Status.PROVISIONING,
    Phase.RUNNING: Status.RUNNING,
    Phase.RESUMING: Status.RUNNING,
    Phase.SUSPENDING: Status.SUSPENDED,
    Phase.SUSPENDED: Status.SUSPENDED,
    Phase.FAILED: Status.FAILED,
}
# Contract, "Instances": suspended, failed and deleted ones do not count against the plan.
COUNTED = (Phase.PROVISIONING, Phase.RUNNING, Phase.RESUMING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """How long each transition may take before the instance says what holds it up."""

    # A runtime that pulls the engine's image for the first time, and makes a volume, takes minutes.
    provisioning: timedelta = timedelta(minutes=10)
    # Image and data are there; an engine may finish what it is at before it ends.
    transition: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """An instance as it is stored.

    `host` and `port` are where its engine was last seen ready. `upstream_headers` are those by which whatever listens
    there finds it. `revision` counts changes of what is shown.
    """

    id: str
    org_id: str
    name: str
    region: Region
    desired: Desired
    phase: Phase
    created_at: datetime
    updated_at: datetime
    error: str | None = None
    host: str | None = None
    port: int | None = None
    tls: bool = False
    upstream_headers: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    restarts: Restarts = field(default=Restarts())

    @property
    def status(self) -> Status:
        """The state that the API shows."""
        return SHOWN[self.phase]

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase in (Phase.FAILED, Phase.DELETED) or self.phase.value == self.desired.value


def check_new(name: str, region: str) -> Region:
    """The region of a new instance. Raises InvalidArgument where name or region break the rules."""
    violations = list(_new_violations(name, region))
    if violations:
        raise InvalidArgument(violations)
    return Region(region)


def _new_violations(name: str, region: str) -> Iterator[FieldViolation]:
    if NAME.fullmatch(name) is None:
        what = "is required" if not name else "is not a valid name"
        yield FieldViolation(
            field="name",
            description=f"{what}: 2 to 32 lowercase letters, digits or hyphens, beginning with a letter or digit",
        )
    if region not in set(Region):
        what = "is required" if not region else "is not a region"
        yield FieldViolation(field="region", description=f"{what}: one of {', '.join(Region)}")


def check_action(action: str) -> Action:
    """The action that was asked for. Raises InvalidArgument."""
    if action not in set(Action):
        what = "is required" if not action else "is unknown"
        raise InvalidArgument([FieldViolation(field="action", description=f'{what}: "suspend" or "resume"')])
    return Action(action)


def check_wait(seconds: float) -> None:
    """Raises InvalidArgument where a call may not wait so long for an instance."""
    if not 0 < seconds <= MAX_WAIT_S:
        what = f"must be more than 0 s and at most {MAX_WAIT_S:g} s, such as 30s"
        raise InvalidArgument([FieldViolation(field="wait", description=what)])


def next_phase(instance: Instance, action: Action) -> Phase:
    """The phase into which an action brings an instance. Raises StateConflict where it is in another state."""
    expected = Status.RUNNING if action is Action.SUSPEND else Status.SUSPENDED
    if instance.status is not expected:
        raise StateConflict(action=action, status=instance.status, allowed=expected)
    return Phase.SUSPENDING if action is Action.SUSPEND else Phase.RESUMING
