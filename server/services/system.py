"""Whether every part can do its work."""

from server.errors import DatabaseUnavailable, Unavailable
from server.services.propagation import Propagation
from server.store.database import Database


class SystemService:
    """Asks each part."""

    def __init__(self, *, database: Database, propagation: Propagation) -> None:
        self._database = database
        self._propagation = propagation

    async def readiness(self) -> int:
        """How many proxies are connected. Raises Unavailable, naming what is not ready."""
        try:
            await self._database.ping()
        except DatabaseUnavailable as error:
            raise Unavailable("The database does not answer.", {"part": "database"}) from error
        if self._propagation.connected == 0:
            raise Unavailable("No proxy is connected.", {"part": "proxy"})
        return self._propagation.connected
