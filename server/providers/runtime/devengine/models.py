"""The values that the engine keeps."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

JsonObject = dict[str, Any]
REDACTED = "[REDACTED]"


class State(StrEnum):
    """The states of an instance that this engine knows; the real one also has paused."""

    SCHEDULED = "scheduled"  # created, not begun
    RUNNING = "running"  # a step runs, sleeps, or waits for its next attempt
    WAITING = "waiting"  # a step waits for somebody's input
    COMPLETED = "completed"  # every block has finished
    FAILED = "failed"  # a step has failed for good
    CANCELLED = "cancelled"  # told to stop


ACTIVE = (State.SCHEDULED, State.RUNNING, State.WAITING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    """A workflow as it was posted."""

    id: str
    tenant_id: str
    namespace: str
    name: str
    version: int
    body: JsonObject

    @property
    def blocks(self) -> list[JsonObject]:
        """What is executed, in order."""
        blocks: list[JsonObject] = self.body["blocks"]
        return blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One execution of a sequence."""

    id: str
    sequence_id: str
    tenant_id: str
    namespace: str
    state: State
    context: JsonObject
    metadata: Any
    priority: Any
    timezone: str
    next_fire_at: float | None
    idempotency_key: str | None
    current_step: int
    error: JsonObject | None
    created_at: float
    updated_at: float

    def as_json(self) -> JsonObject:
        """The instance as the API shows it."""
        return {
            "id": self.id,
            "sequence_id": self.sequence_id,
            "tenant_id": self.tenant_id,
            "namespace": self.namespace,
            "state": self.state.value,
            "next_fire_at": None if self.next_fire_at is None else timestamp(self.next_fire_at),
            "priority": self.priority,
            "timezone": self.timezone,
            "metadata": self.metadata,
            "context": self.context,
            **({} if self.idempotency_key is None else {"idempotency_key": self.idempotency_key}),
            "current_step": self.current_step,
            "error": self.error,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a finished step left. `serial` orders the outputs of all instances."""

    serial: int
    id: str
    instance_id: str
    block_id: str
    output: Any
    size: int
    attempt: int
    created_at: float

    def as_json(self) -> JsonObject:
        """The output as the API shows it."""
        return {
            "id": self.id,
            "instance_id": self.instance_id,
            "block_id": self.block_id,
            "output": self.output,
            "output_ref": None,
            "output_size": self.size,
            "attempt": self.attempt,
            "created_at": timestamp(self.created_at),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an unfinished step has come: failed attempts, and when it goes on."""

    attempt: int = 0
    wake_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """A name from outside that starts a sequence. The secret is sealed."""

    slug: str
    sequence_name: str
    version: int | None
    tenant_id: str
    namespace: str
    trigger_type: str
    sealed_secret: bytes | None
    config: Any
    created_at: float

    def as_json(self) -> JsonObject:
        """The trigger as the API shows it, the secret redacted."""
        return {
            "slug": self.slug,
            "sequence_name": self.sequence_name,
            "version": self.version,
            "tenant_id": self.tenant_id,
            "namespace": self.namespace,
            "enabled": True,
            **({} if self.sealed_secret is None else {"secret": REDACTED}),
            "trigger_type": self.trigger_type,
            "config": self.config,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.created_at),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When a sequence starts by itself."""

    id: str
    tenant_id: str
    namespace: str
    sequence_id: str
    cron_expr: str
    timezone: str
    enabled: bool
    metadata: Any
    last_triggered_at: float | None
    next_fire_at: float | None
    created_at: float
    updated_at: float

    def as_json(self) -> JsonObject:
        """The schedule as the API shows it."""
        return {
            "id": self.id,
            "tenant_id": self.tenant_id,
            "namespace": self.namespace,
            "sequence_id": self.sequence_id,
            "cron_expr": self.cron_expr,
            "timezone": self.timezone,
            "enabled": self.enabled,
            "metadata": self.metadata,
            "last_triggered_at": None if self.last_triggered_at is None else timestamp(self.last_triggered_at),
            "next_fire_at": None if self.next_fire_at is None else timestamp(self.next_fire_at),
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """A secret for steps. The value is sealed."""

    id: str
    tenant_id: str
    name: str
    kind: str
    sealed_value: bytes
    expires_at: str | None
    description: str | None
    enabled: bool
    created_at: float
    updated_at: float

    def as_json(self) -> JsonObject:
        """The credential as the API shows it, the value redacted."""
        return {
            "id": self.id,
            "tenant_id": self.tenant_id,
            "name": self.name,
            "kind": self.kind,
            "value": REDACTED,
            "expires_at": self.expires_at,
            "enabled": self.enabled,
            "description": self.description,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        }


def timestamp(at: float) -> str:
    """A moment in the form of RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
