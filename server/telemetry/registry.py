"""What the metrics of all parts have in common."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest

# Seconds. Fine where a decision from memory ends, coarse where a call waits for the proxies.
DECISION_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
CALL_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def new_registry(part: str) -> CollectorRegistry:
    """A registry of one process: what it is, and what it takes of the machine."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    about = Gauge("orch8_build_info", "What runs here; always 1.", ("part", "version"), registry=registry)
    about.labels(part, version("orch8-cloud")).set(1)
    return registry


def rendered(registry: CollectorRegistry) -> bytes:
    """All metrics, as Prometheus reads them (text format 0.0.4)."""
    return generate_latest(registry)
