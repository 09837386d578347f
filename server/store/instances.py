"""Queries about instances: what the API asks, and what the reconciler claims."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.instances import COUNTED, Desired, Instance, Phase, Region
from server.domain.keys import digest
from server.domain.restarts import Restarts
from server.store.sealing import Sealer
from server.store.tables import InstanceRow
from server.store.types import UtcDateTime


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKeys:
    """The secrets of one engine. `ingest_key` is what it reports its runs with; None: it has none yet."""

    engine_key: str
    encryption_key: str
    ingest_key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reporter:
    """Whose engine has an ingest key, and how far that instance is."""

    instance_id: str
    org_id: str
    phase: Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """An instance that is due, leased to one worker."""

    instance: Instance
    attempts: int
    deadline_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """What is due and nobody is at: how much, since when, and how many instances there are in each phase."""

    due: int
    oldest: datetime | None
    phases: dict[str, int]


class Instances:
    """The instances' repository. It seals and opens the engines' keys."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def of_org(self, org_id: str) -> list[Instance]:
        """The organization's instances that are not deleted, newest first."""
        query = select(InstanceRow).where(col(InstanceRow.org_id) == org_id, _live())
        found = await self._session.exec(query.order_by(col(InstanceRow.created_at).desc(), col(InstanceRow.id).desc()))
        return [_instance(row) for row in found]

    async def get(self, org_id: str, instance_id: str, *, lock: bool = False) -> Instance | None:
        """One instance of the organization that is not deleted. `lock`: nobody else changes it in this transaction."""
        found = await self.find(instance_id, lock=lock)
        return found if found and found.org_id == org_id else None

    async def find(self, instance_id: str, *, lock: bool = False) -> Instance | None:
        """The instance of this id, of whichever organization, that is not deleted."""
        row = await self._session.get(InstanceRow, instance_id, with_for_update=lock)
        return _instance(row) if row and row.desired != Desired.DELETED else None

    async def revisions(self, instance_ids: Collection[str]) -> dict[str, tuple[int, Desired]]:
        """The revision of each of these instances, and what is wanted of it."""
        columns = select(InstanceRow.id, InstanceRow.revision, InstanceRow.desired)
        found = await self._session.exec(columns.where(col(InstanceRow.id).in_(instance_ids)))
        return {instance_id: (revision, Desired(desired)) for instance_id, revision, desired in found}

    async def phases(self, instance_ids: Collection[str]) -> dict[str, Phase]:
        """The phase of each of these instances that there is, or was."""
        query = select(InstanceRow.id, InstanceRow.phase).where(col(InstanceRow.id).in_(instance_ids))
        return {instance_id: Phase(phase) for instance_id, phase in await self._session.exec(query)}

    async def running(self) -> list[str]:
        """The instances, of all organizations, whose engine should be there and was."""
        query = select(InstanceRow.id).where(col(InstanceRow.phase) == Phase.RUNNING, _live())
        return list(await self._session.exec(query))

    async def orgs(self, instance_ids: Collection[str]) -> dict[str, str]:
        """The organization of each of these instances that there is, or was."""
        query = select(InstanceRow.id, InstanceRow.org_id).where(col(InstanceRow.id).in_(instance_ids))
        return dict((await self._session.exec(query)).all())

    async def name_taken(self, org_id: str, name: str) -> bool:
        """Whether an instance of the organization that is not deleted has this name."""
        query = select(InstanceRow.id).where(col(InstanceRow.org_id) == org_id, col(InstanceRow.name) == name, _live())
        return (await self._session.exec(query)).first() is not None

    async def count_running(self, org_id: str) -> int:
        """How many instances count against the plan."""
        query = select(func.count()).where(
            col(InstanceRow.org_id) == org_id, _live(), col(InstanceRow.phase).in_(COUNTED)
        )
        return (await self._session.exec(query)).one()

    async def add(self, instance: Instance, keys: EngineKeys, *, due_at: datetime, deadline_at: datetime) -> None:
        """Stores a new instance, due for the reconciler."""
        self._session.add(
            InstanceRow(
                id=instance.id,
                org_id=instance.org_id,
                name=instance.name,
                region=instance.region,
                desired=instance.desired,
                phase=instance.phase,
                engine_key=self._sealer.seal(keys.engine_key, _place(instance.id, "engine_key")),
                encryption_key=self._sealer.seal(keys.encryption_key, _place(instance.id, "encryption_key")),
                **self._ingest_columns(instance.id, keys.ingest_key),
                upstream_headers={},
                created_at=instance.created_at,
                updated_at=instance.updated_at,
                due_at=due_at,
                deadline_at=deadline_at,
            )
        )
        await self._session.flush()

    async def want(
        self, instance_id: str, desired: Desired, phase: Phase, now: datetime, deadline_at: datetime
    ) -> None:
        """Notes what is wanted now, and makes the instance due. Where its engine was, and its error, is forgotten."""
        await self._session.exec(
            update(InstanceRow)
            .where(col(InstanceRow.id) == instance_id)
            .values(
                desired=desired,
                phase=phase,
                host=None,
                port=None,
                error=None,
                updated_at=now,
                due_at=now,
                attempts=0,
                deadline_at=deadline_at,
                revision=col(InstanceRow.revision) + 1,
                **_restart_columns(Restarts()),
            )
        )

    async def keys(self, instance_id: str) -> EngineKeys:
        """The secrets of an instance that exists."""
        row = await self._session.get_one(InstanceRow, instance_id)
        return EngineKeys(
            engine_key=self._sealer.open(row.engine_key, _place(row.id, "engine_key")),
            encryption_key=self._sealer.open(row.encryption_key, _place(row.id, "encryption_key")),
            ingest_key=None
            if row.ingest_key is None
            else self._sealer.open(row.ingest_key, _place(row.id, "ingest_key")),
        )

    async def give_ingest_key(self, instance_id: str, key: str) -> None:
        """Gives an instance its ingest key. One that it has already stays."""
        await self._session.exec(
            update(InstanceRow)
            .where(col(InstanceRow.id) == instance_id, col(InstanceRow.ingest_sha256).is_(None))
            .values(**self._ingest_columns(instance_id, key))
        )

    async def by_ingest_key(self, sha256: bytes) -> Reporter | None:
        """The instance that has this ingest key, deleted ones too."""
        columns = select(InstanceRow.id, InstanceRow.org_id, InstanceRow.phase)
        found = (await self._session.exec(columns.where(col(InstanceRow.ingest_sha256) == sha256))).first()
        return None if found is None else Reporter(instance_id=found[0], org_id=found[1], phase=Phase(found[2]))

    def _ingest_columns(self, instance_id: str, key: str | None) -> dict[str, Any]:
        if key is None:
            return {}
        return {"ingest_key": self._sealer.seal(key, _place(instance_id, "ingest_key")), "ingest_sha256": digest(key)}

    async def claim_due(self, owner: str, now: datetime, lease: timedelta, limit: int) -> list[Claim]:
        """Leases the instances that are due and that nobody is at, oldest first."""
        query = select(InstanceRow).where(col(InstanceRow.due_at) <= now, _free(now))
        query = query.order_by(col(InstanceRow.due_at)).limit(limit).with_for_update(skip_locked=True)
        rows = list(await self._session.exec(query))
        for row in rows:
            row.lease_owner, row.lease_until = owner, now + lease
        await self._session.flush()
        return [Claim(instance=_instance(row), attempts=row.attempts, deadline_at=row.deadline_at) for row in rows]

    async def revision(self, instance_id: str) -> int:
        """The revision of an instance that exists, deleted ones too, and no other until this transaction ends."""
        query = select(InstanceRow.revision).where(col(InstanceRow.id) == instance_id).with_for_update()
        return (await self._session.exec(query)).one()

    async def next_due(self, now: datetime) -> datetime | None:
        """When the next instance is due that nobody is at."""
        found = await self._session.exec(select(func.min(InstanceRow.due_at)).where(_free(now)))
        return found.one()

    async def queue(self, now: datetime) -> Queue:
        """How much waits for the reconciler. Deleted instances are not counted."""
        waiting = select(func.count(), func.min(InstanceRow.due_at)).where(col(InstanceRow.due_at) <= now, _free(now))
        due, oldest = (await self._session.exec(waiting)).one()
        phases = select(InstanceRow.phase, func.count()).where(col(InstanceRow.phase) != Phase.DELETED)
        found = (await self._session.exec(phases.group_by(col(InstanceRow.phase)))).all()
        return Queue(due=due, oldest=oldest, phases={str(Phase(phase)): count for phase, count in found})

    async def record(self, claim: Claim, owner: str, after: Instance) -> Instance | None:
        """Writes down what a claimed step found. None, and nothing written, where the wish has changed meanwhile.

        What the API does not show does not count as a change.
        """
        before = claim.instance
        revision = before.revision + (after.updated_at != before.updated_at)
        unchanged = (
            col(InstanceRow.id) == before.id,
            col(InstanceRow.lease_owner) == owner,
            col(InstanceRow.revision) == before.revision,
        )
        done = await self._session.exec(
            update(InstanceRow)
            .where(*unchanged)
            .values(
                phase=after.phase,
                error=after.error,
                host=after.host,
                port=after.port,
                tls=after.tls,
                upstream_headers=dict(after.upstream_headers),
                updated_at=after.updated_at,
                revision=revision,
                **_restart_columns(after.restarts),
            )
        )
        return replace(after, revision=revision) if done.rowcount else None

    async def release(self, instance_id: str, owner: str, *, due_at: datetime | None, attempts: int) -> None:
        """Lets go of a claimed instance, until it is due again."""
        await self._session.exec(
            update(InstanceRow)
            .where(col(InstanceRow.id) == instance_id, col(InstanceRow.lease_owner) == owner)
            .values(lease_owner=None, lease_until=None, due_at=due_at, attempts=attempts)
        )

    async def wake(self, instance_ids: Collection[str], now: datetime) -> None:
        """Makes these instances due now."""
        await self._session.exec(update(InstanceRow).where(col(InstanceRow.id).in_(instance_ids)).values(due_at=now))

    async def extend(self, instance_id: str, deadline_at: datetime) -> None:
        """Gives a transition more time. A later deadline that was set meanwhile stands."""
        await self._session.exec(
            update(InstanceRow)
            .where(col(InstanceRow.id) == instance_id, col(InstanceRow.deadline_at) < deadline_at)
            .values(deadline_at=deadline_at)
        )

    async def wake_all(self, now: datetime, *, alone: bool) -> None:
        """Makes every instance due, at a server's start. A lone one takes back all leases, too: nobody has them.

        What was due already keeps its place: else what is new would never have its turn where servers start often.
        """
        query = update(InstanceRow).where(col(InstanceRow.phase).not_in((Phase.DELETED, Phase.FAILED)))
        # Its engines may have ended with the server before it: that was not their fault.
        query = query.values(restarts=0, restart_at=None) if alone else query.where(_free(now))
        due_at = case((col(InstanceRow.due_at) < now, col(InstanceRow.due_at)), else_=literal(now, UtcDateTime))
        await self._session.exec(query.values(due_at=due_at, lease_owner=None, lease_until=None))


def _live() -> ColumnElement[bool]:
    return col(InstanceRow.desired) != Desired.DELETED


def _free(now: datetime) -> ColumnElement[bool]:
    return or_(col(InstanceRow.lease_until).is_(None), col(InstanceRow.lease_until) < now)


def _place(instance_id: str, column: str) -> str:
    return f"instances/{instance_id}/{column}"


def _restart_columns(restarts: Restarts) -> dict[str, Any]:
    return {
        "restarts": restarts.count,
        "restarts_since": restarts.since,
        "down_since": restarts.down_since,
        "restart_at": restarts.next_at,
    }


def _instance(row: InstanceRow) -> Instance:
    return Instance(
        id=row.id,
        org_id=row.org_id,
        name=row.name,
        region=Region(row.region),
        desired=Desired(row.desired),
        phase=Phase(row.phase),
        error=row.error,
        host=row.host,
        port=row.port,
        tls=row.tls,
        upstream_headers=row.upstream_headers,
        created_at=row.created_at,
        updated_at=row.updated_at,
        revision=row.revision,
        restarts=Restarts(
            count=row.restarts, since=row.restarts_since, down_since=row.down_since, next_at=row.restart_at
        ),
    )
