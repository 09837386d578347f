"""Wakes calls that wait for an instance on which another server works."""

import asyncio

import structlog

from server.errors import DatabaseUnavailable
from server.services.settling import Settling

EVERY_S = 1.0

log = structlog.get_logger(__name__)


async def notice_changes(settling: Settling) -> None:
    """Works until it is cancelled: one query each round, for all who wait, and none where nobody does."""
    while True:
        try:
            await settling.look()
        except DatabaseUnavailable as error:
            log.warning("notice.failed", error=repr(error.__cause__))
        await asyncio.sleep(EVERY_S)
