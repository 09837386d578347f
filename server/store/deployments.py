"""Queries about deployments: what the API asks, and what the deployer claims."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.deployments import Deployment, Phase
from server.domain.instances import Phase as InstancePhase
from server.store.sealing import Sealer
from server.store.tables import DeploymentRow, InstanceRow

SUSPENDED = (InstancePhase.SUSPENDING, InstancePhase.SUSPENDED)
LASTING = (Phase.PROVISIONING, Phase.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentSecrets:
    """What a deployment brings to its engine: the values of its secrets, by name, and the secret of its trigger."""

    values: Mapping[str, str]
    trigger: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentClaim:
    """A deployment that is due, leased to one worker."""

    deployment: Deployment
    attempts: int


class Deployments:
    """The deployments' repository. It seals and opens their secrets."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def of_org(self, org_id: str) -> list[Deployment]:
        """The organization's deployments that are not deleted, newest first."""
        query = _shown().where(col(DeploymentRow.org_id) == org_id)
        query = query.order_by(col(DeploymentRow.created_at).desc(), col(DeploymentRow.id).desc())
        return [_deployment(row, phase) for row, phase in await self._session.exec(query)]

    async def get(self, org_id: str, deployment_id: str, *, lock: bool = False) -> Deployment | None:
        """One deployment of the organization that is not deleted. `lock`: nobody else changes it meanwhile."""
        query = _shown().where(col(DeploymentRow.org_id) == org_id, col(DeploymentRow.id) == deployment_id)
        query = query.with_for_update(of=DeploymentRow) if lock else query
        found = (await self._session.exec(query)).first()
        return None if found is None else _deployment(*found)

    async def find(self, deployment_id: str) -> Deployment | None:
        """The deployment of this id, of whichever organization, a deleted one too."""
        row = await self._session.get(DeploymentRow, deployment_id)
        return None if row is None else _deployment(row)

    async def names(self, org_id: str) -> list[str]:
        """The names of the organization's deployments that are not deleted."""
        query = select(DeploymentRow.name).where(col(DeploymentRow.org_id) == org_id, _live())
        return list(await self._session.exec(query))

    async def others(self, deployment: Deployment) -> list[str]:
        """The names of the other deployments that run on the same instance, or will."""
        query = select(DeploymentRow.name).where(
            col(DeploymentRow.instance_id) == deployment.instance_id,
            col(DeploymentRow.id) != deployment.id,
            col(DeploymentRow.phase).in_(LASTING),
        )
        return list(await self._session.exec(query.order_by(col(DeploymentRow.name))))

    async def add(self, deployment: Deployment, secrets: DeploymentSecrets, due_at: datetime) -> None:
        """Stores a new deployment, due for the deployer."""
        values = _columns(deployment)
        values["secrets"] = self._sealer.seal(json.dumps(dict(secrets.values)), _place(deployment.id, "secrets"))
        values["trigger_secret"] = self._sealer.seal(secrets.trigger, _place(deployment.id, "trigger_secret"))
        self._session.add(DeploymentRow(**values, due_at=due_at))
        await self._session.flush()

    async def secrets(self, deployment_id: str) -> DeploymentSecrets | None:
        """What is left of the secrets of a deployment. None where there is no such deployment."""
        row = await self._session.get(DeploymentRow, deployment_id)
        if row is None:
            return None
        values = self._open(row.secrets, _place(row.id, "secrets"))
        return DeploymentSecrets(
            values=json.loads(values) if values else {},
            trigger=self._open(row.trigger_secret, _place(row.id, "trigger_secret")),
        )

    async def claim_due(self, owner: str, now: datetime, lease: timedelta, limit: int) -> list[DeploymentClaim]:
        """Leases the deployments that are due and that nobody is at, oldest first."""
        query = select(DeploymentRow).where(col(DeploymentRow.due_at) <= now, _free(now))
        query = query.order_by(col(DeploymentRow.due_at)).limit(limit).with_for_update(skip_locked=True)
        rows = list(await self._session.exec(query))
        for row in rows:
            row.lease_owner, row.lease_until = owner, now + lease
        await self._session.flush()
        return [DeploymentClaim(deployment=_deployment(row), attempts=row.attempts) for row in rows]

    async def next_due(self, now: datetime) -> datetime | None:
        """When the next deployment is due that nobody is at."""
        found = await self._session.exec(select(func.min(DeploymentRow.due_at)).where(_free(now)))
        return found.one()

    async def record(
        self, before: Deployment, owner: str, after: Deployment, lease_until: datetime, forget: Collection[str] = ()
    ) -> bool:
        """Writes down what a step led to, and gives the next one its time. `forget`: secrets not needed any more.

        False, and nothing written, where the lease was lost or somebody else wants something else by now.
        """
        mine = (
            col(DeploymentRow.id) == before.id,
            col(DeploymentRow.lease_owner) == owner,
            col(DeploymentRow.phase) == before.phase,
        )
        values = {**_progress(after), "lease_until": lease_until, "attempts": 0, **dict.fromkeys(forget)}
        done = await self._session.exec(update(DeploymentRow).where(*mine).values(**values))
        return bool(done.rowcount)

    async def release(self, deployment_id: str, owner: str, *, due_at: datetime | None, attempts: int) -> None:
        """Lets go of a claimed deployment, until it is due again."""
        await self._session.exec(
            update(DeploymentRow)
            .where(col(DeploymentRow.id) == deployment_id, col(DeploymentRow.lease_owner) == owner)
            .values(lease_owner=None, lease_until=None, due_at=due_at, attempts=attempts)
        )

    async def hide(self, deployment_id: str, now: datetime, due_at: datetime) -> None:
        """Makes a failed deployment one that nobody finds: what it left is undone all the same."""
        await self._session.exec(
            update(DeploymentRow)
            .where(col(DeploymentRow.id) == deployment_id)
            .values(phase=Phase.DELETED, due_at=due_at, updated_at=now, revision=col(DeploymentRow.revision) + 1)
        )

    async def remove(self, deployment_id: str) -> None:
        """Forgets a deployment of which nothing is left."""
        await self._session.exec(delete(DeploymentRow).where(col(DeploymentRow.id) == deployment_id))

    async def end_all(self, instance_id: str) -> list[Deployment]:
        """Forgets all deployments of an instance that is deleted. Answers with those that were not deleted before."""
        query = select(DeploymentRow).where(col(DeploymentRow.instance_id) == instance_id)
        found = [_deployment(row) for row in await self._session.exec(query)]
        await self._session.exec(delete(DeploymentRow).where(col(DeploymentRow.instance_id) == instance_id))
        return [one for one in found if one.phase is not Phase.DELETED]

    async def wake_all(self, now: datetime) -> None:
        """Takes back all leases, at the start of a lone server: nobody has them."""
        held = col(DeploymentRow.lease_owner).is_not(None)
        query = update(DeploymentRow).where(held).values(lease_owner=None, lease_until=None, due_at=now)
        await self._session.exec(query)

    def _open(self, sealed: bytes | None, place: str) -> str:
        return "" if sealed is None else self._sealer.open(sealed, place)


