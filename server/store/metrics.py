"""Queries about the minutes of instances: how many requests there were, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, func, text, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.answers import Answers
from server.store.dialects import insert, minute_of
from server.store.tables import InstanceMinuteRow, RunRow

_KEY = (col(InstanceMinuteRow.instance_id), col(InstanceMinuteRow.minute))
_NOTHING = {"allowed": 0, "denied": 0, "kinds": {}, "latency": {}}


@dataclass(kw_only=True, slots=True)
class Minute:
    """One minute of an instance: requests that were let in and refused, and answers that have ended."""

    instance_id: str
    at: datetime
    allowed: int = 0
    denied: int = 0
    answers: Answers = field(default_factory=Answers)

    @property
    def key(self) -> tuple[str, datetime]:
        """Which one it is."""
        return self.instance_id, self.at


class Metrics:
    """The minutes' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, minutes: Sequence[Minute]) -> None:
        """Adds to what is known of these minutes, each of which comes once.

        SQL cannot add histograms on either database, so they are read, under a lock, and written. Rows are made first:
        else two that make the same one would lose what the first has counted.
        """
        # In one order: two reports that add to the same rows must not wait for each other in a circle.
        ordered = sorted(minutes, key=lambda one: one.key)
        if not ordered:
            return
        empty = [{"instance_id": id_, "minute": at, **_NOTHING} for id_, at in (one.key for one in ordered)]
        await self._session.exec(insert(self._session, InstanceMinuteRow).on_conflict_do_nothing(), params=empty)
        rows = await self._locked(ordered)
        for one in ordered:
            _count(rows[one.key], one)
        await self._session.flush()

    async def _locked(self, minutes: Sequence[Minute]) -> dict[tuple[str, datetime], InstanceMinuteRow]:
        query = select(InstanceMinuteRow).where(tuple_(*_KEY).in_([one.key for one in minutes]))
        found = await self._session.exec(query.order_by(*_KEY).with_for_update())
        return {(row.instance_id, row.minute): row for row in found}

    async def of_instance(self, instance_id: str, since: datetime, until: datetime) -> list[Minute]:
        """The minutes of an instance of which anything is known, from one on and before another, oldest first."""
        query = select(InstanceMinuteRow).where(
            col(InstanceMinuteRow.instance_id) == instance_id,
            col(InstanceMinuteRow.minute) >= since,
            col(InstanceMinuteRow.minute) < until,
        )
        return [_minute(row) for row in await self._session.exec(query.order_by(col(InstanceMinuteRow.minute)))]

    async def runs_started(self, instance_id: str, since: datetime, until: datetime) -> list[tuple[datetime, str, int]]:
        """How many runs of an instance started in each minute, by the state that they are in now."""
        minute, state = minute_of(self._session, col(RunRow.started_at)), col(RunRow.state)
        query = select(minute, state, func.count()).where(
            col(RunRow.instance_id) == instance_id, col(RunRow.started_at) >= since, col(RunRow.started_at) < until
        )
        # By their place: Postgres does not see that an expression with parameters is the same as before.
        return list(await self._session.exec(query.group_by(text("1"), text("2"))))

    async def forget(self, before: datetime, limit: int) -> int:
        """Drops at most so many minutes that are older than this. Says how many."""
        old = select(*_KEY).where(col(InstanceMinuteRow.minute) < before).limit(limit)
        done = await self._session.exec(delete(InstanceMinuteRow).where(tuple_(*_KEY).in_(old)))
        return done.rowcount


def _count(row: InstanceMinuteRow, more: Minute) -> None:
    answers = _answers(row)
    answers.add(more.answers)
    row.allowed += more.allowed
    row.denied += more.denied
    row.kinds = dict(answers.kinds)
    row.latency = {str(bucket): count for bucket, count in sorted(answers.latency.items())}


def _answers(row: InstanceMinuteRow) -> Answers:
    found = Answers()
    found.kinds.update(row.kinds)
    found.latency.update({int(bucket): count for bucket, count in row.latency.items()})
    return found


def _minute(row: InstanceMinuteRow) -> Minute:
    return Minute(
        instance_id=row.instance_id, at=row.minute, allowed=row.allowed, denied=row.denied, answers=_answers(row)
    )
