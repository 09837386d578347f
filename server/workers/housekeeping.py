"""Throws away what nobody needs any more. Of several servers one does it at a time; the others leave it to that one."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

import structlog

from server.domain.plans import Plans
from server.errors import DatabaseUnavailable
from server.services import decisions, idempotency, metrics
from server.services.identifiers import Clock
from server.store.database import Database, UnitOfWork
from server.store.dialects import Turn

# A proxy that was away longer than this forgets everything when it returns, whatever the log still has.
KEEP_CHANGES = timedelta(hours=1)
KEEP_TRAFFIC = timedelta(hours=24)
# What the records of one organization may take. Strangers who are refused fill it, and must not fill the disk.
ORG_RECORDS = 64 * 1024 * 1024
KEEP_EVENTS = timedelta(days=30)
# Of one organization: a client that suspends and resumes for ever must not fill the disk either.
ORG_EVENTS = 10_000
# A run that does not end, since its engine is gone or nobody approves it. Forgotten sooner, its end would count again.
KEEP_OPEN_RUNS = timedelta(days=400)
# Of runs there are many more, and each row has up to 100 changes: so their rows are counted, and kept, by themselves.
KEEP_RUN_EVENTS = timedelta(hours=24)
ORG_RUN_EVENTS = 2_000
EVERY_S = 600.0
# Rows that one transaction drops: others want to write too. And how often in one round, which bounds it.
ROWS = 2_000
TIMES = 500

Drop: TypeAlias = Callable[[UnitOfWork], Awaitable[int]]

log = structlog.get_logger(__name__)


async def keep_house(database: Database, plans: Plans, clock: Clock) -> None:
    """Works until it is cancelled. A round that fails is tried again with the next one."""
    while True:
        try:
            await sweep(database, clock)
            await sweep_runs(database, plans, clock)
        except DatabaseUnavailable as error:
            log.warning("housekeeping.failed", error=repr(error.__cause__))
        await asyncio.sleep(EVERY_S)


async def sweep(
    database: Database,
    clock: Clock,
    *,
    org_records: int = ORG_RECORDS,
    org_events: int = ORG_EVENTS,
    org_run_events: int = ORG_RUN_EVENTS,
    rows: int = ROWS,
) -> None:
    """One round: drops old changes, counts and answers, and records and events that are old or too many."""
    now = clock()
    async with database.write() as tx:
        if not await tx.try_turn(Turn.HOUSEKEEPING):
            return
        await tx.changes.forget(now - KEEP_CHANGES)
        await tx.commit()
    await _drop(database, rows, lambda tx: tx.decisions.forget(now - decisions.KEEP, rows))
    await _drop(database, rows, lambda tx: tx.traffic.forget(now - KEEP_TRAFFIC, rows))
    await _drop(database, rows, lambda tx: tx.metrics.forget(now - metrics.KEEP, rows))
    await _drop(database, rows, lambda tx: tx.idempotency.forget(now - idempotency.KEEP, rows))
    await _drop(database, rows, lambda tx: tx.events.forget(now - KEEP_EVENTS, rows))
    await _drop(database, rows, lambda tx: tx.events.forget(now - KEEP_RUN_EVENTS, rows, runs=True))
    async with database.read() as tx:
        crowded = await tx.decisions.crowded(org_records)
    for org_id in crowded:
        log.warning("decisions.crowded", org_id=org_id, limit_bytes=org_records)
        await _drop(database, rows, partial(_shrink, org_id=org_id, keep=org_records, rows=rows))
    await _shrink_events(database, org_events, rows, runs=False)
    await _shrink_events(database, org_run_events, rows, runs=True)


async def sweep_runs(database: Database, plans: Plans, clock: Clock, *, rows: int = ROWS) -> None:
    """Drops the runs of each organization that ended longer ago than its plan keeps them."""
    now = clock()
    open_ = now - KEEP_OPEN_RUNS
    async with database.read() as tx:
        names = await tx.organizations.plans()
    for name in names:
        days = plans[name].runs_days
        ended = None if days is None else now - timedelta(days=days)
        async with database.read() as tx:
            overdue = await tx.runs.overdue(name, ended=ended, open_=open_)
        for org_id in overdue:
            await _drop(database, rows, partial(_forget_runs, org_id=org_id, ended=ended, open_=open_, rows=rows))


async def _forget_runs(tx: UnitOfWork, *, org_id: str, ended: datetime | None, open_: datetime, rows: int) -> int:
    return await tx.runs.forget(org_id, ended=ended, open_=open_, limit=rows)


async def _shrink(tx: UnitOfWork, *, org_id: str, keep: int, rows: int) -> int:
    return await tx.decisions.shrink(org_id, keep, rows)


async def _shrink_events(database: Database, keep: int, rows: int, *, runs: bool) -> None:
    async with database.read() as tx:
        crowded = await tx.events.crowded(keep, runs=runs)
    for org_id in crowded:
        log.info("events.crowded", org_id=org_id, limit=keep, runs=runs)
        await _drop(database, rows, partial(_shrink_events_of, org_id=org_id, keep=keep, rows=rows, runs=runs))


async def _shrink_events_of(tx: UnitOfWork, *, org_id: str, keep: int, rows: int, runs: bool) -> int:
    return await tx.events.shrink(org_id, keep, rows, runs=runs)


async def _drop(database: Database, rows: int, drop: Drop) -> None:
    """Drops rows in small transactions until there are no more of them."""
    for _ in range(TIMES):
        async with database.write() as tx:
            if not await tx.try_turn(Turn.HOUSEKEEPING):
                return
            done = await drop(tx)
            await tx.commit()
        if done < rows:
            return
