"""The work on one deployment: its steps, one after the other, or what undoes them.

A step may be done again: it finds what an earlier attempt made, for every name was chosen and written down before the
first. It is written down when it is done, so that whoever goes on after a crash begins with the one that was not.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from server.domain.deployments import Deployment, Phase, Step, StepKind, deployment_event
from server.domain.events import EventKind
from server.domain.instances import Phase as InstancePhase
from server.domain.policies import Policy, PolicyFields
from server.errors import CloudError, DatabaseUnavailable, EngineUnreachable
from server.providers.engine.management import EngineBusy, EngineManagement, EnginePlace
from server.services.identifiers import Clock
from server.services.instances import upstream_of
from server.services.propagation import Propagation
from server.store.database import Database, UnitOfWork
from server.store.deployments import DeploymentClaim, DeploymentSecrets

LEASE = timedelta(seconds=30)
# A step ends before its lease does: else two servers could be at one deployment.
STEP_S = 20.0
# Whoever waits for the answer of POST waits for these tries: 0.2 s and 0.4 s lie between them.
TRIES = 3
BACKOFF_S = 0.2
MAX_BACKOFF_S = 60.0

log = structlog.get_logger(__name__)


class Lost(Exception):
    """The deployment is somebody else's to work on by now, or gone."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the work needs. `owner` names this server in leases; `changed` hears the id of each that was worked on."""

    database: Database
    engines: EngineManagement
    propagation: Propagation
    clock: Clock
    owner: str
    changed: Callable[[str], None]


