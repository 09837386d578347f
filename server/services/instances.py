"""Use cases of instances: each writes down what should be, and the reconciler makes it so."""

import secrets
from collections.abc import Callable
from dataclasses import replace

from server.domain.access import Caller, KeyHolder, check_reach
from server.domain.events import EventKind, event, happened
from server.domain.instances import (
    Action,
    Deadlines,
    Desired,
    Instance,
    Phase,
    Region,
    Status,
    check_action,
    check_new,
    check_wait,
    next_phase,
)
from server.domain.keys import RANDOM_BYTES, new_ingest_key
from server.domain.plans import Plans
from server.domain.preconditions import ANY, IfMatch
from server.domain.restarts import Restarts
from server.errors import NameTaken, NoRunningInstance, NotFound, PermissionDenied, PlanLimitReached, RateLimited
from server.providers.engine.client import EngineClient, EngineHealth
from server.providers.runtime.base import Upstream
from server.services.idempotency import Keep
from server.services.identifiers import Clock, NewId
from server.services.propagation import Propagation
from server.services.settling import Settling
from server.store.database import Database, UnitOfWork
from server.store.instances import EngineKeys

# How long suspend and resume wait for the engine before they answer all the same.
SETTLE_S = 10.0


class InstancesService:
    """Creates, shows, suspends, resumes and deletes instances."""

    def __init__(
        self,
        *,
        database: Database,
        plans: Plans,
        propagation: Propagation,
        engines: EngineClient,
        settling: Settling,
        wake: Callable[[], None],
        clock: Clock,
        new_id: NewId,
        deadlines: Deadlines,
    ) -> None:
        self._settling = settling
        self._deadlines = deadlines
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

    async def get(self, *, caller: Caller, instance_id: str, wait: float | None = None) -> Instance:
        """One instance; with `wait`, once it is as it is wanted, or after so many seconds."""
        if wait is not None:
            check_wait(wait)
        async with self._database.read() as tx:
            instance = await visible(tx, caller, instance_id)
        if wait is None or instance.is_settled:
            return instance
        settled = await self._settling.wait(caller.org_id, instance_id, wait)
        if settled is None:
            raise NotFound("instance", instance_id)
        return settled

    async def create(self, *, caller: Caller, name: str, region: str, keep: Keep[Instance]) -> Instance:
        """Notes that an instance is wanted."""
        if isinstance(caller, KeyHolder) and caller.instance_id is not None:
            raise PermissionDenied("This API key reaches one instance only. Use a key of the whole organization.")
        checked = check_new(name, region)
        async with self._database.write(caller.org_id) as tx:
            if await tx.instances.name_taken(caller.org_id, name):
                raise NameTaken("instance", name)
            await self._check_plan(tx, caller.org_id)
            instance = self._new(caller.org_id, name, checked)
            now = instance.created_at
            await tx.instances.add(instance, _new_keys(), due_at=now, deadline_at=now + self._deadlines.provisioning)
            await tx.events.append([event(instance, EventKind.CREATED, now)])
            await tx.changes.append(now, instance_id=instance.id)
            await keep(tx, instance)
            await tx.commit()
        await self._propagation.announce()
        self._wake()
        return instance

    async def act(
        self, *, caller: Caller, instance_id: str, action: str, keep: Keep[Instance], if_match: IfMatch = ANY
    ) -> tuple[Instance, int]:
        """Suspends or resumes. Answers with the instance as wanted, and the version from which the proxies know it.

        The last wish counts: the reconciler first ends what it is at, and then does what is wanted by then.
        """
        wanted = check_action(action)
        desired = Desired.SUSPENDED if wanted is Action.SUSPEND else Desired.RUNNING
        async with self._database.write(caller.org_id) as tx:
            instance = await visible(tx, caller, instance_id, lock=True)
            if_match.check("instance", instance.revision)
            phase = next_phase(instance, wanted)
            if wanted is Action.RESUME:
                await self._check_plan(tx, caller.org_id)
            after, version = await self._want(tx, instance, desired, phase)
            await keep(tx, after, version)
            await tx.commit()
        self._wake()
        await self._propagation.confirm(version)
        await self._settled(after)
        return after, version

    async def delete(self, *, caller: Caller, instance_id: str, if_match: IfMatch = ANY) -> int:
        """Notes that an instance is not wanted any more, whatever it is at; from now on nobody finds it."""
        async with self._database.write(caller.org_id) as tx:
            instance = await visible(tx, caller, instance_id, lock=True)
            if_match.check("instance", instance.revision)
            _, version = await self._want(tx, instance, Desired.DELETED, Phase.DELETING)
            await tx.commit()
        self._settling.changed(instance_id)
        self._wake()
        await self._propagation.confirm(version)
        return version

    async def health(self, *, caller: Caller, instance_id: str) -> EngineHealth:
        """What the engine says of itself."""
        instance = await self.get(caller=caller, instance_id=instance_id)
        upstream = upstream_of(instance)
        if instance.status is not Status.RUNNING or upstream is None:
            raise NoRunningInstance(instance_id, instance.status)
        return await self._engines.health(upstream)

    def _new(self, org_id: str, name: str, region: Region) -> Instance:
        now = self._clock()
        return Instance(
            id=self._new_id("inst"),
            org_id=org_id,
            name=name,
            region=region,
            desired=Desired.RUNNING,
            phase=Phase.PROVISIONING,
            created_at=now,
            updated_at=now,
        )

    async def _check_plan(self, tx: UnitOfWork, org_id: str) -> None:
        organization = await tx.organizations.get(org_id)
        if organization is None:
            raise NotFound("organization", org_id)
        limit = self._plans[organization.plan].running_instances
        if limit is not None and await tx.instances.count_running(org_id) >= limit:
            raise PlanLimitReached(organization.plan, limit)

    async def _want(self, tx: UnitOfWork, instance: Instance, desired: Desired, phase: Phase) -> tuple[Instance, int]:
        """The instance as it is after the wish, and the version from which proxies know of it. Commits nothing."""
        now = self._clock()
        await tx.instances.want(instance.id, desired, phase, now, now + self._deadlines.transition)
        after = replace(
            instance,
            desired=desired,
            phase=phase,
            host=None,
            port=None,
            error=None,
            updated_at=now,
            revision=instance.revision + 1,
            restarts=Restarts(),
        )
        await tx.events.append(list(happened(instance, after, now)))
        change = await tx.changes.append(now, instance_id=instance.id)
        return after, change.version

    async def _settled(self, wanted: Instance) -> None:
        """Waits a while for the transition: whoever calls the engine next should find it as the answer says."""
        try:
            instance = await self._settling.wait(wanted.org_id, wanted.id, SETTLE_S)
        except RateLimited:
            return
        if instance is None or instance.is_settled:
            await self._propagation.settle()


async def visible(tx: UnitOfWork, caller: Caller, instance_id: str, *, lock: bool = False) -> Instance:
    """The instance, if the caller may know of it. `lock`: the reconciler waits for the commit. Raises NotFound."""
    check_reach(caller, instance_id)
    instance = await tx.instances.get(caller.org_id, instance_id, lock=lock)
    if instance is None:
        raise NotFound("instance", instance_id)
    return instance


def upstream_of(instance: Instance) -> Upstream | None:
    """How to reach the instance's engine, where it was last seen ready."""
    if instance.host is None or instance.port is None:
        return None
    return Upstream(host=instance.host, port=instance.port, tls=instance.tls, headers=instance.upstream_headers)


def _new_keys() -> EngineKeys:
    return EngineKeys(
        engine_key=secrets.token_urlsafe(32),
        encryption_key=secrets.token_hex(32),
        ingest_key=new_ingest_key(secrets.token_bytes(RANDOM_BYTES)),
    )
