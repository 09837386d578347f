"""Whether the server can do its work, and how it stands: what its probes and metrics tell."""

import asyncio

from server.errors import Unavailable
from server.services.identifiers import Clock
from server.services.propagation import Propagation
from server.services.system import SystemService
from server.store.database import Database
from server.store.instances import Claim, Queue
from server.telemetry.listener import NotReady, Probes
from server.telemetry.registry import rendered
from server.telemetry.server_metrics import ServerMetrics
from server.telemetry.stopping import Stopping
from server.telemetry.tracing import Kind, Tracing
from server.workers.orphans import Sweep
from server.workers.reconcile import Reconciler

# It looks every second. A writer that holds SQLite for long may keep it waiting, and that is no reason to restart.
RECONCILER_SILENT_S = 15.0


class Observers:
    """What is told of every call and step: the metrics, and traces where a collector is configured."""

    def __init__(self, metrics: ServerMetrics, tracing: Tracing | None) -> None:
        self.metrics = metrics
        self.tracing = tracing

    def step_ended(self, claim: Claim, result: str, seconds: float) -> None:
        """The reconciler has done a step."""
        self.metrics.step_ended(result, seconds)
        if self.tracing is not None:
            instance = claim.instance
            about = {"orch8.instance_id": instance.id, "orch8.org_id": instance.org_id, "orch8.result": result}
            name = f"reconcile {instance.desired}"
            self.tracing.record(name, Kind.INTERNAL, None, about, seconds=seconds, failed=result in ("retry", "failed"))

    def swept(self, sweep: Sweep) -> None:
        """The sweeper has compared engines and instances."""
        found, removed, missing = len(sweep.new), len(sweep.removed), len(sweep.missing)
        self.metrics.swept(orphans=len(sweep.orphans) - removed, found=found, removed=removed, missing=missing)


class Operations:
    """Answers those who run the server."""

    def __init__(
        self,
        *,
        database: Database,
        system: SystemService,
        propagation: Propagation,
        reconciler: Reconciler,
        metrics: ServerMetrics,
        clock: Clock,
    ) -> None:
        self._database = database
        self._system = system
        self._propagation = propagation
        self._reconciler = reconciler
        self._metrics = metrics
        self._clock = clock
        self._looking = asyncio.Lock()

    def probes(self, stopping: Stopping) -> Probes:
        """What the listener serves."""
        return Probes(ready=self.check, metrics=self.rendered, stopping=stopping)

    async def check(self) -> None:
        """Raises NotReady where the database does not answer, or the reconciler has stopped looking."""
        try:
            await self._system.check_database()
        except Unavailable as error:
            raise NotReady(error.metadata["part"]) from error
        if self._reconciler.idle_for > RECONCILER_SILENT_S:
            raise NotReady("reconciler")

    async def rendered(self) -> bytes:
        """All metrics. Those who ask at once take turns: each look costs the database two queries."""
        async with self._looking:
            self._show_proxies()
            self._show_work()
            self._show_queue(await self._queue())
            return rendered(self._metrics.registry)

    async def _queue(self) -> Queue | None:
        try:
            return await self._system.queue(self._clock())
        except Unavailable:
            return None

    def _show_queue(self, queue: Queue | None) -> None:
        """Without a database the figures of before would be a lie: NaN says that nobody knows."""
        now = self._metrics.now
        now.database_up.set(queue is not None)
        now.instances.clear()
        lag = float("nan")
        if queue is not None:
            lag = 0.0 if queue.oldest is None else max(0.0, (self._clock() - queue.oldest).total_seconds())
            for phase, count in queue.phases.items():
                now.instances.labels(phase).set(count)
        now.lag.set(lag)
        now.due.set(float("nan") if queue is None else queue.due)

    def _show_proxies(self) -> None:
        now, standing = self._metrics.now, self._propagation.standing()
        now.proxies.labels("connected").set(standing.connected)
        now.proxies.labels("silent").set(standing.silent)
        now.version.set(standing.version)
        now.watch_lag.set(standing.lag)
        now.waiting.set(standing.waiting)
        now.unconfirmed.set(standing.unconfirmed)

    def _show_work(self) -> None:
        now, pool = self._metrics.now, self._database.pool_use()
        now.connections.labels("in_use").set(pool.in_use)
        now.connections.labels("idle").set(pool.idle)
        now.steps.set(self._reconciler.running_steps)
        now.idle.set(self._reconciler.idle_for)
