"""Makes engines as the database says they should be, one idempotent step at a time (architecture, decision 4)."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import structlog
from structlog.contextvars import bind_contextvars

from server.domain.events import happened
from server.domain.instances import Deadlines, Desired, Instance, Phase
from server.domain.keys import RANDOM_BYTES, new_ingest_key
from server.domain.restarts import RestartPolicy
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
# After so many failures in a row, half a minute, a new instance says what holds it up.
PATIENCE = 6
# What an instance in this phase has not become when it is late. In the others nothing is waited for.
GOALS = {
    Phase.SUSPENDING: "suspended",
    Phase.RESUMING: "resumed",
    Phase.DELETING: "deleted",
    Phase.RUNNING: "restarted",
    Phase.PROVISIONING: "ready",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step led to, and after how many seconds the next look is due (None: when something is wanted again).

    `deadline_in`: from now to the new deadline of a transition that could not go on through no fault of its own.
    """

    after: Instance
    again_in: float | None
    failed: bool = False
    deadline_in: timedelta | None = None


# Hears what was claimed, what became of the step in one word, and how many seconds it took.
StepEnded: TypeAlias = Callable[[Claim, str, float], None]


class Reconciler:
    """A loop over the instances that are due. Safe to run in every replica: a lease keeps two from one instance.

    Leases and what is due go by the clock that all replicas share.
    """

    def __init__(
        self,
        *,
        database: Database,
        runtime: Runtime,
        propagation: Propagation,
        clock: Clock,
        owner: str,
        step_ended: StepEnded,
        changed: Callable[[str], None],
        deadlines: Deadlines,
        restarts: RestartPolicy,
    ) -> None:
        """`changed` is told the id of each instance that was written down anew."""
        self._changed = changed
        self._deadlines = deadlines
        self._restarts = restarts
        self._database = database
        self._runtime = runtime
        self._propagation = propagation
        self._clock = clock
        self._owner = owner
        self._step_ended = step_ended
        self._looked_at = time.monotonic()
        self._woken = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def idle_for(self) -> float:
        """Seconds since it last looked for what is due: more than a few mean that it has died."""
        return time.monotonic() - self._looked_at

    @property
    def running_steps(self) -> int:
        """Steps that are under way."""
        return len(self._running)

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
        self._looked_at = time.monotonic()
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
        bind_contextvars(org_id=claim.instance.org_id, instance_id=claim.instance.id)
        began = time.monotonic()
        step = await self._attempt(claim)
        written: Instance | None = claim.instance
        self._step_ended(claim, _result(claim, step), time.monotonic() - began)
        if step.after != claim.instance:
            written = await self._record(claim, step.after)
        attempts = claim.attempts + 1 if step.failed else 0
        async with self._database.write() as tx:
            revision = await tx.instances.revision(claim.instance.id)
            now = await tx.now(self._clock())
            due_at = None if step.again_in is None else now + timedelta(seconds=step.again_in)
            # A wish that came while we worked is due at once.
            due_at = due_at if written is not None and revision == written.revision else now
            await tx.instances.release(claim.instance.id, self._owner, due_at=due_at, attempts=attempts)
            if step.deadline_in is not None:
                await tx.instances.extend(claim.instance.id, now + step.deadline_in)
            await tx.commit()

    async def _record(self, claim: Claim, after: Instance) -> Instance | None:
        """Writes down what was found. An engine's address reaches the proxies before the API shows it as running."""
        before = claim.instance
        # Also where the place is known already: whoever wrote it down may have died before the proxies knew.
        if (_place(before), before.phase) != (_place(after), Phase.RUNNING) and after.phase is Phase.RUNNING:
            there = replace(before, **_place(after))
            if await self._write(claim, there, publish=True) is None:
                return None
            await self._propagation.settle()
            claim = replace(claim, instance=there)
        written = await self._write(claim, after, publish=after.phase is Phase.FAILED)
        if written is not None:
            self._changed(after.id)
        if before.phase is not after.phase:
            log.info("instance.phase", instance_id=after.id, org_id=after.org_id, phase=after.phase, error=after.error)
        return written

    async def _write(self, claim: Claim, after: Instance, *, publish: bool) -> Instance | None:
        now = self._clock()
        async with self._database.write() as tx:
            written = await tx.instances.record(claim, self._owner, after)
            if written is None:
                return None
            await tx.events.append(list(happened(claim.instance, after, now)))
            if publish:
                await tx.changes.append(now, instance_id=after.id)
            await tx.commit()
        if publish:
            await self._propagation.announce()
        return written

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
            return self._troubled(claim, str(error))
        except RuntimeUnavailable as error:
            step = self._retry(claim, str(error), expires=not error.unreachable)
            # Whoever suspends or deletes shall hear of it; only a new instance must not fail for it.
            delayed = error.unreachable and instance.phase is Phase.PROVISIONING
            return replace(step, deadline_in=self._deadlines.transition) if delayed else step
        except Exception:
            log.exception("reconcile.step_failed", instance_id=instance.id)
            return self._retry(claim, "internal error")

    def _retry(self, claim: Claim, why: str, *, expires: bool = True) -> Step:
        instance = claim.instance
        provisioning = instance.phase is Phase.PROVISIONING
        if provisioning and expires and self._late(claim):
            return self._failed(instance, f"not ready in time: {why}")
        if claim.attempts >= PATIENCE if provisioning else self._late(claim):
            return self._troubled(claim, why)
        log.warning("reconcile.retry", instance_id=instance.id, phase=instance.phase, attempt=claim.attempts, why=why)
        return Step(instance, self._backoff(claim), failed=True)

    def _troubled(self, claim: Claim, why: str) -> Step:
        """Says on the instance what holds it up, and goes on trying."""
        instance = claim.instance
        log.warning("reconcile.late", instance_id=instance.id, phase=instance.phase, attempt=claim.attempts, why=why)
        if instance.phase in GOALS:
            instance = self._saying(instance, f"not {GOALS[instance.phase]} yet, and tried again: {why}")
        return Step(instance, self._backoff(claim), failed=True)

    def _saying(self, instance: Instance, error: str | None) -> Instance:
        return instance if instance.error == error else replace(instance, error=error, updated_at=self._clock())

    def _backoff(self, claim: Claim) -> float:
        return float(min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(claim.attempts, 10)))

    def _failed(self, instance: Instance, error: str) -> Step:
        return Step(replace(instance, phase=Phase.FAILED, error=error, updated_at=self._clock()), 0)

    async def _advance(self, claim: Claim) -> Step:
        instance = claim.instance
        match instance.desired:
            case Desired.RUNNING if instance.phase is Phase.FAILED:
                return await self._halt(instance)
            case Desired.RUNNING:
                return await self._towards_running(claim)
            case Desired.SUSPENDED:
                found = await self._runtime.stop(instance.id)
                gone = found.state in (EngineState.STOPPED, EngineState.ABSENT)
                return self._towards(claim, Phase.SUSPENDED, done=gone)
            case Desired.DELETED:
                found = await self._runtime.destroy(instance.id)
                return self._towards(claim, Phase.DELETED, done=found.state is EngineState.ABSENT)

    async def _halt(self, instance: Instance) -> Step:
        """What is left of an engine that could not be provisioned must not run on."""
        found = await self._runtime.stop(instance.id)
        gone = found.state in (EngineState.STOPPED, EngineState.ABSENT)
        return Step(instance, None if gone else self._runtime.poll_interval)

    async def _towards_running(self, claim: Claim) -> Step:
        instance = claim.instance
        if instance.phase is Phase.RUNNING:
            found = await self._runtime.observe(instance.id)
            if found.state in (EngineState.STOPPED, EngineState.ABSENT):
                return await self._restart(instance)
        else:
            found = await self._runtime.run(await self._spec(instance))
        if found.state is EngineState.STOPPING:  # what was wanted before is finished first
            return self._wait(claim, "the engine has not stopped yet")
        if found.state is not EngineState.RUNNING or found.upstream is None:
            return self._wait(claim, "the engine is not ready")
        upstream = found.upstream
        after = replace(
            instance,
            phase=Phase.RUNNING,
            host=upstream.host,
            port=upstream.port,
            tls=upstream.tls,
            upstream_headers=dict(upstream.headers),
            error=None,
            restarts=instance.restarts.recovered(),
        )
        if after != instance:
            after = replace(after, updated_at=self._clock())
        return Step(after, self._runtime.watch_interval)

    async def _restart(self, instance: Instance) -> Step:
        """Starts an engine again that has ended by itself, as often as the policy allows."""
        now, policy = self._clock(), self._restarts
        restarts = instance.restarts
        if restarts.down_since is None:
            restarts = restarts.ended(policy, now)
            log.warning("engine.down", instance_id=instance.id, restarts=restarts.count)
        pause = _seconds(restarts.next_at, now)
        if pause == 0:
            await self._runtime.run(await self._spec(instance))
            restarts = restarts.started(policy, now)
        after = replace(instance, restarts=restarts)
        if restarts.is_failing(policy):
            window, slow = policy.window.total_seconds(), policy.slow.total_seconds()
            what = f"the engine ended {restarts.count} times within {window:g} s; it is started every {slow:g} s"
            after = self._saying(after, what)
        return Step(after, pause or self._runtime.poll_interval)

    def _wait(self, claim: Claim, why: str) -> Step:
        if not self._late(claim):
            return Step(claim.instance, self._runtime.poll_interval)
        if claim.instance.phase is Phase.PROVISIONING:
            return self._failed(claim.instance, "the engine did not become ready in time")
        return self._troubled(claim, why)

    def _late(self, claim: Claim) -> bool:
        deadline = claim.deadline_at if claim.instance.phase in GOALS else None
        if claim.instance.phase is Phase.RUNNING:
            down = claim.instance.restarts.down_since
            deadline = None if down is None else down + self._deadlines.transition
        return deadline is not None and deadline <= self._clock()

    def _towards(self, claim: Claim, goal: Phase, *, done: bool) -> Step:
        instance = claim.instance
        if not done:
            return self._wait(claim, "the engine has not stopped yet")
        after = replace(instance, phase=goal, error=None)
        return Step(after if after == instance else replace(after, updated_at=self._clock()), None)

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
            ingest_key=keys.ingest_key or await self._give_ingest_key(instance.id),
        )

    async def _give_ingest_key(self, instance_id: str) -> str:
        """For an instance that was made before engines reported their runs."""
        async with self._database.write() as tx:
            await tx.instances.give_ingest_key(instance_id, new_ingest_key(secrets.token_bytes(RANDOM_BYTES)))
            keys = await tx.instances.keys(instance_id)
            await tx.commit()
        return keys.ingest_key or ""


def _seconds(moment: datetime | None, now: datetime) -> float:
    """How long until a moment; 0 where there is none, or it is over."""
    return max(0.0, (moment - now).total_seconds()) if moment is not None else 0.0


def _place(instance: Instance) -> dict[str, Any]:
    """All that says where its engine is."""
    names = ("host", "port", "tls", "upstream_headers")
    return {name: getattr(instance, name) for name in names}


def _result(claim: Claim, step: Step) -> str:
    """What became of a step, in one word for the metrics."""
    if step.failed:
        return "retry"
    if step.after.phase is claim.instance.phase:
        return "unchanged"
    return "failed" if step.after.phase is Phase.FAILED else "changed"
