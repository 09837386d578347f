"""Deployments without a server, on a real engine, whose calls can be lost, refused, or the last of their process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import text

from server.domain.access import Member, Role
from server.domain.deployments import Deployment
from server.domain.instances import Deadlines, Desired, Instance, Phase, Region
from server.domain.templates import SecretField, Template
from server.providers.engine.client import EngineClient
from server.providers.engine.management import EngineManagement
from server.providers.templates.catalog import Catalog
from server.services.deployments import DeploymentsService, NewDeployment
from server.services.identifiers import new_id, utc_now
from server.services.instances import InstancesService
from server.services.propagation import Propagation
from server.services.settling import Settling
from server.services.waiting import Waiters
from server.settings import read_plans
from server.store import migrate
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.instances import EngineKeys
from server.store.organizations import Organization
from server.store.sealing import Sealer
from server.workers.deployment_job import DeploymentJob, Parts
from tests.providers.devengine.running import KEY
from tests.support.calls import eventually
from tests.support.databases import databases

SECRETS = {"token": "s3cret-token-of-the-tests", "signing": "s3cret-signing-of-the-tests"}


def template(**changes: Any) -> Template:
    """A template that has every kind of step: two secrets, a webhook, and a schedule."""
    values: dict[str, Any] = {
        "id": "tmpl_all",
        "name": "all-of-it",
        "description": "All kinds of steps.",
        "tags": (),
        "plan": "free",
        "config": {
            "type": "object",
            "properties": {"url": {"type": "string"}, "level": {"type": "string", "default": "info"}},
            "required": ["url"],
            "additionalProperties": False,
        },
        "secrets": (
            SecretField(name="token", description="The token.", required=True),
            SecretField(name="signing", description="The key that signs.", required=False),
        ),
        "trigger": {"type": "schedule", "cron": "0 3 * * *", "timezone": "UTC"},
        "sequence": {
            "namespace": "default",
            "name": "all-of-it",
            "blocks": [
                {"type": "step", "id": "say", "handler": "log", "params": {"message": "${config.url} ${config.level}"}},
                {
                    "type": "step",
                    "id": "send",
                    "handler": "http_request",
                    "params": {"url": "${config.url}", "headers": {"a": "${secrets.token}", "b": "${secrets.signing}"}},
                },
            ],
        },
    }
    return Template(**(values | changes))


class Killed(BaseException):
    """The process ends here."""


Fault = Callable[[httpx.Request, Callable[[], Awaitable[httpx.Response]]], Awaitable[httpx.Response]]


@dataclass
class Faults(httpx.AsyncBaseTransport):
    """Sends requests to the engine. `at` does something else with the calls of these numbers, from 0 on."""

    at: dict[int, Fault] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    inner: httpx.AsyncHTTPTransport = field(default_factory=httpx.AsyncHTTPTransport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fault = self.at.get(len(self.calls))
        self.calls.append(f"{request.method} {request.url.path.removeprefix('/api/v1')}")

        async def send() -> httpx.Response:
            return await self.inner.handle_async_request(request)

        return await (send() if fault is None else fault(request, send))

    async def aclose(self) -> None:
        await self.inner.aclose()


async def killed_before(request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    raise Killed


async def killed_after(request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    await (await send()).aread()
    raise Killed


async def unsent(request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    raise httpx.ConnectError("refused")


async def answer_lost(request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    await (await send()).aread()
    raise httpx.ReadError("lost")


def refused(status: int, words: str, *, sent: bool = False) -> Fault:
    """The engine's refusal; `sent`: it has done the work all the same."""

    async def fault(request: httpx.Request, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        if sent:
            await (await send()).aread()
        return httpx.Response(status, json={"error": words})

    return fault


class Brittle(Propagation):
    """Kills the process when it is about to tell the proxies, as often as is left."""

    kills = 0

    async def announce(self) -> None:
        self._maybe()
        await super().announce()

    async def settle(self) -> None:
        self._maybe()
        await super().settle()

    def _maybe(self) -> None:
        if self.kills:
            self.kills -= 1
            raise Killed


@dataclass
class DeploymentWorld:
    """One organization with one running instance, whose engine is real."""

    database: Database
    propagation: Brittle
    faults: Faults
    engine: httpx.Client
    catalog: Catalog
    service: DeploymentsService
    instances: InstancesService
    owner: Member
    instance_id: str
    parts: Parts

    async def anew(self) -> None:
        """Forgets all deployments, and begins with another organization: that costs less than another world."""
        for table in ("deployments", "policies", "events"):
            await self.execute(f"DELETE FROM {table}")
        self.faults.at, self.faults.calls = {}, []
        self.owner = Member(org_id=f"org_{uuid4().hex}", user_id="u", role=Role.OWNER)
        self.instance_id = new_id("inst")
        await _populate(self)

    async def ask(self, **changes: Any) -> Deployment:
        """Asks for a deployment, which then waits for a job."""
        wanted = {"template_id": "tmpl_all", "name": None, "config": {"url": "https://example.com"}}
        new = NewDeployment(**{**wanted, "secrets": SECRETS, "instance_id": None, **changes})
        return await self.service.create(caller=self.owner, wanted=new, keep=keep_nothing, retract=retract_nothing)

    async def work(self) -> None:
        """One job, if one is due."""
        async with self.database.write() as tx:
            now = await tx.now(utc_now())
            claims = await tx.deployments.claim_due(self.parts.owner, now, self.lease, 1)
            await tx.commit()
        for claim in claims:
            await DeploymentJob(self.parts, claim).run()

    lease = Deadlines().transition

    async def restart(self) -> None:
        """What a lone server does first: the leases of the one before it are over."""
        async with self.database.write() as tx:
            await tx.deployments.wake_all(await tx.now(utc_now()))
            await tx.commit()

    async def work_off(self) -> None:
        """Works until nothing is left to do."""

        async def idle() -> bool:
            await self.work()
            return not await self.rows("SELECT id FROM deployments WHERE due_at IS NOT NULL")

        await eventually(idle)

    async def rows(self, query: str) -> list[Any]:
        async with self.database.engine.begin() as connection:
            return list((await connection.execute(text(query))).all())

    async def execute(self, query: str, **values: Any) -> None:
        async with self.database.engine.begin() as connection:
            await connection.execute(text(query), values)

    async def find(self, deployment_id: str) -> Deployment | None:
        async with self.database.read() as tx:
            return await tx.deployments.get(self.owner.org_id, deployment_id)

    async def policies(self) -> list[Any]:
        async with self.database.read() as tx:
            return await tx.policies.of_instance(self.instance_id)

    async def kinds(self) -> list[str]:
        async with self.database.read() as tx:
            return [str(one.kind) for one in await tx.events.of_org(self.owner.org_id, limit=100)]

    def in_engine(self) -> dict[str, int]:
        """How many things of each kind the engine has of this organization."""
        headers = {"x-tenant-id": self.owner.org_id}
        found = {}
        for kind in ("credentials", "sequences", "triggers", "cron"):
            answer = self.engine.get(f"/api/v1/{kind}", headers=headers).json()
            found[kind] = len(answer["items"] if isinstance(answer, dict) else answer)
        return found


NOTHING = {"credentials": 0, "sequences": 0, "triggers": 0, "cron": 0}
ALL = {"credentials": 2, "sequences": 1, "triggers": 1, "cron": 1}


async def keep_nothing(tx: Any, made: Any, version: int | None = None) -> None:
    """For calls without an Idempotency-Key."""


async def retract_nothing(tx: Any) -> None:
    """For calls without an Idempotency-Key."""


@asynccontextmanager
async def deployment_world(
    folder: Path, engine: httpx.Client, *templates: Template, patience: float = 0
) -> AsyncIterator[DeploymentWorld]:
    """A world on a database of its own, and on an engine that others may use too."""
    faults = Faults()
    async with (
        Database(create_engine(databases.url(folder)), Sealer(bytes(32))) as database,
        httpx.AsyncClient(transport=faults) as http,
    ):
        await migrate.upgrade(database.engine)
        made = _world(database, faults, http, engine, Catalog(templates or [template()]), patience)
        await _populate(made)
        yield made


def _world(
    database: Database, faults: Faults, http: httpx.AsyncClient, engine: httpx.Client, catalog: Catalog, patience: float
) -> DeploymentWorld:
    propagation = Brittle(database, clock=utc_now, confirm_timeout=0.5)
    waiters = Waiters()
    shared: dict[str, Any] = {
        "database": database,
        "plans": read_plans(None),
        "clock": utc_now,
        "new_id": new_id,
        "wake": lambda: None,
    }
    instances = InstancesService(
        **shared,
        propagation=propagation,
        engines=EngineClient(http),
        settling=Settling(database, waiters),
        deadlines=Deadlines(),
    )
    service = DeploymentsService(**shared, catalog=catalog, instances=instances, waiters=waiters, patience=patience)
    parts = Parts(
        database=database,
        engines=EngineManagement(http),
        propagation=propagation,
        clock=utc_now,
        owner="one",
        changed=waiters.wake,
    )
    owner = Member(org_id=f"org_{uuid4().hex}", user_id="u", role=Role.OWNER)
    instance_id = new_id("inst")
    return DeploymentWorld(
        database, propagation, faults, engine, catalog, service, instances, owner, instance_id, parts
    )


async def _populate(world: DeploymentWorld) -> None:
    async with world.database.write() as tx:
        now = utc_now()
        organization = Organization(id=world.owner.org_id, name="One", plan="enterprise", created_at=now)
        await tx.organizations.add(organization)
        await tx.commit()
    await add_instance(world, world.instance_id, "production")


async def add_instance(world: DeploymentWorld, instance_id: str, name: str, phase: Phase = Phase.RUNNING) -> None:
    """An instance of the world's organization, on the same engine."""
    url, now = world.engine.base_url, utc_now()
    instance = Instance(
        id=instance_id,
        org_id=world.owner.org_id,
        name=name,
        region=Region.WASHINGTON,
        desired=Desired.SUSPENDED if phase is Phase.SUSPENDED else Desired.RUNNING,
        phase=phase,
        created_at=now,
        updated_at=now,
    )
    keys = EngineKeys(engine_key=KEY, encryption_key="ab" * 32)
    async with world.database.write() as tx:
        await tx.instances.add(instance, keys, due_at=now, deadline_at=now)
        await tx.commit()
    query = "UPDATE instances SET host = :host, port = :port, due_at = NULL WHERE id = :id"
    await world.execute(query, host=url.host, port=url.port, id=instance_id)