def _shown() -> Any:
    join = col(InstanceRow.id) == col(DeploymentRow.instance_id)
    return select(DeploymentRow, InstanceRow.phase).join(InstanceRow, join).where(_live())


def _live() -> ColumnElement[bool]:
    return col(DeploymentRow.phase) != Phase.DELETED


def _free(now: datetime) -> ColumnElement[bool]:
    return or_(col(DeploymentRow.lease_until).is_(None), col(DeploymentRow.lease_until) < now)


def _place(deployment_id: str, column: str) -> str:
    return f"deployments/{deployment_id}/{column}"


def _progress(deployment: Deployment) -> dict[str, Any]:
    """The columns that steps change."""
    metadata = deployment.error_metadata
    return {
        "phase": deployment.phase,
        "done": deployment.done,
        "error_reason": deployment.error_reason,
        "error": deployment.error,
        "error_metadata": None if metadata is None else dict(metadata),
        "updated_at": deployment.updated_at,
        "revision": deployment.revision,
    }


def _columns(deployment: Deployment) -> dict[str, Any]:
    return {
        **_progress(deployment),
        "id": deployment.id,
        "org_id": deployment.org_id,
        "instance_id": deployment.instance_id,
        "template_id": deployment.template_id,
        "name": deployment.name,
        "slug": deployment.slug,
        "policy_id": deployment.policy_id,
        "config": dict(deployment.config),
        "credentials": dict(deployment.credentials),
        "sequence": dict(deployment.sequence),
        "schedule": None if deployment.schedule is None else dict(deployment.schedule),
        "created_at": deployment.created_at,
    }


def _deployment(row: DeploymentRow, instance_phase: str = "") -> Deployment:
    return Deployment(
        id=row.id,
        org_id=row.org_id,
        instance_id=row.instance_id,
        template_id=row.template_id,
        name=row.name,
        phase=Phase(row.phase),
        slug=row.slug,
        policy_id=row.policy_id,
        config=row.config,
        credentials=row.credentials,
        sequence=row.sequence,
        schedule=row.schedule,
        created_at=row.created_at,
        updated_at=row.updated_at,
        done=row.done,
        error_reason=row.error_reason,
        error=row.error,
        error_metadata=row.error_metadata,
        revision=row.revision,
        suspended=instance_phase in SUSPENDED,
    )
