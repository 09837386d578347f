"""Queries about what happened.

Whoever sees an event sees every one before it that there will ever be: events are numbered last of all in a
transaction, and who has numbered some commits before the next one numbers. A sequence alone numbers in one order, and
transactions commit in another. As nothing else is waited for behind that turn, it locks nobody out, wherever append()
was called.

Changes of runs come by the hundred. Those that follow each other in one transaction are one row, so that they cost a
fraction of a row each; a part of the row's number tells them apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import case, delete, func, insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.events import BEGINNING, Cursor, Event
from server.store import dialects
from server.store.dialects import Signal, Turn, take_turn
from server.store.tables import EventFloorRow, EventRow

RUNS = "run."
# The kind of a row that holds many, and how many at most.
PACK = "runs"
PACK_SIZE = 100
EVERYBODY = ""


class Missed(NamedTuple):
    """The events behind a cursor, row by row, and the last row that was dropped, before the cursor or behind it."""

    rows: list[list[Event]]
    floor: int


class Events:
    """The events' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._appended: list[Event] = []

    async def append(self, events: Iterable[Event]) -> None:
        """Notes what happened, in the transaction that makes it so. They are written, in one step, when it commits."""
        self._appended += events

    async def write(self) -> bool:
        """Numbers and writes what was appended: the last thing before the commit. Says whether there was anything."""
        if not self._appended:
            return False
        await self._session.flush()
        await take_turn(self._session, Turn.EVENTS, tell=Signal.EVENTS)
        await self._session.exec(insert(EventRow), params=list(_packed(self._appended)))
        self._appended = []
        return True

    async def latest(self) -> int:
        """The row of the last event there was; 0 before the first."""
        last = (await self._session.exec(select(func.max(EventRow.id)))).one() or 0
        return max(last, await self._floor(EVERYBODY))

    async def after(self, row: int, org_ids: Sequence[str] | None, limit: int) -> list[list[Event]]:
        """The rows behind this one, of these organizations or (None) of all, oldest first."""
        query = select(EventRow).where(col(EventRow.id) > row)
        if org_ids is not None:
            query = query.where(col(EventRow.org_id).in_(org_ids))
        return await self._rows(query.order_by(col(EventRow.id)).limit(limit))

    async def missed(self, org_id: str, cursor: Cursor, limit: int, instance_id: str | None = None) -> Missed:
        """What happened in an organization, or to one instance of it, behind the cursor: so many rows, oldest first."""
        query = select(EventRow).where(col(EventRow.org_id) == org_id, col(EventRow.id) >= cursor.row)
        if instance_id is not None:
            query = query.where(col(EventRow.instance_id) == instance_id)
        # The row at the cursor may hold more parts.
        found = await self._rows(query.order_by(col(EventRow.id)).limit(limit + 1))
        rows = [[one for one in row if one.cursor is not None and one.cursor > cursor] for row in found]
        return Missed([row for row in rows if row][:limit], floor=await self._floor(org_id))

    async def of_org(
        self, org_id: str, *, after: Cursor = BEGINNING, limit: int, instance_id: str | None = None
    ) -> list[Event]:
        """The events of so many rows of an organization, or of one instance of it, behind the cursor, oldest first."""
        found = await self.missed(org_id, after, limit, instance_id)
        return [one for row in found.rows for one in row]

    async def _rows(self, query: Any) -> list[list[Event]]:
        return [list(_events(row)) for row in await self._session.exec(query)]

    async def _floor(self, org_id: str) -> int:
        query = select(EventFloorRow.floor).where(col(EventFloorRow.org_id) == org_id)
        return (await self._session.exec(query)).first() or 0

    async def forget(self, before: datetime, limit: int, *, runs: bool = False) -> int:
        """Drops at most so many rows that are older than this; `runs`: only of those with changes of runs."""
        old = select(EventRow.id).where(col(EventRow.at) <= before)
        if runs:
            old = old.where(_of_runs())
        return await self._drop(old.order_by(col(EventRow.at)).limit(limit))

    async def crowded(self, limit: int, *, runs: bool) -> list[str]:
        """The organizations that have more rows than so many: of changes of runs, or of all others."""
        counted = _of_runs() if runs else ~_of_runs()
        query = select(EventRow.org_id).where(counted).group_by(col(EventRow.org_id)).having(func.count() > limit)
        return list(await self._session.exec(query))

    async def shrink(self, org_id: str, keep: int, limit: int, *, runs: bool) -> int:
        """Drops at most so many rows of an organization, the oldest beyond those to keep. See crowded()."""
        own = select(EventRow.id).where(col(EventRow.org_id) == org_id, _of_runs() if runs else ~_of_runs())
        last = (await self._session.exec(own.order_by(col(EventRow.id).desc()).offset(keep).limit(1))).first()
        if last is None:
            return 0
        return await self._drop(own.where(col(EventRow.id) <= last).order_by(col(EventRow.id)).limit(limit))

    async def _drop(self, which: Any) -> int:
        query = delete(EventRow).where(col(EventRow.id).in_(which)).returning(col(EventRow.org_id), col(EventRow.id))
        result: Any = await self._session.exec(query)
        dropped = result.all()
        floors: dict[str, int] = {}
        for org_id, number in dropped:
            for whose in (org_id, EVERYBODY):
                floors[whose] = max(number, floors.get(whose, 0))
        if floors:
            await self._raise(floors)
        return len(dropped)

    async def _raise(self, floors: dict[str, int]) -> None:
        adding = dialects.insert(self._session, EventFloorRow)
        was, new = col(EventFloorRow.floor), adding.excluded.floor
        adding = adding.on_conflict_do_update(
            index_elements=["org_id"], set_={"floor": case((was < new, new), else_=was)}
        )
        await self._session.exec(adding, params=[{"org_id": one, "floor": floor} for one, floor in floors.items()])