class DeploymentJob:
    """Goes on with a deployment that was claimed."""

    def __init__(self, parts: Parts, claim: DeploymentClaim) -> None:
        self._parts = parts
        self._attempts = claim.attempts
        self._at = claim.deployment

    async def run(self) -> None:
        """Works until all is done or undone, a step fails, or the deployment is somebody else's.

        Raises DatabaseUnavailable: somebody goes on when the lease is over.
        """
        try:
            await (self._make() if self._at.phase is Phase.PROVISIONING else self._undo())
        except Lost:
            await self._release(again_in=0)
        except asyncio.CancelledError:
            await asyncio.shield(self._release(again_in=0))
            raise
        except DatabaseUnavailable:
            raise
        except (CloudError, TimeoutError) as error:
            await self._stumbled(error)
        except Exception:
            log.exception("deploy.failed", deployment_id=self._at.id)
            await self._stumbled(CloudError("Something went wrong on our side."))
        self._parts.changed(self._at.id)

    async def _make(self) -> None:
        place = await self._place()
        for step in self._at.steps[self._at.done :]:
            async with asyncio.timeout(STEP_S):
                await self._do(step, place)
        await self._parts.propagation.settle()
        await self._become(Phase.RUNNING, EventKind.DEPLOYMENT_RUNNING)
        await self._release(again_in=None)

    async def _do(self, step: Step, place: EnginePlace) -> None:
        engines, at = self._parts.engines, self._at
        secrets = await self._secrets()
        match step.kind:
            case StepKind.CREDENTIAL:
                name = f"{at.name}: {step.name}"
                await engines.put_credential(place, at.credentials[step.name], name, secrets.values[step.name])
            case StepKind.SEQUENCE:
                await engines.put_sequence(place, at.sequence)
            case StepKind.TRIGGER:
                await engines.put_trigger(place, at.sequence, at.slug, secrets.trigger)
            case StepKind.CRON:
                schedule = at.schedule or {}
                await engines.put_schedule(place, at.sequence, schedule["cron"], schedule["timezone"])
            case StepKind.POLICY:
                await self._admit(secrets.trigger)
                return
        async with self._parts.database.write(at.org_id) as tx:
            await self._record(tx, replace(at, done=at.done + 1))
            await tx.commit()

    async def _admit(self, trigger_secret: str) -> None:
        """Lets API keys in at the gateway, which signs with the trigger's secret."""
        at, now = self._at, self._parts.clock()
        fields = PolicyFields(provider="api-key", slug=at.slug, trigger_secret=trigger_secret)
        policy = Policy(id=at.policy_id, instance_id=at.instance_id, fields=fields, created_at=now, updated_at=now)
        async with self._parts.database.write(at.org_id) as tx:
            await self._record(tx, replace(at, done=at.done + 1))
            await tx.policies.save(policy)
            await tx.changes.append(now, instance_id=at.instance_id)
            await tx.commit()
        await self._parts.propagation.announce()

    async def _undo(self) -> None:
        place = await self._place_to_undo() if self._at.done else None
        while place is not None and self._at.done:
            async with asyncio.timeout(STEP_S):
                await self._take_back(self._at.steps[self._at.done - 1], place)
        async with self._parts.database.write(self._at.org_id) as tx:
            if self._at.phase is Phase.DELETED:
                await tx.deployments.remove(self._at.id)
            else:
                await self._record(tx, replace(self._at, done=0))
            await tx.commit()
        await self._release(again_in=None)

    async def _take_back(self, step: Step, place: EnginePlace) -> None:
        engines, at = self._parts.engines, self._at
        match step.kind:
            case StepKind.CREDENTIAL:
                await engines.remove_credential(place, at.credentials[step.name])
            case StepKind.SEQUENCE:
                await engines.remove_sequence(place, at.sequence_id)
            case StepKind.TRIGGER:
                await engines.remove_trigger(place, at.slug)
            case StepKind.CRON:
                await engines.remove_schedule(place, at.sequence_id)
            case StepKind.POLICY:
                await self._shut_out()
                return
        async with self._parts.database.write(at.org_id) as tx:
            await self._record(tx, replace(at, done=at.done - 1))
            await tx.commit()

    async def _shut_out(self) -> None:
        async with self._parts.database.write(self._at.org_id) as tx:
            await self._record(tx, replace(self._at, done=self._at.done - 1))
            await tx.policies.delete(self._at.policy_id)
            await tx.changes.append(self._parts.clock(), instance_id=self._at.instance_id)
            await tx.commit()
        await self._parts.propagation.announce()

    async def _stumbled(self, error: CloudError | TimeoutError) -> None:
        """What can pass is tried again, a few times; what undoes is tried until it works."""
        wait = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(self._attempts, 10))
        passing = isinstance(error, TimeoutError | EngineUnreachable | EngineBusy) or type(error) is CloudError
        undoing = self._at.phase is not Phase.PROVISIONING
        log.warning("deploy.stumbled", phase=self._at.phase, done=self._at.done, error=str(error), undoing=undoing)
        if undoing or (passing and self._attempts + 1 < TRIES):
            await self._release(again_in=wait, attempts=self._attempts + 1)
            return
        with suppress(Lost):
            await self._fail(error if isinstance(error, CloudError) else EngineUnreachable(self._at.instance_id))
        await self._release(again_in=0)

    async def _fail(self, error: CloudError) -> None:
        """The step that failed may have been done all the same."""
        at = self._at
        after = replace(
            at,
            done=min(at.done + 1, len(at.steps)),
            error_reason=error.reason,
            error=error.message,
            error_metadata=error.metadata,
        )
        await self._become(Phase.FAILED, EventKind.DEPLOYMENT_FAILED, after, error=error.message)

    async def _become(self, phase: Phase, kind: EventKind, after: Deployment | None = None, **details: str) -> None:
        now, before = self._parts.clock(), self._at
        after = replace(after or before, phase=phase, updated_at=now, revision=before.revision + 1)
        async with self._parts.database.write(before.org_id) as tx:
            await self._record(tx, after)
            await tx.events.append([deployment_event(after, kind, now, **details)])
            await tx.commit()
        log.info("deployment.phase", deployment_id=before.id, phase=phase, error=after.error)

    async def _record(self, tx: UnitOfWork, after: Deployment) -> None:
        """Writes down what has been done, and forgets the secrets that no later step needs. Raises Lost."""
        lease_until = await tx.now(self._parts.clock()) + LEASE
        done = await tx.deployments.record(
            self._at, self._parts.owner, after, lease_until, forget=tuple(_unneeded(after))
        )
        if not done:
            raise Lost
        self._at, self._attempts = after, 0

    async def _place(self) -> EnginePlace:
        """The engine, where it runs. Raises Lost where it is gone, and EngineUnreachable."""
        place = await self._place_to_undo()
        if place is None:
            raise Lost
        return place

    async def _place_to_undo(self) -> EnginePlace | None:
        """The engine, where it runs. None where it is gone. Raises EngineUnreachable."""
        async with self._parts.database.read() as tx:
            instance = await tx.instances.find(self._at.instance_id)
            keys = None if instance is None else await tx.instances.keys(instance.id)
        if instance is None or keys is None:
            return None
        upstream = upstream_of(instance)
        if instance.phase is not InstancePhase.RUNNING or upstream is None:
            raise EngineUnreachable(instance.id)
        return EnginePlace(
            instance_id=instance.id, upstream=upstream, engine_key=keys.engine_key, tenant_id=instance.org_id
        )

    async def _secrets(self) -> DeploymentSecrets:
        async with self._parts.database.read() as tx:
            found = await tx.deployments.secrets(self._at.id)
        if found is None:
            raise Lost
        return found

    async def _release(self, *, again_in: float | None, attempts: int = 0) -> None:
        async with self._parts.database.write() as tx:
            now = await tx.now(self._parts.clock())
            due_at = None if again_in is None else now + timedelta(seconds=again_in)
            await tx.deployments.release(self._at.id, self._parts.owner, due_at=due_at, attempts=attempts)
            await tx.commit()


def _unneeded(after: Deployment) -> Iterator[str]:
    """The columns of secrets that no step needs which is still to be done."""
    left: Sequence[Step] = after.steps[after.done :] if after.phase is Phase.PROVISIONING else ()
    kinds = {step.kind for step in left}
    if StepKind.CREDENTIAL not in kinds:
        yield "secrets"
    if not kinds & {StepKind.TRIGGER, StepKind.POLICY}:
        yield "trigger_secret"
