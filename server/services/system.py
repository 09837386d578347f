"""Whether every part can do its work."""

from datetime import datetime

from server.errors import DatabaseUnavailable, Unavailable
from server.services.propagation import Propagation
from server.store.database import Database
from server.store.instances import Queue


class SystemService:
    """Asks each part."""

    def __init__(self, *, database: Database, propagation: Propagation) -> None:
        self._database = database
        self._propagation = propagation

    async def readiness(self) -> int:
        """How many proxies are connected. Raises Unavailable, naming what is not ready."""
        await self.check_database()
        if self._propagation.connected == 0:
            raise Unavailable("No proxy is connected.", {"part": "proxy"})
        return self._propagation.connected

    async def check_database(self) -> None:
        """Raises Unavailable where the database does not answer."""
        try:
            await self._database.ping()
        except DatabaseUnavailable as error:
            raise _no_database() from error

    async def queue(self, now: datetime) -> Queue:
        """What waits for the reconciler. Raises Unavailable."""
        try:
            async with self._database.read() as tx:
                return await tx.instances.queue(now)
        except DatabaseUnavailable as error:
            raise _no_database() from error


def _no_database() -> Unavailable:
    return Unavailable("The database does not answer.", {"part": "database"})
