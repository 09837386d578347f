"""Where requests go: the server, the proxy, and the engines, whose address the decision names."""

import ssl
from pathlib import Path
from typing import Any

import certifi

from rest_bridge.envoy import headers
from rest_bridge.envoy.fragments import Json, duration, extension, lua, socket, typed
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.replicas import GRPC, PROXIES, only_the_healthy
from server.domain.addresses import Address, Addresses, Collector

SERVER = "server"
PROXY = "proxy"
STREAMS = "streams"
COLLECTOR = "collector"
# The names that the decision uses in x-orch8-cluster.
ENGINE_HTTP = "engine_http"
ENGINE_HTTPS = "engine_https"

DNS_CACHE: Json = {"name": "engines", "dns_lookup_family": "V4_PREFERRED", "max_hosts": 65536}
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SNI = {"auto_sni": True, "auto_san_validation": True}
_MANY = 100_000
# Enough for 4 000 streams of events that nobody reads.
_STREAM_WINDOW = 64 * 1024
_CONNECTION_WINDOW = 256 * 1024 * 1024
# Shorter than the 5 s after which uvicorn closes an idle connection, so that no request meets one that is closing.
_IDLE = 4


def clusters(server: Addresses, proxy: Addresses, streams: Addresses, limits: Limits) -> list[Json]:
    """Every cluster."""
    stripped = headers.strip_answer()
    return [
        {**_fixed(SERVER, server, limits, _http2()), **only_the_healthy(server, GRPC)},
        {**_fixed(PROXY, proxy, limits, _http1(lua("refused.lua"))), **only_the_healthy(proxy, PROXIES)},
        # A proxy that hangs cuts nothing, so Envoy soon gives it up, and with it the answers that it watches.
        {**_fixed(STREAMS, streams, limits, _http2(interval=2, timeout=2)), **only_the_healthy(streams, GRPC)},
        _engines(ENGINE_HTTP, limits, _http1(stripped), allow_insecure_cluster_options=True),
        {
            **_engines(ENGINE_HTTPS, limits, _http1(stripped, upstream_http_protocol_options=_SNI)),
            "transport_socket": _tls(),
        },
    ]


def collector(where: Collector | None, limits: Limits) -> list[Json]:
    """Where traces go, if anywhere."""
    if where is None:
        return []
    plain = typed(_PROTOCOL, explicit_http_config={"http_protocol_options": {}})
    found = _fixed(COLLECTOR, Addresses((where.address,)), limits, _http2() if where.grpc else plain)
    return [found | ({"transport_socket": _tls(sni=where.address.host)} if where.tls else {})]


def _fixed(name: str, addresses: Addresses, limits: Limits, protocol: Json) -> Json:
    endpoints = [{"endpoint": {"address": _target(address)}} for address in addresses]
    return {
        **_common(name, limits, protocol),
        "type": "STRICT_DNS" if any(address.is_name for address in addresses) else "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _target(address: Address) -> Json:
    return {"pipe": {"path": address.path}} if address.is_unix else socket(address)


def _engines(name: str, limits: Limits, protocol: Json, **more: bool) -> Json:
    kind = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
    return {
        **_common(name, limits, protocol),
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": extension("envoy.clusters.dynamic_forward_proxy", kind, dns_cache_config=DNS_CACHE, **more),
    }


def _common(name: str, limits: Limits, protocol: Json) -> Json:
    """Envoy's default of 1024 requests and connections for each cluster would be reached by long polls alone."""
    most = ("max_connections", "max_pending_requests", "max_requests")
    return {
        "name": name,
        "connect_timeout": duration(limits.connect_timeout),
        "per_connection_buffer_limit_bytes": limits.stream_buffer,
        "circuit_breakers": {"thresholds": [dict.fromkeys(most, _MANY)]},
        "typed_extension_protocol_options": {_PROTOCOL: protocol},
    }


def _http2(*, interval: float = 30, timeout: float = 10) -> Json:
    """HTTP/2. Answers that nobody reads take a stream's share of the connection: a few must not take all of it."""
    options = {
        "connection_keepalive": {"interval": duration(interval), "timeout": duration(timeout)},
        "initial_stream_window_size": _STREAM_WINDOW,
        "initial_connection_window_size": _CONNECTION_WINDOW,
    }
    return typed(_PROTOCOL, explicit_http_config={"http2_protocol_options": options})


def _http1(answers: Json, **more: Any) -> Json:
    """HTTP/1.1, whose answers pass a filter before anything else reads them."""
    codec = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    return typed(
        _PROTOCOL,
        explicit_http_config={"http_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": duration(_IDLE)},
        http_filters=[answers, extension("envoy.filters.http.upstream_codec", codec)],
        **more,
    )


def _tls(*, sni: str = "") -> Json:
    """TLS with the system's authorities; without `sni` the name is the one that the decision gave."""
    kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    validation: Json = {"trusted_ca": {"filename": _authorities()}}
    if not sni:
        return extension("envoy.transport_sockets.tls", kind, common_tls_context={"validation_context": validation})
    validation["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": sni}}]
    return extension(
        "envoy.transport_sockets.tls", kind, sni=sni, common_tls_context={"validation_context": validation}
    )


def _authorities() -> str:
    system = ssl.get_default_verify_paths().cafile
    return system if system and Path(system).is_file() else certifi.where()
