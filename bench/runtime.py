"""A runtime whose engines are all the bench's one upstream, and always run."""

from server.providers.runtime.base import EngineSpec, EngineState, FoundEngine, Observation, Upstream

# Longer than any run: once the reconciler has looked at an instance it leaves it, and the processor, alone.
_NEVER = 24 * 3600.0


class OneUpstream:
    """Implements Runtime. Nothing is started or stopped."""

    def __init__(self, upstream: Upstream) -> None:
        self.poll_interval = 1.0
        self.watch_interval = _NEVER
        self._running = Observation(state=EngineState.RUNNING, upstream=upstream)

    async def describe(self) -> str:
        """For people."""
        return "the bench's upstream"

    async def run(self, spec: EngineSpec) -> Observation:
        """It runs."""
        return self._running

    async def observe(self, instance_id: str) -> Observation:
        """It runs."""
        return self._running

    async def stop(self, instance_id: str) -> Observation:
        """Nothing of it exists."""
        return Observation(state=EngineState.ABSENT)

    async def destroy(self, instance_id: str) -> Observation:
        """Nothing of it exists."""
        return Observation(state=EngineState.ABSENT)

    async def engines(self) -> list[FoundEngine]:
        """Nothing of it exists."""
        return []

    async def close(self) -> None:
        """Holds nothing."""
