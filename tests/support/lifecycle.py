"""Instances and their reconciler without a server, with a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from server.domain.access import Member, Role
from server.domain.events import Event
from server.domain.instances import Deadlines, Instance
from server.domain.restarts import RestartPolicy
from server.providers.engine.client import EngineClient
from server.providers.runtime.base import Runtime
from server.services.identifiers import new_id
from server.services.instances import InstancesService
from server.services.propagation import Propagation
from server.services.settling import Settling
from server.services.waiting import Waiters
from server.settings import read_plans
from server.store import migrate
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.organizations import Organization
from server.store.sealing import Sealer
from server.workers.reconcile import Reconciler
from tests.support.calls import eventually
from tests.support.databases import databases
from tests.support.runtime import MemoryRuntime

OWNER = Member(org_id="org_one", user_id="u", role=Role.OWNER)


@dataclass
class Clock:
    """Stands still but for what the test adds."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now


async def keep_nothing(tx: Any, made: Any, version: int | None = None) -> None:
    """For calls without an Idempotency-Key."""


@dataclass
class World:
    """All that an instance's life needs."""

    database: Database
    runtime: MemoryRuntime
    clock: Clock
    service: InstancesService
    reconciler: Reconciler
    calls: list[asyncio.Task[Any]] = field(default_factory=list)

    async def create(self, name: str = "production") -> str:
        made = await self.service.create(caller=OWNER, name=name, region="iad", keep=keep_nothing)
        return made.id

    def act(self, instance_id: str, action: str) -> None:
        """Asks, and does not wait for the answer: it comes when the instance has settled."""
        call = self.service.act(caller=OWNER, instance_id=instance_id, action=action, keep=keep_nothing)
        self.calls.append(asyncio.create_task(call))

    async def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.clock.now += timedelta(seconds=seconds)
        self.reconciler.wake()

    async def find(self, instance_id: str) -> Instance:
        async with self.database.read() as tx:
            found = await tx.instances.get(OWNER.org_id, instance_id)
        assert found is not None
        return found

    async def until(self, instance_id: str, check: Callable[[Instance], bool], step: float = 0.02) -> Instance:
        """The instance, once it is so; so many seconds pass with each look."""

        async def look() -> Instance | None:
            await self.advance(step)
            found = await self.find(instance_id)
            return found if check(found) else None

        found: Instance = await eventually(look)
        return found

    async def when(self, check: Callable[[], bool], step: float = 0.02) -> None:
        """Returns once it is so; so many seconds pass with each look."""

        async def look() -> bool:
            await self.advance(step)
            return check()

        await eventually(look)

    async def events(self, instance_id: str) -> list[Event]:
        async with self.database.read() as tx:
            found = await tx.events.of_org(OWNER.org_id, limit=100)
        return [event for event in found if event.instance_id == instance_id]

    async def kinds(self, instance_id: str) -> list[str]:
        return [str(event.kind) for event in await self.events(instance_id)]


@asynccontextmanager
async def open_database(folder: Path, clock: Callable[[], datetime]) -> AsyncIterator[Database]:
    """A new database with one organization of the largest plan."""
    async with Database(create_engine(databases.url(folder)), Sealer(bytes(32))) as database:
        await migrate.upgrade(database.engine)
        async with database.write() as tx:
            organization = Organization(id=OWNER.org_id, name="One", plan="enterprise", created_at=clock())
            await tx.organizations.add(organization)
            await tx.commit()
        yield database


@asynccontextmanager
async def world(
    folder: Path, deadlines: Deadlines, restarts: RestartPolicy, runtime: Runtime | None = None
) -> AsyncIterator[World]:
    """A world whose reconciler runs until the block ends."""
    clock, memory = Clock(), runtime or MemoryRuntime()
    assert isinstance(memory, MemoryRuntime)
    async with open_database(folder, clock) as database, httpx.AsyncClient() as http:
        settling = Settling(database, Waiters())
        shared: dict[str, Any] = {
            "database": database,
            "propagation": Propagation(database, clock=clock, confirm_timeout=0.5),
            "clock": clock,
            "deadlines": deadlines,
        }
        reconciler = Reconciler(
            **shared,
            runtime=memory,
            owner="one",
            step_ended=lambda claim, result, seconds: None,
            changed=settling.changed,
            restarts=restarts,
        )
        service = InstancesService(
            **shared,
            plans=read_plans(None),
            engines=EngineClient(http),
            settling=settling,
            wake=reconciler.wake,
            new_id=new_id,
        )
        made = World(database, memory, clock, service, reconciler)
        running = asyncio.create_task(reconciler.run())
        try:
            yield made
        finally:
            await _end([running, *made.calls])


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    waiting: Awaitable[Any] = asyncio.gather(*tasks, return_exceptions=True)
    await waiting
