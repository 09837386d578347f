"""Queries about records of decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.dialects import insert
from server.store.tables import DecisionRow


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRecord:
    """A record as it is stored: whose it is, when it was decided, and the message that the API answers."""

    id: str
    org_id: str
    instance_id: str
    at: datetime
    record: bytes


class Decisions:
    """The records' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, records: Sequence[DecisionRecord]) -> None:
        """Stores records; one whose id is there already stays as it is."""
        rows = [
            {
                "id": one.id,
                "org_id": one.org_id,
                "instance_id": one.instance_id,
                "at": one.at,
                "size": len(one.record),
                "record": one.record,
            }
            for one in sorted(records, key=lambda one: one.id)
        ]
        if rows:
            await self._session.exec(insert(self._session, DecisionRow).on_conflict_do_nothing(), params=rows)

    async def get(self, org_id: str, decision_id: str, after: datetime) -> DecisionRecord | None:
        """One record of an organization that is younger than this."""
        row = await self._session.get(DecisionRow, decision_id)
        if row is None or row.org_id != org_id or row.at <= after:
            return None
        return DecisionRecord(id=row.id, org_id=row.org_id, instance_id=row.instance_id, at=row.at, record=row.record)

    async def forget(self, before: datetime, limit: int) -> int:
        """Drops at most so many records that are older than this. Says how many."""
        old = select(DecisionRow.id).where(col(DecisionRow.at) <= before).order_by(col(DecisionRow.at)).limit(limit)
        done = await self._session.exec(delete(DecisionRow).where(col(DecisionRow.id).in_(old)))
        return done.rowcount

    async def crowded(self, limit: int) -> list[str]:
        """The organizations whose records take more than so many bytes together."""
        query = select(DecisionRow.org_id).group_by(col(DecisionRow.org_id))
        return list(await self._session.exec(query.having(func.sum(DecisionRow.size) > limit)))

    async def shrink(self, org_id: str, keep: int, limit: int) -> int:
        """Drops at most so many records of an organization, the oldest that do not fit into the bytes to keep."""
        newest_first = (col(DecisionRow.at).desc(), col(DecisionRow.id).desc())
        total = func.sum(DecisionRow.size).over(order_by=newest_first).label("total")
        sizes = select(DecisionRow.id, DecisionRow.at, total).where(col(DecisionRow.org_id) == org_id).subquery()
        oldest = select(sizes.c.id).where(sizes.c.total > keep).order_by(sizes.c.at, sizes.c.id).limit(limit)
        done = await self._session.exec(delete(DecisionRow).where(col(DecisionRow.id).in_(oldest)))
        return done.rowcount
