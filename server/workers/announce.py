"""Keeps servers and proxies in step: what was committed reaches every proxy, and what the proxies know every server."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from server.errors import DatabaseUnavailable
from server.services.event_feed import Feed
from server.services.peers import REPORT_S, Peers
from server.services.propagation import Propagation
from server.store.database import Database
from server.store.dialects import Signal

EVERY_S = 1.0

log = structlog.get_logger(__name__)


async def announce_changes(propagation: Propagation) -> None:
    """Tells the proxies of changes whose own call could not (its caller hung up), and the servers of this one."""
    await _forever("announce.failed", propagation.check, EVERY_S)


async def hear_others(database: Database, propagation: Propagation, feed: Feed) -> None:
    """Acts at once on what other servers commit. What is missed while the connection is away, a check finds."""

    async def listen() -> None:
        async with database.signals() as heard:
            async for signals in heard:
                if Signal.EVENTS in signals:
                    feed.wake()
                await propagation.hear(signals)

    await _forever("listen.failed", listen, EVERY_S)


async def report_proxies(peers: Peers) -> None:
    """Tells the other servers what the proxies of this one have acknowledged."""
    await _forever("report.failed", peers.report, REPORT_S)


async def _forever(failed: str, work: Callable[[], Awaitable[None]], every: float) -> None:
    """Works until it is cancelled. A round that fails is tried again, not at once."""
    while True:
        pause = every
        try:
            await work()
        except DatabaseUnavailable as error:
            log.warning(failed, error=repr(error.__cause__))
            pause = EVERY_S
        await asyncio.sleep(pause)
