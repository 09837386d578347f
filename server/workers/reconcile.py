"""Makes engines as the database says they should be, one idempotent step at a time (architecture, decision 4)."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from server.domain.instances import Desired, Instance, Phase
from server.errors import DatabaseUnavailable
from server.providers.runtime.base import EngineSpec, EngineState, Runtime, RuntimeFailed, RuntimeUnavailable
from server.services.identifiers import Clock
from server.services.propagation import Propagation
from server.store.database import Database
from server.store.instances import Claim

LEASE = timedelta(seconds=30)
# A step ends before its lease does: else two servers could be at one instance.
STEP_S = 25.0
BATCH = 32
IDLE_S = 1.0
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step led to, and after how many seconds the next look is due (None: when something is wanted again)."""

    after: Instance
    again_in: float | None
    failed: bool = False


class Reconciler:
    """A loop over the instances that are due. Safe to run in every replica: a lease keeps two from one instance.

    Leases and what is due go by the clock that all replicas share.
    """

    def __init__(
        self, *, database: Database, runtime: Runtime, propagation: Propagation, clock: Clock, owner: str
    ) -> None:
        self._database = database
        self._runtime = runtime
        self._propagation = propagation
        self._clock = clock
        self._owner = owner
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Says that something is due now."""
        self._woken.set()

    async def run(self) -> None:
        """Works until it is cancelled; steps that have begun are finished."""
        try:
            while True:
                await self._round()
        finally:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _round(self) -> None:
        self._woken.clear()
        try:
            await self._start_due()
            await self._sleep()
        except DatabaseUnavailable as error:
            log.warning("reconcile.delayed", error=repr(error.__cause__))
            await asyncio.sleep(IDLE_S)

    async def _sleep(self) -> None:
        async with self._database.read() as tx:
            now = await tx.now(self._clock())
            due = await tx.instances.next_due(now)
        seconds = IDLE_S if due is None else min(IDLE_S, max(0.01, (due - now).total_seconds()))
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _start_due(self) -> None:
        async with self._database.read() as tx:
            now = await tx.now(self._clock())
            due = await tx.instances.next_due(now)
        if due is None or due > now:
            return
        async with self._database.write() as tx:
            now = await tx.now(self._clock())
            claims = await tx.instances.claim_due(self._owner, now, LEASE, BATCH)
            await tx.commit()
        for claim in claims:
            task = asyncio.create_task(self._work(claim))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("reconcile.step_lost", error=repr(error))
        self.wake()

    async def _work(self, claim: Claim) -> None:
        step = await self._attempt(claim)
        if step.after != claim.instance:
            await self._record(claim, step.after)
        attempts = claim.attempts + 1 if step.failed else 0
        async with self._database.write() as tx:
            current = await tx.instances.desired(claim.instance.id)
            now = await tx.now(self._clock())
            due_at = None if step.again_in is None else now + timedelta(seconds=step.again_in)
            # A wish that came while we worked is due at once.
            due_at = due_at if current is claim.instance.desired else now
            await tx.instances.release(claim.instance.id, self._owner, due_at=due_at, attempts=attempts)
            await tx.commit()

    async def _record(self, claim: Claim, after: Instance) -> None:
        """Writes down what was found. An engine's address reaches the proxies before the API shows it as running."""
        before = claim.instance
        if (before.host, before.port) != (after.host, after.port) and after.phase is Phase.RUNNING:
            if not await self._write(claim, replace(after, phase=before.phase), publish=True):
                return
            await self._propagation.settle()
        await self._write(claim, after, publish=after.phase is Phase.FAILED)
        if before.phase is not after.phase:
            log.info("instance.phase", instance_id=after.id, org_id=after.org_id, phase=after.phase, error=after.error)

    async def _write(self, claim: Claim, after: Instance, *, publish: bool) -> bool:
        async with self._database.write() as tx:
            if not await tx.instances.record(claim, self._owner, after):
                return False
            if publish:
                await tx.changes.append(self._clock(), instance_id=after.id)
            await tx.commit()
        if publish:
            await self._propagation.announce()
        return True

    async def _attempt(self, claim: Claim) -> Step:
        """One step, with its failures: what can pass is tried again, what cannot ends provisioning."""
        instance = claim.instance
        try:
            async with asyncio.timeout(STEP_S):
                return await self._advance(claim)
        except TimeoutError:
            return self._retry(claim, f"no answer within {STEP_S:.0f} s")
        except RuntimeFailed as error:
            if instance.phase is Phase.PROVISIONING:
                return self._failed(instance, str(error))
            return self._retry(claim, str(error))
        except RuntimeUnavailable as error:
            return self._retry(claim, str(error))
        except Exception:
            log.exception("reconcile.step_failed", instance_id=instance.id)
            return self._retry(claim, "internal error")

    def _retry(self, claim: Claim, why: str) -> Step:
        instance = claim.instance
        if instance.phase is Phase.PROVISIONING and self._late(claim):
            return self._failed(instance, f"not ready in time: {why}")
        log.warning("reconcile.retry", instance_id=instance.id, phase=instance.phase, attempt=claim.attempts, why=why)
        return Step(instance, min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(claim.attempts, 10)), failed=True)

    def _failed(self, instance: Instance, error: str) -> Step:
        return Step(replace(instance, phase=Phase.FAILED, error=error, updated_at=self._clock()), None)

    async def _advance(self, claim: Claim) -> Step:
        instance = claim.instance
        match instance.desired:
            case Desired.RUNNING:
                return await self._towards_running(claim)
            case Desired.SUSPENDED:
                found = await self._runtime.stop(instance.id)
                gone = found.state in (EngineState.STOPPED, EngineState.ABSENT)
                return self._towards(instance, Phase.SUSPENDED, done=gone)
            case Desired.DELETED:
                found = await self._runtime.destroy(instance.id)
                return self._towards(instance, Phase.DELETED, done=found.state is EngineState.ABSENT)

    async def _towards_running(self, claim: Claim) -> Step:
        instance = claim.instance
        found = await self._runtime.observe(instance.id)
        if found.state is not EngineState.RUNNING:
            if instance.phase is Phase.RUNNING and found.state is not EngineState.STARTING:
                log.warning("engine.restart", instance_id=instance.id, found=found.state)
            found = await self._runtime.run(await self._spec(instance))
        if found.state is not EngineState.RUNNING or found.upstream is None:
            return self._wait(claim)
        upstream = found.upstream
        after = replace(instance, phase=Phase.RUNNING, host=upstream.host, port=upstream.port, tls=upstream.tls)
        if after != instance:
            after = replace(after, updated_at=self._clock())
        return Step(after, self._runtime.watch_interval)

    def _wait(self, claim: Claim) -> Step:
        if claim.instance.phase is Phase.PROVISIONING and self._late(claim):
            return self._failed(claim.instance, "the engine did not become ready in time")
        return Step(claim.instance, self._runtime.poll_interval)

    def _late(self, claim: Claim) -> bool:
        return claim.deadline_at is not None and claim.deadline_at <= self._clock()

    def _towards(self, instance: Instance, goal: Phase, *, done: bool) -> Step:
        if not done:
            return Step(instance, self._runtime.poll_interval)
        if instance.phase is goal:
            return Step(instance, None)
        return Step(replace(instance, phase=goal, updated_at=self._clock()), None)

    async def _spec(self, instance: Instance) -> EngineSpec:
        async with self._database.read() as tx:
            keys = await tx.instances.keys(instance.id)
        return EngineSpec(
            instance_id=instance.id,
            org_id=instance.org_id,
            name=instance.name,
            region=instance.region,
            engine_key=keys.engine_key,
            encryption_key=keys.encryption_key,
        )
