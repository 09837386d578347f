"""Queries about how many requests were decided alike, minute by minute."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, tuple_
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.dialects import insert
from server.store.tables import TrafficRow

_ALIKE = tuple(map(col, (TrafficRow.instance_id, TrafficRow.key_id, TrafficRow.policy_id, TrafficRow.status)))
_KEY = (col(TrafficRow.minute), *_ALIKE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Requests of one minute that were decided alike. No key or policy: none was accepted."""

    minute: datetime
    instance_id: str
    key_id: str | None
    policy_id: str | None
    status: int
    requests: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """Requests that were decided alike, over some time."""

    instance_id: str
    key_id: str | None
    policy_id: str | None
    status: int
    requests: int


def _order(one: Bucket) -> tuple[datetime, str, str, str, int]:
    return one.minute, one.instance_id, one.key_id or "", one.policy_id or "", one.status


class Traffic:
    """The counts' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, buckets: Sequence[Bucket]) -> None:
        """Adds requests to those that are known."""
        rows = [
            {
                "minute": one.minute,
                "instance_id": one.instance_id,
                "key_id": one.key_id or "",
                "policy_id": one.policy_id or "",
                "status": one.status,
                "requests": one.requests,
            }
            # In one order: two reports that add to the same rows must not wait for each other in a circle.
            for one in sorted(buckets, key=_order)
        ]
        if not rows:
            return
        inserting = insert(self._session, TrafficRow)
        more = col(TrafficRow.requests) + inserting.excluded.requests
        adding = inserting.on_conflict_do_update(index_elements=list(_KEY), set_={"requests": more})
        await self._session.exec(adding, params=rows)

    async def totals(self, instance_ids: Sequence[str], since: datetime) -> list[Total]:
        """The requests to these instances from this minute on, by instance, key, policy and status."""
        # sqlmodel has types for four columns at most.
        query: Any = (
            select(*_ALIKE, func.sum(TrafficRow.requests))
            .where(col(TrafficRow.instance_id).in_(instance_ids), col(TrafficRow.minute) >= since)
            .group_by(*_ALIKE)
            .order_by(*_ALIKE)
        )
        return [
            Total(
                instance_id=instance_id,
                key_id=key_id or None,
                policy_id=policy_id or None,
                status=status,
                requests=int(requests),
            )
            for instance_id, key_id, policy_id, status, requests in await self._session.exec(query)
        ]

    async def forget(self, before: datetime, limit: int) -> int:
        """Drops at most so many counts of minutes that are older than this. Says how many."""
        old = select(*_KEY).where(col(TrafficRow.minute) < before).limit(limit)
        done = await self._session.exec(delete(TrafficRow).where(tuple_(*_KEY).in_(old)))
        return done.rowcount
