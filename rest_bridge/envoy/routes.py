"""Which request goes where. The REST routes are made from the descriptors, all else is written here."""

from itertools import groupby
from operator import attrgetter

from rest_bridge.envoy import filters, headers, streams
from rest_bridge.envoy.access_log import PATH_STATE
from rest_bridge.envoy.clusters import SERVER
from rest_bridge.envoy.descriptors import READINESS, Binding, bindings, public_services
from rest_bridge.envoy.fragments import LUA, Json, duration, set_headers
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.local_replies import CONNECT, GATEWAY, GRPC, REST, TUNNEL
from rest_bridge.envoy.paths import matcher, precedence
from rest_bridge.envoy.replicas import QUESTION, UNSEEN, retry

OTHER_GRPC_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
NO_CONTENT = 204
HEALTHY = '{"status":"ok"}'
_ASKED = {headers.HOST: "%REQ(:AUTHORITY)%"}
_GRPC_TO_SERVER = set_headers(_ASKED)
_REST_TO_SERVER = set_headers({**_ASKED, headers.PATH: f"%FILTER_STATE({PATH_STATE}:PLAIN)%"})
_RETRY = retry(UNSEEN)


def route_config(limits: Limits, origins: tuple[str, ...]) -> Json:
    """All routes, for every host name."""
    host: Json = {"name": "edge", "domains": ["*"], "routes": routes(limits, origins)}
    if origins:
        host["typed_per_filter_config"] = {filters.CORS: filters.cors_policy(origins)}
    return {"name": "edge", "virtual_hosts": [host]}


def routes(limits: Limits, origins: tuple[str, ...] = ()) -> list[Json]:
    """The routes in the order in which they are tried."""
    return [
        connect(),
        *preflights(origins),
        tunnel(limits),
        gateway(limits),
        *grpc_routes(limits),
        healthz(),
        *rest_routes(bindings(), limits),
        nothing(),
    ]


def preflights(origins: tuple[str, ...]) -> list[Json]:
    """Browsers' questions before a call from an allowed site, for every path. The CORS filter answers them all.

    It only does so on a route that leads somewhere, so these name a cluster that no preflight reaches.
    """
    asks: Json = {"name": "access-control-request-method", "present_match": True}
    return [
        {
            "name": "preflight",
            "match": {"prefix": "/", "headers": [_method("OPTIONS"), asks, _header("origin", origin)]},
            "route": {"cluster": SERVER},
            "typed_per_filter_config": _only(),
        }
        for origin in origins
    ]


def rest_routes(all_bindings: list[Binding], limits: Limits) -> list[Json]:
    """One route for each binding, the most specific path first, and after those of a path one for its other methods."""
    ordered = sorted(all_bindings, key=lambda binding: (precedence(binding.path), binding.method))
    result: list[Json] = []
    for path, group in groupby(ordered, key=attrgetter("path")):
        same_path = list(group)
        result += [_rest_route(binding, limits) for binding in same_path]
        result.append(_wrong_method(path, [binding.method for binding in same_path]))
    return result


def _rest_route(binding: Binding, limits: Limits) -> Json:
    # gzip would make a body out of none, and put it behind an answer that has none.
    compressed = () if binding.success == NO_CONTENT else (filters.COMPRESSOR,)
    per_filter = _only(LUA, filters.BUFFER, filters.TRANSCODER, *compressed)
    seconds = limits.readiness_timeout if binding.path == READINESS else binding.timeout or limits.management_timeout
    again = retry(QUESTION) if binding.method == "GET" else _RETRY
    action: Json = {"cluster": SERVER, "timeout": duration(seconds), "retry_policy": again}
    if binding.streams:
        per_filter[filters.TRANSCODER] = filters.transcoder(limits, events=True)
        action = {"cluster": SERVER, **_no_end(limits), "retry_policy": again}
    return {
        "name": f"{REST}{binding.rpc}",
        "match": {**matcher(binding.path), "headers": [_method(binding.method)]},
        "route": action,
        "metadata": {"filter_metadata": {LUA: _lua_metadata(binding)}},
        "request_headers_to_add": _REST_TO_SERVER,
        "typed_per_filter_config": per_filter,
    }


def _lua_metadata(binding: Binding) -> Json:
    success = {"success": str(binding.success)} if binding.success != 200 else {}
    return {**success, **({"unwrap": binding.unwrap} if binding.unwrap else {})}


