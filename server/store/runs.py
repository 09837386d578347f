"""Queries about runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, not_, or_, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.runs import ENDS, RANKS, STATES, Run, RunState, Transition, microseconds, moment
from server.store.dialects import one_of, put
from server.store.tables import InstanceRow, OrganizationRow, RunRow

_COLUMNS = tuple(RunRow.__table__.columns.keys())  # type: ignore[attr-defined]
# What changes while a run goes on: none of it is in an index.
_CHANGING = tuple(name for name in _COLUMNS if name not in ("instance_id", "run_id", "org_id", "started_at"))
_encode = json.JSONEncoder(separators=(",", ":")).encode
_NEWEST_FIRST = (col(RunRow.started_at).desc(), col(RunRow.instance_id).desc(), col(RunRow.run_id).desc())


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a page of runs ended: at the run of this start, instance and id."""

    started_at: datetime
    instance_id: str
    run_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFilter:
    """Which runs are wanted. None: whichever."""

    instance_id: str | None = None
    state: RunState | None = None
    sequence: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRun:
    """A run, and whose it is."""

    instance_id: str
    run: Run
    place: Place


class Runs:
    """The runs' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def load(self, instance_id: str, run_ids: Sequence[str]) -> dict[str, Run]:
        """Those of these runs of an instance that are known. Whoever puts them back needs the instance's turn."""
        query = select(*RunRow.__table__.columns)  # type: ignore[attr-defined]
        query = query.where(col(RunRow.instance_id) == instance_id, one_of(self._session, RunRow.run_id, run_ids))
        return {row.run_id: _run(row) for row in await self._session.exec(query)}

    async def put(self, org_id: str, instance_id: str, runs: Sequence[Run]) -> None:
        """Stores runs of an instance, in place of those that it has of the same ids."""
        if runs:
            rows = [_values(org_id, instance_id, run) for run in sorted(runs, key=lambda one: one.run_id)]
            await put(self._session, RunRow, rows, update=_CHANGING)

    async def page(self, org_id: str, wanted: RunFilter, *, after: Place | None, limit: int) -> list[FoundRun]:
        """Runs of an organization, newest first, from behind a place on."""
        query = select(RunRow).where(col(RunRow.org_id) == org_id, *_conditions(wanted))
        if after is not None:
            here = (after.started_at, after.instance_id, after.run_id)
            columns = tuple_(col(RunRow.started_at), col(RunRow.instance_id), col(RunRow.run_id))
            query = query.where(col(RunRow.started_at) <= after.started_at, columns < here)
        rows = await self._session.exec(query.order_by(*_NEWEST_FIRST).limit(limit))
        return [_found(row) for row in rows]

    async def get(self, org_id: str, run_id: str, instance_id: str | None) -> FoundRun | None:
        """The run of this id; of several that an organization's instances have, the newest."""
        own = select(InstanceRow.id).where(col(InstanceRow.org_id) == org_id)
        query = select(RunRow).where(col(RunRow.run_id) == run_id, col(RunRow.instance_id).in_(own))
        if instance_id is not None:
            query = query.where(col(RunRow.instance_id) == instance_id)
        row = (await self._session.exec(query.order_by(*_NEWEST_FIRST).limit(1))).first()
        return None if row is None else _found(row)

    async def overdue(self, plan: str, *, ended: datetime | None, open_: datetime) -> list[str]:
        """The organizations with this plan that have runs to forget."""
        old = select(RunRow.run_id).where(col(RunRow.org_id) == col(OrganizationRow.id), *_over(ended, open_))
        query = select(OrganizationRow.id).where(col(OrganizationRow.plan) == plan, old.exists())
        return list(await self._session.exec(query))

    async def forget(self, org_id: str, *, ended: datetime | None, open_: datetime, limit: int) -> int:
        """Drops at most so many runs of an organization: that ended before `ended`, or do not end, since `open_`.

        None: those that have ended stay.
        """
        found = select(RunRow.instance_id, RunRow.run_id).where(col(RunRow.org_id) == org_id, *_over(ended, open_))
        key = tuple_(col(RunRow.instance_id), col(RunRow.run_id))
        done = await self._session.exec(delete(RunRow).where(key.in_(found.limit(limit))))
        return done.rowcount


def _over(ended: datetime | None, open_: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    updated, has_ended = col(RunRow.updated_at), col(RunRow.state).in_(ENDS)
    over = and_(not_(has_ended), updated <= open_)
    if ended is not None:
        over = or_(and_(has_ended, updated <= ended), over)
    # The start was before that, and has an index.
    return col(RunRow.started_at) <= (open_ if ended is None else max(ended, open_)), over


def _conditions(wanted: RunFilter) -> list[Any]:
    found: list[Any] = []
    if wanted.instance_id is not None:
        found.append(col(RunRow.instance_id) == wanted.instance_id)
    if wanted.state is not None:
        found.append(col(RunRow.state) == wanted.state)
    if wanted.sequence is not None:
        found.append(col(RunRow.sequence) == wanted.sequence)
    if wanted.since is not None:
        found.append(col(RunRow.started_at) >= wanted.since)
    return found


def _found(row: RunRow) -> FoundRun:
    place = Place(started_at=row.started_at, instance_id=row.instance_id, run_id=row.run_id)
    return FoundRun(instance_id=row.instance_id, run=_run(row), place=place)


def _run(row: Any) -> Run:
    transitions = [Transition(at, RANKS[state], step_id) for at, state, step_id in json.loads(row.transitions)]
    rank = RANKS[row.state]
    at = row.updated_at if row.ended_at is None else row.ended_at
    return Run(
        run_id=row.run_id,
        last=Transition(microseconds(at), rank, row.step_id),
        transitions=transitions,
        counted_at=microseconds(row.started_at),
        cut=row.cut,
        sequence=row.sequence,
        sequence_version=row.sequence_version,
        duration_ms=row.duration_ms,
        error_kind=row.error_kind,
        sub_tenant=row.sub_tenant,
    )


def _values(org_id: str, instance_id: str, run: Run) -> tuple[Any, ...]:
    """In the order of the table's columns."""
    transitions = [(at, STATES[rank], step_id) for at, rank, step_id in run.transitions]
    return (
        instance_id,
        run.run_id,
        org_id,
        run.sequence,
        run.sequence_version,
        run.state,
        moment(run.transitions[0].at if run.counted_at is None else run.counted_at),
        run.updated_at,
        run.ended_at,
        run.last.step_id,
        run.duration_ms,
        run.error_kind,
        run.sub_tenant,
        _encode(transitions),
        run.cut,
    )
