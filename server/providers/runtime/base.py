"""What every runtime can do. The reconciler calls these until the engine is as the database says it should be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

# Ids become names of folders, machines and volumes: nothing else may ever be started or removed.
INSTANCE_ID = re.compile(r"inst_[a-z0-9]{1,25}", re.ASCII)


class EngineState(StrEnum):
    """What a runtime sees of an engine."""

    ABSENT = "absent"  # nothing of it exists, or nothing any more
    STARTING = "starting"  # on its way; look again soon
    RUNNING = "running"  # its health endpoint says ready
    STOPPING = "stopping"  # on its way down
    STOPPED = "stopped"  # no process; its data is kept


class RuntimeFailed(Exception):
    """This engine cannot be started, and trying again will not help. The message is shown to the user."""


class RuntimeUnavailable(Exception):
    """The runtime cannot say or do it now. Trying again later is right.

    `unreachable`: this is about the runtime and not about the engine, so no deadline of the engine runs meanwhile.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """All that is needed to start an engine. The keys are secrets. Without an ingest key it reports no runs."""

    instance_id: str
    org_id: str
    name: str
    region: str
    engine_key: str
    encryption_key: str
    ingest_key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """How to reach an engine."""

    host: str
    port: int
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What is known of an engine now. The upstream is set while it is running."""

    state: EngineState
    upstream: Upstream | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundEngine:
    """An engine, or what is left of one, as a sweep for orphans finds it. `name` is what the runtime calls it.

    Without `instance_id` it is not one of this installation. `is_marked`: it says so itself, and not only its name. Two
    may share a place, so nothing else may be removed. `created_at` may be later than the truth, never earlier.
    """

    instance_id: str | None
    name: str
    state: EngineState
    created_at: datetime | None
    is_marked: bool = True


class Runtime(Protocol):
    """Where engines run. Each method is idempotent, returns soon, and may be called again after a crash."""

    # Seconds between two looks at an engine that is on its way, and at one that runs.
    poll_interval: float
    watch_interval: float

    async def describe(self) -> str:
        """Which engine runs here, with its version, for people."""
        ...

    async def run(self, spec: EngineSpec) -> Observation:
        """Starts the engine if it does not run, with the data that it had before. RUNNING only when it is ready.

        One that is on its way down is let go down first: STOPPING or STARTING until then.

        Raises RuntimeFailed or RuntimeUnavailable.
        """
        ...

    async def stop(self, instance_id: str) -> Observation:
        """Stops the engine and keeps its data."""
        ...

    async def destroy(self, instance_id: str) -> Observation:
        """Stops the engine and removes its data. ABSENT when nothing is left."""
        ...

    async def observe(self, instance_id: str) -> Observation:
        """Looks, and changes nothing."""
        ...

    async def engines(self) -> list[FoundEngine]:
        """All that exists where engines run, whoever wants it: machines, and data without one.

        Raises RuntimeUnavailable rather than to answer with less than all.
        """
        ...

    async def close(self) -> None:
        """Lets go of what this process holds."""
        ...