def _wrong_method(path: str, methods: list[str]) -> Json:
    allow = set_headers({"allow": ", ".join(methods)})
    return {**_direct("wrong-method", matcher(path), 404), "response_headers_to_add": allow}


def grpc_routes(limits: Limits) -> list[Json]:
    """Native gRPC and gRPC-Web, for the public services only. What the proxy asks the server stays inside."""
    names = [*(service.full_name for service in public_services()), *OTHER_GRPC_SERVICES]
    return [*(_grpc_route(name, limits) for name in names), _no_such_service()]


def _no_such_service() -> Json:
    """A gRPC client that calls what is not here is told so in gRPC: UNIMPLEMENTED."""
    native = {"name": "content-type", "string_match": {"safe_regex": {"regex": "application/grpc([+].*)?"}}}
    match = {"safe_regex": {"regex": r"/\w+(\.\w+)+/\w+"}, "headers": [_method("POST"), native]}
    return {
        **_direct(f"{GRPC}nothing", match, 404),
        "metadata": {"filter_metadata": {filters.NO_GRPC: {"grpc": True}}},
    }


def _grpc_route(service: str, limits: Limits) -> Json:
    is_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    return {
        "name": f"{GRPC}{service}",
        "match": {"prefix": f"/{service}/", "headers": [_method("POST"), is_grpc]},
        "route": {"cluster": SERVER, **_no_end(limits), "retry_policy": _RETRY},
        "metadata": {"filter_metadata": {filters.NO_GRPC: {"grpc": True}}},
        "request_headers_to_add": _GRPC_TO_SERVER,
        "typed_per_filter_config": _only(filters.GRPC_WEB),
    }


def tunnel(limits: Limits) -> Json:
    """Everything below an instance, as it is, to its engine."""
    rewrite = {"pattern": {"regex": "^/api/tunnel/[^/]+/?"}, "substitution": "/"}
    route = _engine_route(TUNNEL, "/api/tunnel/[^/]+(/.*)?", rewrite, limits)
    route["route"]["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    return route


def gateway(limits: Limits) -> Json:
    """A webhook of an engine. The decision signs the body, so it needs the whole of it."""
    rewrite = {"pattern": {"regex": "^/api/gateway/[^/]+/([^/]+)"}, "substitution": r"/webhooks/\1"}
    route = _engine_route(GATEWAY, "/api/gateway/[^/]+/[^/]+", rewrite, limits)
    route["typed_per_filter_config"][filters.EXT_AUTHZ] = filters.with_body(limits)
    return route


def _engine_route(name: str, regex: str, rewrite: Json, limits: Limits) -> Json:
    return {
        "name": name,
        "match": {"safe_regex": {"regex": regex}},
        "route": {"cluster_header": headers.CLUSTER, "regex_rewrite": rewrite, **_no_end(limits)},
        "request_headers_to_remove": [*headers.NOT_FOR_ENGINES],
        "response_headers_to_add": set_headers(streams.decided(headers.ALLOWED_WITH)),
        "typed_per_filter_config": {
            **_only(filters.EXT_AUTHZ, streams.NAME),
            filters.FORWARD_PROXY: filters.forward_to_header(headers.UPSTREAM),
        },
    }


def healthz() -> Json:
    """Whether the edge itself lives, and means to."""
    reads = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    route = _direct("healthz", {"path": "/healthz", "headers": [reads]}, 200, HEALTHY)
    return {**route, "typed_per_filter_config": _only(filters.HEALTH)}


def connect() -> Json:
    """CONNECT, which no other route takes, and which would otherwise pass every filter and wait for its body."""
    return _direct(CONNECT, {"connect_matcher": {}}, 400)


def nothing() -> Json:
    """Whatever no other route takes."""
    return _direct("nothing", {"prefix": "/"}, 404)


def _direct(name: str, match: Json, status: int, body: str = "") -> Json:
    answer: Json = {"status": status, **({"body": {"inline_string": body}} if body else {})}
    return {"name": name, "match": dict(match), "direct_response": answer, "typed_per_filter_config": _only()}


def _method(method: str) -> Json:
    return _header(":method", method)


def _header(name: str, value: str) -> Json:
    return {"name": name, "string_match": {"exact": value}}


def _no_end(limits: Limits) -> Json:
    """No limit on the whole, for streams; one on silence instead."""
    return {"timeout": "0s", "idle_timeout": duration(limits.stream_idle)}


def _only(*names: str) -> Json:
    """Switches off every filter that not all routes need, but for these."""
    return {name: filters.OFF for name in filters.OPTIONAL if name not in names}
