"""Who works on an instance: a short lease in the database, renewed for as long as the work goes on.

It is short, so that what a killed server was at goes on elsewhere within seconds. A server that cannot renew it stops
working on the instance before it is over, as another one may begin then.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from server.errors import DatabaseUnavailable
from server.services.identifiers import Clock
from server.store.database import Database
from server.store.instances import Claim

LEASE = timedelta(seconds=8)
RENEW_S = 2.0
# How much sooner than its lease a step ends: what it has begun needs a moment to stop.
MARGIN = timedelta(seconds=1)

log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """The lease could not be renewed in time."""


@dataclass(eq=False, slots=True)
class Lease:
    """A claimed instance, and until when it is surely ours, on the event loop's clock."""

    claim: Claim
    until: float
    limit: asyncio.Timeout | None = None

    def renewed(self, until: float) -> None:
        """It is ours for longer, unless it was noticed already that it was not."""
        self.until = until
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(until)


class Leases:
    """The leases of one worker. They go by the clock that all replicas share, and here by one that only grows."""

    def __init__(self, database: Database, clock: Clock, owner: str, lease: timedelta = LEASE) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._held: dict[str, Lease] = {}

    async def claim(self, limit: int) -> list[Lease]:
        """Leases what is due and nobody is at, at most so many; not what this worker itself has not let go of yet."""
        until = self._until()
        async with self._database.write() as tx:
            now = await tx.now(self._clock())
            claims = await tx.instances.claim_due(self._owner, now, self._lease, limit)
            await tx.commit()
        new = [Lease(claim, until) for claim in claims if claim.instance.id not in self._held]
        self._held.update({lease.claim.instance.id: lease for lease in new})
        return new

    @asynccontextmanager
    async def holding(self, lease: Lease) -> AsyncIterator[None]:
        """Raises LeaseLost as soon as the instance may be another worker's."""
        try:
            async with asyncio.timeout_at(lease.until) as lease.limit:
                yield
        except TimeoutError:
            if lease.limit is None or not lease.limit.expired():
                raise
            raise LeaseLost from None

    def drop(self, lease: Lease) -> None:
        """Renews it no more."""
        del self._held[lease.claim.instance.id]

    async def run(self) -> None:
        """Renews what is held, until it is cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self.renew()
            except DatabaseUnavailable as error:
                log.warning("leases.not_renewed", error=repr(error.__cause__))
            except Exception:
                log.exception("leases.failed")

    async def renew(self) -> None:
        """Has all that is held end later. What another worker has taken meanwhile stays lost."""
        if not self._held:
            return
        until = self._until()
        async with self._database.write() as tx:
            now = await tx.now(self._clock())
            ours = await tx.instances.renew(list(self._held), self._owner, now + self._lease)
            await tx.commit()
        for instance_id in ours:
            if (lease := self._held.get(instance_id)) is not None:
                lease.renewed(until)

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + (self._lease - MARGIN).total_seconds()
