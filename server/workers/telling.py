"""Tells those who follow events what was committed, and ends those who may not be told any more."""

import asyncio

import structlog

from server.errors import DatabaseUnavailable
from server.services.event_feed import Feed

# Signals of other servers may be lost, while the connection is away.
LOOK_S = 1.0
# What happens within so many seconds is told at once.
TOGETHER_S = 0.05
CHECK_S = 2.0

log = structlog.get_logger(__name__)


async def tell_subscribers(feed: Feed) -> None:
    """Works until it is cancelled."""
    while True:
        await feed.news(LOOK_S)
        try:
            await feed.advance()
        except DatabaseUnavailable as error:
            log.warning("telling.failed", error=repr(error.__cause__))
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(TOGETHER_S)


async def check_subscribers(feed: Feed) -> None:
    """Works until it is cancelled. How long a revoked key is told of events: so many seconds at most."""
    while True:
        try:
            await feed.check()
        except DatabaseUnavailable as error:
            log.warning("telling.unchecked", error=repr(error.__cause__))
        await asyncio.sleep(CHECK_S)
