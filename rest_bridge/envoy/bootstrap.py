"""The whole configuration of Envoy, as plain data."""

from pathlib import Path

from rest_bridge.envoy.clusters import clusters, collector
from rest_bridge.envoy.fragments import Json, extension, socket
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.listeners import listener
from rest_bridge.settings import EdgeSettings

DEFAULT_LIMITS = Limits()


def bootstrap(settings: EdgeSettings, limits: Limits = DEFAULT_LIMITS, answers: Path | None = None) -> Json:
    """What Envoy is started with. It holds no secret, only the names of files that do.

    `answers`: where it writes what became of requests that were let pass.
    """
    return {
        "node": {"id": "orch8-cloud-edge", "cluster": "orch8-cloud"},
        "admin": {"address": socket(settings.edge_admin_addr)},
        "static_resources": {
            "listeners": [listener(settings, limits, answers)],
            "clusters": [
                *clusters(settings.server_addr, settings.proxy_addr, settings.streams_addr, limits),
                *collector(settings.otlp_endpoint, limits),
            ],
        },
        "overload_manager": _overload(limits),
    }


def _overload(limits: Limits) -> Json:
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    name = "envoy.resource_monitors.global_downstream_max_connections"
    monitor = extension(name, kind, max_active_downstream_connections=limits.connections)
    return {"resource_monitors": [monitor]}
