"""The tables. Rows never leave this package: repositories turn them into domain objects."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, MetaData, text
from sqlmodel import Field, SQLModel

from server.store.types import AutoId, UtcDateTime

# Alembic can alter a SQLite table only if every constraint has a name.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)


class Table(SQLModel):
    """Base of all tables."""

    metadata: ClassVar[MetaData] = metadata


class OrganizationRow(Table, table=True):
    """An organization. Its id comes with the session, or is made for a user who has none."""

    __tablename__ = "organizations"

    id: str = Field(primary_key=True)
    name: str
    plan: str
    # The user whose personal organization this is.
    personal_for: str | None = Field(default=None, unique=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    # The current period of its subscription, both or neither: see server.domain.usage.
    period_start: datetime | None = Field(default=None, sa_type=UtcDateTime)
    period_end: datetime | None = Field(default=None, sa_type=UtcDateTime)


class InstanceRow(Table, table=True):
    """An instance: what is wanted of it, how far it is, and who works on it."""

    __tablename__ = "instances"
    __table_args__ = (
        Index(
            "uq_instances_org_id_name_live",
            "org_id",
            "name",
            unique=True,
            sqlite_where=text("desired <> 'deleted'"),
            postgresql_where=text("desired <> 'deleted'"),
        ),
        Index("ix_instances_due", "due_at"),
        Index("uq_instances_ingest_sha256", "ingest_sha256", unique=True),
    )

    id: str = Field(primary_key=True)
    org_id: str = Field(foreign_key="organizations.id")
    name: str
    region: str
    desired: str
    phase: str
    error: str | None = None
    engine_key: bytes = Field(sa_type=LargeBinary)
    encryption_key: bytes = Field(sa_type=LargeBinary)
    # With which the engine reports its runs; null until an engine is told one, where an instance is older than this.
    ingest_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    ingest_sha256: bytes | None = Field(default=None, sa_type=LargeBinary)
    host: str | None = None
    port: int | None = None
    tls: bool = False
    upstream_headers: dict[str, str] = Field(sa_column=Column(JSON, nullable=False, server_default="{}"))
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    # The reconciler's: when to look next (null: never), until when somebody is at it, and how often it failed in a row.
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_owner: str | None = None
    attempts: int = 0
    deadline_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # Counts the changes; what If-Match is compared with.
    revision: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    # How often its engine was started again after it had ended by itself; see server.domain.restarts.
    restarts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    restarts_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    down_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    restart_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class PolicyRow(Table, table=True):
    """A gateway policy. The trigger's secret is sealed and stands apart from the settings."""

    __tablename__ = "policies"

    id: str = Field(primary_key=True)
    instance_id: str = Field(foreign_key="instances.id", index=True)
    slug: str | None = None
    provider: str
    audience: str | None = None
    issuer: str | None = None
    allow: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    config: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    trigger_secret: bytes | None = Field(default=None, sa_type=LargeBinary)
    enabled: bool
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    # Counts the changes; what If-Match is compared with.
    revision: int = Field(default=1, sa_column_kwargs={"server_default": "1"})


class DeploymentRow(Table, table=True):
    """A deployment: what it is, how far it is, and who works on it. Those that are deleted go when they are undone."""

    __tablename__ = "deployments"
    __table_args__ = (
        Index(
            "uq_deployments_org_id_name_live",
            "org_id",
            "name",
            unique=True,
            sqlite_where=text("phase <> 'deleted'"),
            postgresql_where=text("phase <> 'deleted'"),
        ),
        Index("ix_deployments_instance_id", "instance_id"),
        Index("ix_deployments_due", "due_at"),
    )

    id: str = Field(primary_key=True)
    org_id: str = Field(foreign_key="organizations.id")
    instance_id: str = Field(foreign_key="instances.id")
    template_id: str
    name: str
    phase: str
    slug: str
    policy_id: str
    config: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    credentials: dict[str, str] = Field(sa_column=Column(JSON, nullable=False))
    sequence: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    schedule: dict[str, str] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    # The values of its secrets as a JSON object, and its trigger's secret: sealed, and only while they are needed.
    secrets: bytes | None = Field(default=None, sa_type=LargeBinary)
    trigger_secret: bytes | None = Field(default=None, sa_type=LargeBinary)
    done: int = 0
    error_reason: str | None = None
    error: str | None = None
    error_metadata: dict[str, str] | None = Field(
        default=None, sa_column=Column(JSON(none_as_null=True), nullable=True)
    )
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    # Counts the changes; what If-Match is compared with.
    revision: int = 1
    # The deployer's: when to go on (null: nothing is left), until when somebody is at it, and how often it failed.
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_owner: str | None = None
    attempts: int = 0


