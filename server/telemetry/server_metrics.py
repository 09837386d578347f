"""What the server counts: its calls and its work. What it looks up when somebody asks is in server/operations.py."""

from prometheus_client import Counter, Gauge, Histogram

from server.telemetry.registry import CALL_BOUNDS, new_registry

OK = "OK"
CANCELLED = "CANCELLED"


class ServerMetrics:
    """Counters, histograms and gauges of one server. No label has values that callers choose."""

    def __init__(self) -> None:
        registry = self.registry = new_registry("server")
        self._calls = Counter("orch8_rpc_requests", "Calls that ended.", ("method", "code"), registry=registry)
        self._durations = Histogram(
            "orch8_rpc_duration_seconds", "How long calls took.", ("method",), buckets=CALL_BOUNDS, registry=registry
        )
        self._steps = Counter("orch8_reconcile_steps", "Steps of the reconciler.", ("result",), registry=registry)
        self._step_durations = Histogram(
            "orch8_reconcile_step_duration_seconds", "How long steps took.", buckets=CALL_BOUNDS, registry=registry
        )
        self._orphans_found = Counter(
            "orch8_orphans_found", "Engines that were found anew to belong to no instance.", registry=registry
        )
        self._orphans_removed = Counter("orch8_orphans_removed", "Such engines that were removed.", registry=registry)
        self._missing = Counter(
            "orch8_engines_missing", "Instances whose engine was not there, and is made again.", registry=registry
        )
        self.now = Now(self)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """A call has ended, with a gRPC code by its name."""
        self._calls.labels(method, code).inc()
        self._durations.labels(method).observe(seconds)

    def step_ended(self, result: str, seconds: float) -> None:
        """The reconciler has done a step: "changed", "unchanged", "retry" or "failed"."""
        self._steps.labels(result).inc()
        self._step_durations.observe(seconds)

    def swept(self, *, orphans: int, found: int, removed: int, missing: int) -> None:
        """Engines and instances were compared: how many belong to no instance now, and what is new about that."""
        self.now.orphans.set(orphans)
        self._orphans_found.inc(found)
        self._orphans_removed.inc(removed)
        self._missing.inc(missing)


class Now:
    """How things stand, as of the last time that somebody asked."""

    def __init__(self, metrics: ServerMetrics) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"orch8_{name}", text, labels, registry=metrics.registry)

        self.database_up = gauge("database_up", "1 if the database answers.")
        self.connections = gauge("database_connections", "Open connections of the pool.", "state")
        self.lag = gauge("reconcile_lag_seconds", "Age of the oldest instance that is due and that nobody is at.")
        self.due = gauge("reconcile_due", "Instances that are due and that nobody is at.")
        self.steps = gauge("reconcile_running_steps", "Steps that this server is at.")
        self.idle = gauge("reconcile_idle_seconds", "Seconds since the reconciler last looked for what is due.")
        self.instances = gauge("instances", "Instances in the database.", "phase")
        self.orphans = gauge("orphans", "Engines that belong to no instance, when it was last looked.")
        self.proxies = gauge("proxies", "Proxies that may be serving.", "state")
        self.version = gauge("watch_version", "Version of the last change that was sent to the proxies.")
        self.watch_lag = gauge("watch_lag_versions", "Versions that the slowest connected proxy is behind.")
        self.waiting = gauge("confirmations_waiting", "Changes that wait for the proxies to confirm them.")
        self.unconfirmed = gauge("confirmations_failed", "Changes that no proxy confirmed in time, since the start.")