def _of_runs() -> Any:
    return col(EventRow.kind).startswith("run")


def _packed(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """The rows of events: changes of an instance's runs that follow each other share rows."""
    for (_, _, runs), group in groupby(events, key=_together):
        alike = list(group)
        step = PACK_SIZE if runs else 1
        for first in range(0, len(alike), step):
            part = alike[first : first + step]
            yield _row(part[0]) if len(part) == 1 else _pack(part)


def _together(event: Event) -> tuple[str, str | None, bool]:
    return event.org_id, event.instance_id, event.kind.startswith(RUNS)


def _row(event: Event) -> dict[str, Any]:
    return {
        "org_id": event.org_id,
        "instance_id": event.instance_id,
        "deployment_id": event.deployment_id,
        "policy_id": event.policy_id,
        "run_id": event.run_id,
        "kind": str(event.kind),
        "at": event.at,
        "details": dict(event.details),
    }


def _pack(events: Sequence[Event]) -> dict[str, Any]:
    """Many in a row. They are told apart by their place, so nothing may ever be put in between."""
    runs = [[str(one.kind), one.at.isoformat(), one.run_id, one.deployment_id, dict(one.details)] for one in events]
    about = {"deployment_id": None, "run_id": None, "kind": PACK, "at": max(one.at for one in events)}
    return {**_row(events[0]), **about, "details": {"runs": runs}}


def _events(row: EventRow) -> Iterator[Event]:
    assert row.id is not None
    if row.kind == PACK:
        yield from _unpacked(row, row.id)
        return
    yield Event(
        cursor=Cursor(row.id),
        org_id=row.org_id,
        instance_id=row.instance_id,
        deployment_id=row.deployment_id,
        policy_id=row.policy_id,
        run_id=row.run_id,
        kind=row.kind,
        at=row.at,
        details=row.details,
    )


def _unpacked(row: EventRow, row_id: int) -> Iterator[Event]:
    runs = row.details["runs"]
    for number, (kind, at, run_id, deployment_id, details) in enumerate(runs, start=1):
        yield Event(
            cursor=Cursor(row_id) if number == len(runs) else Cursor(row_id, number),
            org_id=row.org_id,
            instance_id=row.instance_id,
            deployment_id=deployment_id,
            run_id=run_id,
            kind=kind,
            at=datetime.fromisoformat(at),
            details=details,
        )
