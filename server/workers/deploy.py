"""Makes deployments on their engines, and undoes those that failed: a loop over the rows that are due.

A lease keeps two servers from one deployment, and whatever a step takes ends before the lease does.
"""

import asyncio

import structlog
from structlog.contextvars import bind_contextvars

from server.errors import DatabaseUnavailable
from server.store.deployments import DeploymentClaim
from server.workers.deployment_job import LEASE, DeploymentJob, Parts

BATCH = 32
IDLE_S = 1.0

log = structlog.get_logger(__name__)


class Deployer:
    """A loop over the deployments that are due. Safe to run in every replica.

    Leases and what is due go by the clock that all replicas share.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Says that something is due now."""
        self._woken.set()

    async def run(self) -> None:
        """Works until it is cancelled; what is under way is finished as far as its current step."""
        try:
            while True:
                await self._round()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _round(self) -> None:
        self._woken.clear()
        try:
            for claim in await self.claim():
                task = asyncio.create_task(self._work(claim))
                self._running.add(task)
                task.add_done_callback(self._finished)
            await self._sleep()
        except DatabaseUnavailable as error:
            log.warning("deploy.delayed", error=repr(error.__cause__))
            await asyncio.sleep(IDLE_S)

    async def claim(self) -> list[DeploymentClaim]:
        """What is due, leased to this worker."""
        if await self._due_in() > 0:
            return []
        async with self._parts.database.write() as tx:
            claims = await tx.deployments.claim_due(self._parts.owner, await tx.now(self._parts.clock()), LEASE, BATCH)
            await tx.commit()
        return claims

    async def _due_in(self) -> float:
        """Seconds until something is due, at most IDLE_S."""
        async with self._parts.database.read() as tx:
            now = await tx.now(self._parts.clock())
            due = await tx.deployments.next_due(now)
        return IDLE_S if due is None else min(IDLE_S, max(0.0, (due - now).total_seconds()))

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(max(0.01, await self._due_in())):
                await self._woken.wait()
        except TimeoutError:
            return

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("deploy.step_lost", error=repr(error))
        self.wake()

    async def _work(self, claim: DeploymentClaim) -> None:
        found = claim.deployment
        bind_contextvars(org_id=found.org_id, instance_id=found.instance_id, deployment_id=found.id)
        await DeploymentJob(self._parts, claim).run()
