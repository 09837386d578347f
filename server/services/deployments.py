"""Use cases of deployments: each is written down as a whole before its engine hears of it (workers/deploy.py)."""

import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from server.domain.access import Caller, KeyHolder
from server.domain.deployments import (
    MAX_SEQUENCE,
    MOST,
    SEQUENCE_VERSION,
    Deployment,
    Phase,
    check_name,
    check_secrets,
    deployment_event,
    free_name,
)
from server.domain.events import EventKind
from server.domain.instances import Instance, Status, check_wait
from server.domain.instances import Phase as InstancePhase
from server.domain.plans import Plans
from server.domain.preconditions import ANY, IfMatch
from server.domain.templates import Template, render, render_trigger
from server.errors import (
    EngineUnreachable,
    FieldViolation,
    InstanceInUse,
    InvalidArgument,
    NameTaken,
    NoRunningInstance,
    NotFound,
    PlanTooLow,
    RateLimited,
)
from server.providers.templates.catalog import Catalog
from server.services.idempotency import Keep, Retract
from server.services.identifiers import Clock, NewId
from server.services.instances import InstancesService, upstream_of, visible
from server.services.policies import check_size
from server.services.waiting import Waiters
from server.store.database import Database, UnitOfWork
from server.store.deployments import DeploymentSecrets

# How long POST waits for the deployment to run before it answers "provisioning".
PATIENCE_S = 2.0
# How often those who wait look at what another server may have done.
POLL_S = 0.25
SLUG_LETTERS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDeployment:
    """What a caller wants deployed. `config` and `secrets` are raw JSON, not checked yet."""

    template_id: str
    name: str | None
    config: Any
    secrets: Any
    instance_id: str | None


