"""Queries about the log of changes that the proxies follow."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.dialects import Signal, Turn, take_turn
from server.store.tables import ChangeRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change: its version, and the instance or the key (by SHA-256) that is not as it was."""

    version: int
    instance_id: str | None = None
    key_sha256: bytes | None = None


class Changes:
    """The change log's repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def append(self, now: datetime, *, instance_id: str | None = None, key_sha256: bytes | None = None) -> Change:
        """Notes a change in this transaction and gives it the next version. The last thing that a transaction does.

        Whoever sees a version sees every lower one that there will ever be: who has numbered a change commits before
        the next one numbers. A sequence alone numbers in one order, and transactions commit in another.
        """
        await self._session.flush()
        await take_turn(self._session, Turn.CHANGES, tell=Signal.CHANGES)
        row = ChangeRow(instance_id=instance_id, key_sha256=key_sha256, created_at=now)
        self._session.add(row)
        await self._session.flush()
        return _change(row)

    async def latest(self) -> int:
        """The version of the last change; 0 before the first."""
        found = await self._session.exec(select(func.max(ChangeRow.id)))
        return found.one() or 0

    async def after(self, version: int, limit: int) -> list[Change]:
        """The changes after a version, oldest first."""
        query = select(ChangeRow).where(col(ChangeRow.id) > version).order_by(col(ChangeRow.id)).limit(limit)
        return [_change(row) for row in await self._session.exec(query)]

    async def since(self, version: int, limit: int) -> list[Change] | None:
        """The changes after a version, oldest first; None where they are not all kept, or too many."""
        query = select(ChangeRow).where(col(ChangeRow.id) >= version).order_by(col(ChangeRow.id)).limit(limit + 1)
        rows = list(await self._session.exec(query))
        if version <= 0 or not rows or rows[0].id != version or len(rows) > limit:
            return None
        return [_change(row) for row in rows[1:]]

    async def forget(self, before: datetime) -> None:
        """Drops changes that are older than this, except the latest, which carries the version."""
        old = col(ChangeRow.created_at) < before
        await self._session.exec(delete(ChangeRow).where(old, col(ChangeRow.id) < await self.latest()))


def _change(row: ChangeRow) -> Change:
    assert row.id is not None
    return Change(version=row.id, instance_id=row.instance_id, key_sha256=row.key_sha256)
