"""A runtime without processes, for tests of everything above it: engines are rows of a dictionary."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.providers.runtime.base import (
    EngineSpec,
    EngineState,
    FoundEngine,
    Observation,
    RuntimeFailed,
    RuntimeUnavailable,
    Upstream,
)


@dataclass
class MemoryRuntime:
    """Starts an engine after `start_looks` looks at it; `failing` and `unavailable` make it fail as real ones do.

    While `held`, engines that start stay starting: what a test sees then depends on no race with the reconciler. While
    `stubborn`, engines that stop stay stopping.
    """

    poll_interval: float = 0.01
    watch_interval: float = 0.05
    start_looks: int = 1
    held: bool = False
    failing: str | None = None
    unavailable: int = 0
    unreachable: bool = False
    upstream: Upstream = field(default_factory=lambda: Upstream(host="127.0.0.1", port=9))
    states: dict[str, EngineState] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    started: list[EngineSpec] = field(default_factory=list)
    stubborn: bool = False
    closed: bool = False

    async def describe(self) -> str:
        return "engine in memory"

    async def run(self, spec: EngineSpec) -> Observation:
        if self.failing:
            raise RuntimeFailed(self.failing)
        if self.unavailable > 0:
            self.unavailable -= 1
            raise RuntimeUnavailable("not now", unreachable=self.unreachable)
        if self.states.get(spec.instance_id, EngineState.ABSENT) in (EngineState.STOPPED, EngineState.ABSENT):
            self.states[spec.instance_id] = EngineState.STARTING
            self.started.append(spec)
        return await self.observe(spec.instance_id)

    async def observe(self, instance_id: str) -> Observation:
        state = self.states.get(instance_id, EngineState.ABSENT)
        if state is EngineState.STOPPING and not self.stubborn:
            state = self.states[instance_id] = EngineState.STOPPED
        if state is EngineState.STARTING:
            self.looks[instance_id] = self.looks.get(instance_id, 0) + 1
            if self.looks[instance_id] > self.start_looks and not self.held:
                state = self.states[instance_id] = EngineState.RUNNING
        return Observation(state=state, upstream=self.upstream if state is EngineState.RUNNING else None)

    async def stop(self, instance_id: str) -> Observation:
        if instance_id in self.states:
            self.states[instance_id] = EngineState.STOPPING if self.stubborn else EngineState.STOPPED
            self.looks.pop(instance_id, None)
        return await self.observe(instance_id)

    async def destroy(self, instance_id: str) -> Observation:
        if self.stubborn:
            return await self.stop(instance_id)
        self.states.pop(instance_id, None)
        return await self.observe(instance_id)

    async def engines(self) -> list[FoundEngine]:
        return [
            FoundEngine(instance_id=instance_id, name=instance_id, state=state, created_at=None)
            for instance_id, state in self.states.items()
        ]

    async def close(self) -> None:
        self.closed = True

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Engines keep starting for as long as this is entered."""
        self.held = True
        try:
            yield
        finally:
            self.held = False

    def crash(self, instance_id: str) -> None:
        """The engine dies without a word."""
        self.states[instance_id] = EngineState.STOPPED
        self.looks.pop(instance_id, None)