class DeploymentsService:
    """Creates, shows and deletes deployments."""

    def __init__(
        self,
        *,
        database: Database,
        plans: Plans,
        catalog: Catalog,
        instances: InstancesService,
        waiters: Waiters,
        wake: Callable[[], None],
        clock: Clock,
        new_id: NewId,
        patience: float = PATIENCE_S,
    ) -> None:
        self._patience = patience
        self._database = database
        self._plans = plans
        self._catalog = catalog
        self._instances = instances
        self._waiters = waiters
        self._wake = wake
        self._clock = clock
        self._new_id = new_id

    async def list(self, *, caller: Caller) -> list[Deployment]:
        """The deployments that the caller may see, newest first."""
        async with self._database.read() as tx:
            found = await tx.deployments.of_org(caller.org_id)
        return [one for one in found if _reaches(caller, one.instance_id)]

    async def get(self, *, caller: Caller, deployment_id: str, wait: float | None = None) -> Deployment:
        """One deployment; with `wait`, once it is not being provisioned any more, or after so many seconds."""
        if wait is not None:
            check_wait(wait)
        async with self._database.read() as tx:
            found = await _deployment(tx, caller, deployment_id)
        if wait is None or found.phase is not Phase.PROVISIONING:
            return found
        settled = await self._settled(found, wait)
        if settled is None:
            raise NotFound("deployment", deployment_id)
        return settled

    async def create(
        self, *, caller: Caller, wanted: NewDeployment, keep: Keep[Deployment], retract: Retract
    ) -> Deployment:
        """Notes what is wanted, and answers when it runs, or after a while with what has become of it by then.

        Where it fails in this time, its error is raised, and the deployment is gone.
        """
        async with self._database.write(caller.org_id) as tx:
            made, brought = await self._new(tx, caller, wanted)
            await tx.deployments.add(made, brought, await tx.now(self._clock()))
            await tx.events.append([deployment_event(made, EventKind.DEPLOYMENT_CREATED, made.created_at)])
            await keep(tx, made)
            await tx.commit()
        self._wake()
        try:
            after = await self._settled(made, self._patience)
        except RateLimited:
            return made
        if after is not None and after.phase is Phase.PROVISIONING:
            return made
        return await self._outcome(made, keep, retract)

    async def delete(self, *, caller: Caller, deployment_id: str, if_match: IfMatch = ANY) -> int | None:
        """Ends a deployment, and with it the instance on which no other one runs.

        Answers with the version from which the proxies know it. One that has failed has no instance to destroy.
        """
        async with self._database.write(caller.org_id) as tx:
            found = await _deployment(tx, caller, deployment_id, lock=True)
            if_match.check("deployment", found.revision)
            if found.phase is Phase.FAILED:
                await self._hide(tx, found)
                await tx.commit()
                self._wake()
                return None
            if others := await tx.deployments.others(found):
                raise InstanceInUse(found.instance_id, others)
            version = await self._instances.end(tx, await visible(tx, caller, found.instance_id, lock=True))
            await tx.commit()
        self._waiters.wake(deployment_id)
        await self._instances.ended(found.instance_id, version)
        return version

    async def _settled(self, made: Deployment, seconds: float) -> Deployment | None:
        """The deployment as soon as it runs or has failed, or as it is after the time; None where it is gone.

        Raises RateLimited where too many calls wait.
        """
        with self._waiters.waiting(made.org_id, made.id, seconds) as waiter:
            found = await self._look(made)
            while found is not None and found.phase is Phase.PROVISIONING and await waiter.again(POLL_S):
                found = await self._look(made)
        return found

    async def _look(self, made: Deployment) -> Deployment | None:
        async with self._database.read() as tx:
            return await tx.deployments.get(made.org_id, made.id)

    async def _outcome(self, made: Deployment, keep: Keep[Deployment], retract: Retract) -> Deployment:
        """Answers for a deployment that runs, with the answer kept anew; raises what it has failed with."""
        async with self._database.write(made.org_id) as tx:
            found = await tx.deployments.get(made.org_id, made.id, lock=True)
            if found is None:
                raise NotFound("deployment", made.id)
            if found.phase is Phase.FAILED:
                await self._hide(tx, found)
                await retract(tx)
            else:
                await keep(tx, found)
            await tx.commit()
        if found.phase is Phase.FAILED:
            self._wake()
            raise found.failure()
        return found

    async def _hide(self, tx: UnitOfWork, found: Deployment) -> None:
        now = self._clock()
        await tx.deployments.hide(found.id, now, due_at=await tx.now(now))
        await tx.events.append([deployment_event(found, EventKind.DEPLOYMENT_DELETED, now)])

    async def _new(self, tx: UnitOfWork, caller: Caller, wanted: NewDeployment) -> tuple[Deployment, DeploymentSecrets]:
        """The deployment as it is wanted, checked, and what it brings to its engine."""
        template = self._catalog.get(wanted.template_id)
        if template is None:
            raise NotFound("template", wanted.template_id)
        await self._check_plan(tx, caller.org_id, template)
        name = await self._name(tx, caller.org_id, template, wanted.name)
        config = self._catalog.check_config(template, _object("config", wanted.config))
        given = check_secrets(template, _object("secrets", wanted.secrets))
        instance = await self._chosen(tx, caller, wanted.instance_id)
        await check_size(tx, instance.id, more=1)
        deployment = self._planned(template, instance, name, config, given)
        return deployment, DeploymentSecrets(values=given, trigger=secrets.token_urlsafe(32))

    async def _check_plan(self, tx: UnitOfWork, org_id: str, template: Template) -> None:
        organization = await tx.organizations.get(org_id)
        if organization is None:
            raise NotFound("organization", org_id)
        plan = self._plans[organization.plan]
        if template.plan not in plan.templates:
            raise PlanTooLow(plan.name, template.plan)

    async def _name(self, tx: UnitOfWork, org_id: str, template: Template, wanted: str | None) -> str:
        if wanted is not None:
            check_name(wanted)
        taken = await tx.deployments.names(org_id)
        if wanted in taken:
            raise NameTaken("deployment", str(wanted))
        if len(taken) >= MOST:
            what = f"an organization has at most {MOST} deployments; delete some first"
            raise InvalidArgument([FieldViolation(field="name", description=what)])
        return free_name(template, taken) if wanted is None else wanted

    async def _chosen(self, tx: UnitOfWork, caller: Caller, instance_id: str | None) -> Instance:
        """The instance that was named, or the newest that runs."""
        if instance_id is None:
            found = [one for one in await tx.instances.of_org(caller.org_id) if _reaches(caller, one.id)]
            running = [one for one in found if one.phase is InstancePhase.RUNNING and upstream_of(one)]
            if not running:
                raise NoRunningInstance
            return running[0]
        instance = await visible(tx, caller, instance_id)
        if instance.status is not Status.RUNNING:
            raise NoRunningInstance(instance_id, instance.status)
        if upstream_of(instance) is None:
            raise EngineUnreachable(instance_id)
        return instance

    def _planned(
        self, template: Template, instance: Instance, name: str, config: Mapping[str, Any], given: Mapping[str, str]
    ) -> Deployment:
        now = self._clock()
        slug = f"{name}-{self._new_id('')[1 : 1 + SLUG_LETTERS]}"
        credentials = {secret: self._new_id("cred") for secret in sorted(given)}
        sequence = render(template, config=config, credentials=credentials, name=slug)
        return Deployment(
            id=self._new_id("dep"),
            org_id=instance.org_id,
            instance_id=instance.id,
            template_id=template.id,
            name=name,
            phase=Phase.PROVISIONING,
            slug=slug,
            policy_id=self._new_id("pol"),
            config=config,
            credentials=credentials,
            sequence=_stamped(sequence, instance.org_id, now),
            schedule=_schedule(render_trigger(template, config=config)),
            created_at=now,
            updated_at=now,
        )


