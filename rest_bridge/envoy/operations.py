"""What the edge tells those who run it: whether Envoy takes requests, and its statistics.

Envoy's administration can do everything, so it stays private. What may be read of it is listed here.
"""

import re
from collections.abc import Iterator

from rest_bridge.envoy.process import EnvoyProcess
from server.telemetry.listener import NotReady, Probes
from server.telemetry.registry import new_registry, rendered
from server.telemetry.stopping import Stopping

# Their labels are names of this configuration: clusters, the listener, status classes.
_SAFE = re.compile(
    r"envoy_(?:"
    r"http_(?:downstream|rq|ext_authz|ext_proc)_\w+"
    r"|cluster_(?:upstream|membership|circuit_breakers)_\w+"
    r"|listener_(?:downstream|http_downstream|ssl)_\w+"
    r"|dns_cache_\w+|overload_\w+|tracing_\w+"
    r"|server_(?:live|state|uptime|version|concurrency|memory_\w+|total_connections|days_until_first_cert_expiring)"
    r")"
)
_NAME = re.compile(r"(?:# TYPE )?(\w+)")


class EdgeOperations:
    """Answers those who run the edge."""

    def __init__(self, envoy: EnvoyProcess) -> None:
        self._envoy = envoy
        self._registry = new_registry("edge")

    def probes(self, stopping: Stopping) -> Probes:
        """What the listener serves."""
        return Probes(ready=self._check, metrics=self._metrics, stopping=stopping)

    async def _check(self) -> None:
        if not await self._envoy.is_ready():
            raise NotReady("envoy")

    async def _metrics(self) -> bytes:
        stats = "\n".join(safe_lines(await self._envoy.statistics()))
        return rendered(self._registry) + stats.encode() + b"\n"


def safe_lines(statistics: str) -> Iterator[str]:
    """The lines that may be read, of Envoy's statistics in Prometheus' format."""
    for line in statistics.splitlines():
        name = _NAME.match(line)
        if name is not None and _SAFE.fullmatch(name[1]):
            yield line
