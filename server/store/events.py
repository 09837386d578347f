"""Queries about what happened."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.events import Event, EventKind
from server.store.tables import EventRow


class Events:
    """The events' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def append(self, events: Sequence[Event]) -> None:
        """Notes what happened, in the transaction that made it so."""
        for event in events:
            self._session.add(
                EventRow(
                    org_id=event.org_id,
                    instance_id=event.instance_id,
                    kind=event.kind,
                    at=event.at,
                    details=dict(event.details),
                )
            )
        await self._session.flush()

    async def of_org(self, org_id: str, *, after: int, limit: int, instance_id: str | None = None) -> list[Event]:
        """The events of an organization, or of one instance of it, behind the one of this number, oldest first."""
        query = select(EventRow).where(col(EventRow.org_id) == org_id, col(EventRow.id) > after)
        if instance_id is not None:
            query = query.where(col(EventRow.instance_id) == instance_id)
        return [_event(row) for row in await self._session.exec(query.order_by(col(EventRow.id)).limit(limit))]

    async def forget(self, before: datetime, limit: int) -> int:
        """Drops at most so many events that are older than this. Says how many."""
        old = select(EventRow.id).where(col(EventRow.at) <= before).order_by(col(EventRow.at)).limit(limit)
        done = await self._session.exec(delete(EventRow).where(col(EventRow.id).in_(old)))
        return done.rowcount

    async def crowded(self, limit: int) -> list[str]:
        """The organizations that have more events than so many."""
        query = select(EventRow.org_id).group_by(col(EventRow.org_id)).having(func.count() > limit)
        return list(await self._session.exec(query))

    async def shrink(self, org_id: str, keep: int, limit: int) -> int:
        """Drops at most so many events of an organization, the oldest beyond those to keep."""
        own = select(EventRow.id).where(col(EventRow.org_id) == org_id)
        last = (await self._session.exec(own.order_by(col(EventRow.id).desc()).offset(keep).limit(1))).first()
        if last is None:
            return 0
        oldest = own.where(col(EventRow.id) <= last).order_by(col(EventRow.id)).limit(limit)
        done = await self._session.exec(delete(EventRow).where(col(EventRow.id).in_(oldest)))
        return done.rowcount


def _event(row: EventRow) -> Event:
    return Event(
        id=row.id,
        org_id=row.org_id,
        instance_id=row.instance_id,
        kind=EventKind(row.kind),
        at=row.at,
        details=row.details,
    )