def _reaches(caller: Caller, instance_id: str) -> bool:
    return not isinstance(caller, KeyHolder) or caller.reaches(instance_id)


async def _deployment(tx: UnitOfWork, caller: Caller, deployment_id: str, *, lock: bool = False) -> Deployment:
    """The deployment, if the caller may know of it. Raises NotFound."""
    found = await tx.deployments.get(caller.org_id, deployment_id, lock=lock)
    if found is None or not _reaches(caller, found.instance_id):
        raise NotFound("deployment", deployment_id)
    return found


def _object(field: str, given: Any) -> Mapping[str, Any]:
    """What was given, an object that JSON can hold; none is an empty one. Raises InvalidArgument."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidArgument([FieldViolation(field=field, description="must be an object")])
    try:
        size = len(json.dumps(given, allow_nan=False))
    except ValueError:
        what = "holds a number that JSON does not have"
        raise InvalidArgument([FieldViolation(field=field, description=what)]) from None
    _check_length(field, size)
    return given


def _stamped(sequence: Mapping[str, Any], tenant_id: str, now: datetime) -> dict[str, Any]:
    """The sequence as an engine takes it (providers' facts, 5.5). Its tenant is the organization."""
    stamps = {
        "id": str(uuid.uuid4()),
        "tenant_id": tenant_id,
        "version": SEQUENCE_VERSION,
        "created_at": now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    stamped = {**sequence, **stamps}
    _check_length("config", len(json.dumps(stamped)))
    return stamped


def _check_length(field: str, size: int) -> None:
    if size > MAX_SEQUENCE:
        what = f"is too long: the sequence that it makes may have {MAX_SEQUENCE} bytes"
        raise InvalidArgument([FieldViolation(field=field, description=what)])


def _schedule(trigger: Mapping[str, Any]) -> dict[str, str] | None:
    if trigger.get("type") != "schedule":
        return None
    return {"cron": str(trigger["cron"]), "timezone": str(trigger.get("timezone", "UTC"))}
