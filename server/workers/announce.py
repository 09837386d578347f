"""Tells the proxies of changes whose own call could not: its caller hung up between the commit and the announcement."""

import asyncio

import structlog

from server.errors import DatabaseUnavailable
from server.services.propagation import Propagation

EVERY_S = 1.0

log = structlog.get_logger(__name__)


async def announce_changes(propagation: Propagation) -> None:
    """Works until it is cancelled. A round that fails is tried again with the next one."""
    while True:
        try:
            await propagation.announce()
        except DatabaseUnavailable as error:
            log.warning("announce.failed", error=repr(error.__cause__))
        await asyncio.sleep(EVERY_S)
