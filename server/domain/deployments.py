"""Deployments: their names, states, and the steps by which one is made on an engine, and undone."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from server.domain.events import Event, EventKind
from server.domain.templates import SecretField, Template
from server.errors import CloudError, EngineError, EngineUnreachable, FieldViolation, InvalidArgument

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# Of one organization. Each has a policy, of which an instance has at most as many (server.services.policies).
MOST = 1000
MAX_SECRETS = 64
MAX_SECRET = 16 * 1024
# Of the sequence that a template becomes, in bytes of JSON.
MAX_SEQUENCE = 1024 * 1024
# Its name in the engine has random letters: there is no other one of that name.
SEQUENCE_VERSION = 1


class Phase(StrEnum):
    """How far a deployment is."""

    PROVISIONING = "provisioning"  # its steps are done one by one
    RUNNING = "running"
    FAILED = "failed"  # a step could not be done; what was done is undone
    DELETED = "deleted"  # nobody finds it any more; what was done is undone


class Status(StrEnum):
    """What the API shows."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    SUSPENDED = "suspended"  # running, on an instance that is suspended
    FAILED = "failed"


class StepKind(StrEnum):
    """What is done on the engine, and in the order in which these are done."""

    CREDENTIAL = "credential"  # one for each secret
    SEQUENCE = "sequence"
    TRIGGER = "trigger"
    CRON = "cron"  # of a template with a schedule
    POLICY = "policy"  # ours, for the gateway: the last, so that nobody is let in before all is there


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step. `name` is that of the secret whose credential is made."""

    kind: StepKind
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A deployment as it is stored: all ids are chosen before the first step, so that no step makes anything twice.

    `credentials` maps names of secrets to ids of credentials in the engine. `sequence` is what is posted, `schedule`
    has `cron` and `timezone` where there is one. `done` counts the steps that have been done, or while it is undone
    those that may have left something. `revision` counts changes of what is shown.
    """

    id: str
    org_id: str
    instance_id: str
    template_id: str
    name: str
    phase: Phase
    slug: str
    policy_id: str
    config: Mapping[str, Any]
    credentials: Mapping[str, str]
    sequence: Mapping[str, Any]
    schedule: Mapping[str, str] | None
    created_at: datetime
    updated_at: datetime
    done: int = 0
    error_reason: str | None = None
    error: str | None = None
    error_metadata: Mapping[str, str] | None = None
    revision: int = 1
    suspended: bool = False

    @property
    def status(self) -> Status:
        """The state that the API shows. One that is deleted is never shown."""
        if self.phase is Phase.RUNNING and self.suspended:
            return Status.SUSPENDED
        return Status(self.phase.value)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in order."""
        return tuple(_steps(self))

    @property
    def sequence_id(self) -> str:
        """The sequence's id in the engine, a UUID."""
        return str(self.sequence["id"])

    def failure(self) -> CloudError:
        """Why it failed, as an error to answer."""
        if self.error_reason == EngineUnreachable.reason:
            return EngineUnreachable(self.instance_id)
        if self.error_reason == CloudError.reason:
            return CloudError(str(self.error))
        return EngineError(self.error or "The engine did not take the deployment.", self.error_metadata)


def _steps(deployment: Deployment) -> Iterator[Step]:
    for name in sorted(deployment.credentials):
        yield Step(kind=StepKind.CREDENTIAL, name=name)
    yield Step(kind=StepKind.SEQUENCE)
    yield Step(kind=StepKind.TRIGGER)
    if deployment.schedule is not None:
        yield Step(kind=StepKind.CRON)
    yield Step(kind=StepKind.POLICY)


def deployment_event(deployment: Deployment, kind: EventKind, at: datetime, **details: str) -> Event:
    """An event of a deployment."""
    return Event(
        org_id=deployment.org_id,
        instance_id=deployment.instance_id,
        deployment_id=deployment.id,
        kind=kind,
        at=at,
        details={"name": deployment.name, **details},
    )


def check_name(name: str) -> None:
    """Raises InvalidArgument where a deployment cannot be called so."""
    if NAME.fullmatch(name) is None:
        what = "is not a valid name: 1 to 63 lowercase letters, digits or hyphens, beginning with a letter or digit"
        raise InvalidArgument([FieldViolation(field="name", description=what)])


def free_name(template: Template, taken: Collection[str]) -> str:
    """The template's name, or the first of name-2, name-3… that is not taken."""
    base = template.name[:58]
    names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def check_secrets(template: Template, secrets: Mapping[str, Any]) -> Mapping[str, str]:
    """The secrets that were given. Raises InvalidArgument, naming each that is missing, unknown, or no text."""
    violations = [*_missing(template.secrets, secrets), *_given_violations(template.secrets, secrets)]
    if violations:
        raise InvalidArgument(violations)
    return {name: str(value) for name, value in secrets.items()}


def _missing(fields: Collection[SecretField], secrets: Mapping[str, Any]) -> Iterator[FieldViolation]:
    for field in fields:
        if field.required and field.name not in secrets:
            yield FieldViolation(field=f"secrets.{field.name}", description=f"is required: {field.description}")


def _given_violations(fields: Collection[SecretField], secrets: Mapping[str, Any]) -> Iterator[FieldViolation]:
    known = [field.name for field in fields]
    for name, value in list(secrets.items())[: MAX_SECRETS + 1]:
        if name not in known:
            takes = ", ".join(known) or "none"
            what = f"is unknown to this template; it takes {takes}"
            yield FieldViolation(field=f"secrets.{name[:64]}", description=what)
        elif not isinstance(value, str) or not 1 <= len(value) <= MAX_SECRET:
            what = f"must be a string of 1 to {MAX_SECRET} characters"
            yield FieldViolation(field=f"secrets.{name}", description=what)
