"""Short ways to drive the Fly runtime as the reconciler does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from server.providers.runtime.base import EngineSpec, EngineState, Observation, RuntimeUnavailable
from server.providers.runtime.fly import FlyRuntime
from server.providers.runtime.fly_config import FlyConfig, Routing
from tests.support.fly.cloud import Fly
from tests.support.stack import free_port

ID = "inst_abc123"
NAME = "inst-abc123"
SPEC = EngineSpec(
    instance_id=ID, org_id="org_1", name="dev", region="iad", engine_key="k" * 32, encryption_key="ab" * 32
)


def config(fly: Fly, **changes: Any) -> FlyConfig:
    """What an operator would set for the fake."""
    made: dict[str, Any] = {
        "api_url": fly.api_url,
        "token": fly.token,
        "app": fly.app,
        "installation": "ours",
        "image": "ghcr.io/orch8-io/engine:0.7.1",
        "routing": Routing.PINNED,
        "public_url": fly.edge_url,
        "engine_port": free_port(),
        "requests_per_second": 100.0,
    }
    return FlyConfig(**(made | changes))


@asynccontextmanager
async def runtime(fly: Fly, **changes: Any) -> AsyncIterator[FlyRuntime]:
    """A runtime, as after a start of the server."""
    made = FlyRuntime(config(fly, **changes), poll_interval=0.05)
    try:
        yield made
    finally:
        await made.close()


async def until(state: EngineState, step: Callable[[], Awaitable[Observation]], seconds: float = 30) -> Observation:
    """Takes a step again and again, as the reconciler does, until it leads there. Only what can pass may go wrong."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                found = await step()
            except RuntimeUnavailable:
                found = None
            if found is not None and found.state is state:
                return found
            await asyncio.sleep(0.02)
