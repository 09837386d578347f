"""Waits for instances to be as they are wanted."""

from server.domain.instances import Desired, Instance
from server.services.waiting import Waiters
from server.store.database import Database


class Settling:
    """Calls that wait for an instance. The reconciler of this process wakes them; look() sees what another one did."""

    def __init__(self, database: Database, waiters: Waiters) -> None:
        self._database = database
        self._waiters = waiters
        self._seen: dict[str, tuple[int, Desired]] = {}

    def changed(self, instance_id: str) -> None:
        """Says that an instance was written down anew."""
        self._waiters.wake(instance_id)

    async def look(self) -> None:
        """One look at the database for all who wait: wakes those whose instance is not as it was at the last look."""
        names = [name for name in self._waiters.names if name.startswith("inst_")]
        if not names:
            self._seen = {}
            return
        async with self._database.read() as tx:
            now = await tx.instances.revisions(names)
        for name in names:
            if now.get(name) != self._seen.get(name):
                self._waiters.wake(name)
        self._seen = now

    async def wait(self, org_id: str, instance_id: str, seconds: float) -> Instance | None:
        """The instance as soon as nothing is left to do, or after the time as it is then; None where it is gone.

        Raises RateLimited where too many calls wait.
        """
        with self._waiters.waiting(org_id, instance_id, seconds) as waiter:
            instance = await self._instance(org_id, instance_id)
            while instance is not None and not instance.is_settled and await waiter.again():
                instance = await self._instance(org_id, instance_id)
        return instance

    async def _instance(self, org_id: str, instance_id: str) -> Instance | None:
        async with self._database.read() as tx:
            return await tx.instances.get(org_id, instance_id)