class ApiKeyRow(Table, table=True):
    """An API key, known by its SHA-256 only."""

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    org_id: str = Field(foreign_key="organizations.id", index=True)
    instance_id: str | None = Field(default=None, foreign_key="instances.id")
    name: str
    environment: str
    prefix: str
    sha256: bytes = Field(sa_type=LargeBinary, unique=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # Counts the changes; what If-Match is compared with.
    revision: int = Field(default=1, sa_column_kwargs={"server_default": "1"})


class ChangeRow(Table, table=True):
    """One change that the proxies must hear of, in the transaction that made it. Its id is its version."""

    __tablename__ = "changes"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, primary_key=True, sa_type=AutoId)
    instance_id: str | None = None
    key_sha256: bytes | None = Field(default=None, sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


class EventRow(Table, table=True):
    """Something that happened, in the transaction that made it so; or many changes of runs, in their details."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_org_id_id", "org_id", "id"),
        Index("ix_events_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=AutoId)
    # No foreign keys: an event outlives what it tells of.
    org_id: str
    instance_id: str | None = None
    deployment_id: str | None = None
    policy_id: str | None = None
    run_id: str | None = None
    kind: str
    at: datetime = Field(sa_type=UtcDateTime)
    details: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class EventFloorRow(Table, table=True):
    """The last event of an organization that was dropped: who goes on from before it has missed something."""

    __tablename__ = "event_floors"

    # Empty: of all organizations.
    org_id: str = Field(primary_key=True)
    floor: int = Field(sa_type=BigInteger)


class IdempotencyRow(Table, table=True):
    """A call with an Idempotency-Key: who runs it until when, and what it answered, sealed."""

    __tablename__ = "idempotency_keys"
    # The last index alone tells how many an organization has, and how much they take.
    __table_args__ = (
        Index("uq_idempotency_keys_org_id_method_key", "org_id", "method", "key", unique=True),
        Index("ix_idempotency_keys_created_at", "created_at"),
        Index("ix_idempotency_keys_org_id_created_at_size", "org_id", "created_at", "size"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=AutoId)
    org_id: str
    method: str
    key: str
    # SHA-256 of the request: two are the same where this is.
    fingerprint: bytes = Field(sa_type=LargeBinary)
    owner: str
    lease_until: datetime = Field(sa_type=UtcDateTime)
    answer: bytes | None = Field(default=None, sa_type=LargeBinary)
    size: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)


class DecisionRow(Table, table=True):
    """One decision of the tunnel or the gateway. The record itself is the message that the API answers."""

    __tablename__ = "decisions"
    # The first index alone tells how much an organization has: the records themselves are not read for it.
    __table_args__ = (Index("ix_decisions_org_id_at_size", "org_id", "at", "size"), Index("ix_decisions_at", "at"))

    id: str = Field(primary_key=True)
    # No foreign keys: a record outlives its instance.
    org_id: str
    instance_id: str
    at: datetime = Field(sa_type=UtcDateTime)
    size: int
    record: bytes = Field(sa_type=LargeBinary)


class TrafficRow(Table, table=True):
    """How many requests were decided alike in one minute. An empty key or policy: none was accepted."""

    __tablename__ = "traffic"

    minute: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    instance_id: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True)
    policy_id: str = Field(primary_key=True)
    status: int = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)


class InstanceMinuteRow(Table, table=True):
    """One minute of an instance: how many requests were let in and refused, and what became of the former."""

    __tablename__ = "instance_minutes"
    __table_args__ = (Index("ix_instance_minutes_minute", "minute"),)

    # No foreign key: counts may come after the instance is gone.
    instance_id: str = Field(primary_key=True)
    minute: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    allowed: int = Field(default=0, sa_type=BigInteger)
    denied: int = Field(default=0, sa_type=BigInteger)
    # Answers by kind, and by the bucket of their latency; see server.domain.answers.
    kinds: dict[str, int] = Field(sa_column=Column(JSON, nullable=False))
    latency: dict[str, int] = Field(sa_column=Column(JSON, nullable=False))


class RunRow(Table, table=True):
    """A run, as its engine has reported it; see server.domain.runs.

    No column of an index ever changes, and there is room for the next version of a row beside it: then Postgres need
    not touch an index when a run goes on.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_org_id_started_at", "org_id", "started_at"),
        Index("ix_runs_instance_id_started_at", "instance_id", "started_at"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    # No foreign keys: a run outlives its instance.
    instance_id: str = Field(primary_key=True)
    run_id: str = Field(primary_key=True)
    org_id: str
    sequence: str
    sequence_version: int | None = None
    state: str
    # The start for which it was counted: that of its earliest event among the first that came.
    started_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    step_id: str
    duration_ms: int | None = None
    error_kind: str | None = None
    sub_tenant: str | None = None
    # JSON: [[microseconds since 1970, state, step], …], by time.
    transitions: str
    cut: bool


class UsageRow(Table, table=True):
    """How many runs an organization has started in a period, and for which quotas it was told how many those are."""

    __tablename__ = "usage"

    org_id: str = Field(primary_key=True, foreign_key="organizations.id")
    period_start: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    period_end: datetime = Field(sa_type=UtcDateTime)
    executions: int = Field(sa_type=BigInteger)
    # The largest quota of which it was told that 80 %, and 100 %, are used.
    told_80: int | None = Field(default=None, sa_type=BigInteger)
    told_100: int | None = Field(default=None, sa_type=BigInteger)


class ProxyRow(Table, table=True):
    """A proxy that may still serve what it knows: it said hello and has not taken leave."""

    __tablename__ = "proxies"

    id: str = Field(primary_key=True)
    stale_limit_ms: int
    # The server that it watches, or watched last, and the name of the stream: a new one with every hello.
    server_id: str
    session: str
    acked_version: int = Field(sa_type=BigInteger)
    connected: bool


class ServerRow(Table, table=True):
    """A server of several. Its beat grows for as long as it works."""

    __tablename__ = "servers"

    id: str = Field(primary_key=True)
    beat: int = Field(sa_type=BigInteger)
