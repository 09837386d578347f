"""Throws away what nobody needs any more."""

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.services.identifiers import Clock
from server.store.database import Database

# A proxy that was away longer than this forgets everything when it returns, whatever the log still has.
KEEP_CHANGES = timedelta(hours=1)
EVERY_S = 600.0

log = structlog.get_logger(__name__)


async def keep_house(database: Database, clock: Clock) -> None:
    """Works until it is cancelled. A round that fails is tried again with the next one."""
    while True:
        try:
            await sweep(database, clock)
        except (SQLAlchemyError, OSError) as error:
            log.warning("housekeeping.failed", error=repr(error))
        await asyncio.sleep(EVERY_S)


async def sweep(database: Database, clock: Clock) -> None:
    """One round: drops old changes."""
    async with database.write() as tx:
        await tx.changes.forget(clock() - KEEP_CHANGES)
        await tx.commit()
