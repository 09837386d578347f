"""Use cases of instances: each writes down what should be, and the reconciler makes it so."""

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from server.domain.access import Caller, KeyHolder, check_reach
from server.domain.instances import Action, Desired, Instance, Phase, Status, check_action, check_new, next_phase
from server.domain.plans import Plans
from server.errors import NameTaken, NoRunningInstance, NotFound, PermissionDenied, PlanLimitReached
from server.providers.engine.client import EngineClient, EngineHealth
from server.providers.runtime.base import Upstream
from server.services.identifiers import Clock, NewId
from server.services.propagation import Propagation
from server.store.database import Database, UnitOfWork
from server.store.instances import EngineKeys

PROVISIONING_DEADLINE = timedelta(minutes=10)
TRANSITION_DEADLINE = timedelta(minutes=10)
# How long suspend and resume wait for the engine before they answer all the same.
SETTLE_S = 10.0
SETTLE_POLL_S = 0.02


class InstancesService:
    """Creates, shows, suspends, resumes and deletes instances."""

    def __init__(
        self,
        *,
        database: Database,
        plans: Plans,
        propagation: Propagation,
        engines: EngineClient,
        wake: Callable[[], None],
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._database = database
        self._plans = plans
        self._propagation = propagation
        self._engines = engines
        self._wake = wake
        self._clock = clock
        self._new_id = new_id

    async def list(self, *, caller: Caller) -> list[Instance]:
        """The instances that the caller may see, newest first."""
        async with self._database.read() as tx:
            found = await tx.instances.of_org(caller.org_id)
        if isinstance(caller, KeyHolder):
            return [instance for instance in found if caller.reaches(instance.id)]
        return found

    async def get(self, *, caller: Caller, instance_id: str) -> Instance:
        """One instance."""
        async with self._database.read() as tx:
            return await visible(tx, caller, instance_id)

    async def create(self, *, caller: Caller, name: str, region: str) -> Instance:
        """Notes that an instance is wanted."""
        if isinstance(caller, KeyHolder) and caller.instance_id is not None:
            raise PermissionDenied("This API key reaches one instance only. Use a key of the whole organization.")
        checked = check_new(name, region)
        async with self._database.write(caller.org_id) as tx:
            if await tx.instances.name_taken(caller.org_id, name):
                raise NameTaken("instance", name)
            await self._check_plan(tx, caller.org_id)
            now = self._clock()
            instance = Instance(
                id=self._new_id("inst"),
                org_id=caller.org_id,
                name=name,
                region=checked,
                desired=Desired.RUNNING,
                phase=Phase.PROVISIONING,
                created_at=now,
                updated_at=now,
            )
            await tx.instances.add(instance, _new_keys(), due_at=now, deadline_at=now + PROVISIONING_DEADLINE)
            await tx.changes.append(now, instance_id=instance.id)
            await tx.commit()
        await self._propagation.announce()
        self._wake()
        return instance

    async def act(self, *, caller: Caller, instance_id: str, action: str) -> tuple[Status, int]:
        """Suspends or resumes. Answers with the state asked for and the version from which the proxies know it."""
        wanted = check_action(action)
        desired = Desired.SUSPENDED if wanted is Action.SUSPEND else Desired.RUNNING
        async with self._database.write(caller.org_id) as tx:
            instance = await visible(tx, caller, instance_id)
            phase = next_phase(instance, wanted)
            if wanted is Action.RESUME:
                await self._check_plan(tx, caller.org_id)
            version = await self._want(tx, instance_id, desired, phase)
        self._wake()
        await self._propagation.confirm(version)
        await self._settled(instance_id)
        return (Status.SUSPENDED if wanted is Action.SUSPEND else Status.RUNNING), version

    async def delete(self, *, caller: Caller, instance_id: str) -> int:
        """Notes that an instance is not wanted any more; from now on nobody finds it."""
        async with self._database.write(caller.org_id) as tx:
            await visible(tx, caller, instance_id)
            version = await self._want(tx, instance_id, Desired.DELETED, Phase.DELETING)
        self._wake()
        await self._propagation.confirm(version)
        return version

    async def health(self, *, caller: Caller, instance_id: str) -> EngineHealth:
        """What the engine says of itself."""
        instance = await self.get(caller=caller, instance_id=instance_id)
        if instance.status is not Status.RUNNING or instance.host is None or instance.port is None:
            raise NoRunningInstance(instance_id, instance.status)
        return await self._engines.health(Upstream(host=instance.host, port=instance.port, tls=instance.tls))

    async def _check_plan(self, tx: UnitOfWork, org_id: str) -> None:
        organization = await tx.organizations.get(org_id)
        if organization is None:
            raise NotFound("organization", org_id)
        limit = self._plans[organization.plan].running_instances
        if limit is not None and await tx.instances.count_running(org_id) >= limit:
            raise PlanLimitReached(organization.plan, limit)

    async def _want(self, tx: UnitOfWork, instance_id: str, desired: Desired, phase: Phase) -> int:
        now = self._clock()
        await tx.instances.want(instance_id, desired, phase, now, now + TRANSITION_DEADLINE)
        change = await tx.changes.append(now, instance_id=instance_id)
        await tx.commit()
        return change.version

    async def _settled(self, instance_id: str) -> None:
        """Waits a while for the transition: whoever calls the engine next should find it as the answer says."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            async with self._database.read() as tx:
                instance = await tx.instances.find(instance_id)
            if instance is None or instance.is_settled:
                await self._propagation.settle()
                return
            await asyncio.sleep(SETTLE_POLL_S)


async def visible(tx: UnitOfWork, caller: Caller, instance_id: str) -> Instance:
    """The instance, if the caller may know of it. Raises NotFound."""
    check_reach(caller, instance_id)
    instance = await tx.instances.get(caller.org_id, instance_id)
    if instance is None:
        raise NotFound("instance", instance_id)
    return instance


def _new_keys() -> EngineKeys:
    return EngineKeys(engine_key=secrets.token_urlsafe(32), encryption_key=secrets.token_hex(32))
