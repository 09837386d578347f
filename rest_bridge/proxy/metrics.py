"""The proxy's metrics, made from its own plain counters when somebody asks: requests pay for no metrics library."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from rest_bridge.proxy.cache import Standing
from rest_bridge.proxy.decision_counts import DecisionCounts
from rest_bridge.proxy.records import Records
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.streams import Streams
from rest_bridge.proxy.traffic import Traffic
from rest_bridge.proxy.watcher import Watcher
from server.telemetry.listener import NotReady, Probes
from server.telemetry.registry import DECISION_BOUNDS, new_registry, rendered
from server.telemetry.stopping import Stopping


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The parts of a proxy that know something worth telling."""

    decisions: DecisionCounts
    knowledge: Knowledge
    watcher: Watcher
    traffic: Traffic
    records: Records
    streams: Streams


class ProxyMetrics(Collector):
    """Reads the parts. No label has values that callers choose."""

    def __init__(self, sources: Sources) -> None:
        self._of = sources
        self._registry = new_registry("proxy")
        self._registry.register(self)

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of this process."""
        return self._registry

    def probes(self, stopping: Stopping) -> Probes:
        """What the listener serves."""
        return Probes(ready=self._check, metrics=self._rendered, stopping=stopping)

    async def _check(self) -> None:
        if not self._of.knowledge.is_fresh():
            raise NotReady("server")

    async def _rendered(self) -> bytes:
        return rendered(self._registry)

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now."""
        yield from _decisions(self._of.decisions)
        yield from _caches(self._of.knowledge.standing())
        yield from self._watch()
        yield from self._reports()
        yield _gauge("open_streams", "Answers under way that this proxy watches.", len(self._of.streams))

    def _watch(self) -> Iterator[Metric]:
        knowledge, lease, server = self._of.knowledge, self._of.knowledge.lease, self._of.watcher.server_version
        yield _gauge("fresh", "1 if requests may be decided now.", knowledge.is_fresh())
        yield _gauge("lease_remaining_seconds", "For how long what is known may be served.", lease.remaining())
        yield _gauge("watch_connected", "1 if the server's changes are being heard.", server is not None)
        yield _gauge("watch_applied_version", "Version of the last change applied.", knowledge.version)
        if server is not None:
            yield _gauge("watch_server_version", "Newest version that the server has spoken of.", server)
        yield _gauge("proxies_known", "Proxies that the server counts, this one included.", knowledge.proxies)

    def _reports(self) -> Iterator[Metric]:
        records, traffic = self._of.records, self._of.traffic
        yield _gauge("records_waiting", "Records of decisions that wait to be reported.", records.waiting)
        yield _counter("records_dropped", "Records of decisions that were given up.", records.lost)
        yield _gauge("counts_waiting", "Rows of counted requests that wait to be reported.", traffic.waiting)
        yield _counter("counts_lost", "Requests whose count was given up.", traffic.lost)
        yield _gauge("answers_waiting", "Rows of counted answers that wait to be reported.", len(traffic.answers))
        yield _counter("answers_lost", "Answers whose count was given up.", traffic.answers.lost)


def _decisions(counts: DecisionCounts) -> Iterator[Metric]:
    labels = ("outcome", "reason", "status")
    total = CounterMetricFamily("orch8_decisions", "Decisions about requests.", labels=labels)
    for (reason, status), count in counts.outcomes.items():
        total.add_metric(["allowed" if status == 200 else "refused", reason or "", str(status)], count)
    yield total
    bounds = [*map(str, DECISION_BOUNDS), "+Inf"]
    took = HistogramMetricFamily("orch8_decision_duration_seconds", "How long decisions took.")
    took.add_metric([], list(zip(bounds, accumulate(counts.buckets), strict=True)), counts.seconds)
    yield took


def _caches(caches: dict[str, Standing]) -> Iterator[Metric]:
    entries = GaugeMetricFamily("orch8_proxy_cache_entries", "What is known.", labels=("cache", "kind"))
    hits = CounterMetricFamily("orch8_proxy_cache_hits", "Answers from memory.", labels=("cache",))
    misses = CounterMetricFamily("orch8_proxy_cache_misses", "Questions to the server.", labels=("cache",))
    for name, cache in caches.items():
        entries.add_metric([name, "found"], cache.found)
        entries.add_metric([name, "unknown"], cache.unknown)
        hits.add_metric([name], cache.hits)
        misses.add_metric([name], cache.misses)
    yield from (entries, hits, misses)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"orch8_proxy_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"orch8_proxy_{name}", text, value=value)
