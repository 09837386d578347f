"""Use cases of events: what happened in an organization."""

from server.domain.access import Caller, KeyHolder
from server.domain.events import Cursor, Event
from server.store.database import Database

PAGE = 100


class EventsService:
    """Lists what happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, *, caller: Caller, after: Cursor = Cursor(0), limit: int = PAGE) -> list[Event]:
        """The events behind the cursor that the caller may see, oldest first."""
        reach = caller.instance_id if isinstance(caller, KeyHolder) else None
        async with self._database.read() as tx:
            return await tx.events.of_org(caller.org_id, after=after, limit=limit, instance_id=reach)
