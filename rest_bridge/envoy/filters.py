"""The HTTP filters, in their order, and what a route may change about each."""

import base64

from rest_bridge.envoy import headers, remembered, streams
from rest_bridge.envoy.access_log import PATH_STATE
from rest_bridge.envoy.clusters import DNS_CACHE, PROXY
from rest_bridge.envoy.descriptors import descriptor_set, public_services
from rest_bridge.envoy.fragments import LUA, Json, duration, extension, lua, lua_string, typed
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.local_replies import RETRY_AFTER
from rest_bridge.envoy.matching import not_, request_header, skipping
from rest_bridge.envoy.replicas import ELSEWHERE, QUESTION, retry
from rest_bridge.errors import error_body

CORS = "envoy.filters.http.cors"
COMPRESSOR = "envoy.filters.http.compressor"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
GRPC_WEB = "envoy.filters.http.grpc_web"
BUFFER = "envoy.filters.http.buffer"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
FORWARD_PROXY = "envoy.filters.http.dynamic_forward_proxy"
HEALTH = "envoy.filters.http.health_check"
PATH = "envoy.filters.http.set_filter_state"
NO_GRPC = "orch8.no_grpc"
ROUTER = "envoy.filters.http.router"

_KINDS = "envoy.extensions.filters.http"
OFF = typed("envoy.config.route.v3.FilterConfig", disabled=True)

# What a route switches off unless it needs it.
OPTIONAL = (COMPRESSOR, EXT_AUTHZ, streams.NAME, GRPC_WEB, LUA, BUFFER, TRANSCODER, FORWARD_PROXY, HEALTH)

COMPRESSED_FROM = 1024


def http_filters(limits: Limits, busy_from: int, *, logged: bool) -> list[Json]:
    """The filters in the order in which a request meets them; an answer meets them in reverse.

    The decision is on for every route that does not switch it off, so that a forgotten route is closed. Compression
    stands before Lua, and Lua before the transcoder, because each works on what the next has made of the answer.
    """
    return [
        remember_path(),
        no_grpc(),
        extension(CORS, f"{_KINDS}.cors.v3.Cors"),
        compressor(),
        remembered.repeat(busy_from, logged=logged),
        ext_authz(limits),
        streams.watch(limits),
        extension(GRPC_WEB, f"{_KINDS}.grpc_web.v3.GrpcWeb"),
        transcoded(),
        buffer(limits),
        {"name": TRANSCODER, "typed_config": transcoder(limits, events=False)},
        extension(FORWARD_PROXY, f"{_KINDS}.dynamic_forward_proxy.v3.FilterConfig", dns_cache_config=DNS_CACHE),
        draining(),
        extension(ROUTER, f"{_KINDS}.router.v3.Router", suppress_envoy_headers=True),
    ]


def no_grpc() -> Json:
    """Refuses native gRPC on every route but those that serve it, with a true HTTP 400.

    It is skipped for all other content types, since a filter in Lua costs a tenth of a whole tunnelled request.
    """
    message = "This path takes no gRPC. Send the request as JSON, with the content type application/json."
    body = error_body("INVALID_ARGUMENT", message, {"field": "content-type"}).decode()
    code = lua("no_grpc.lua", BODY=lua_string(body), MARK=headers.NO_GRPC)
    return skipping(NO_GRPC, code, not_(request_header("content-type", "application/grpc.*")))


def draining() -> Json:
    """Answers 503 in the place of the route, once the edge was told to stop: load balancers look there."""
    any_path = {"name": ":path", "present_match": True}
    return extension(HEALTH, f"{_KINDS}.health_check.v3.HealthCheck", pass_through_mode=True, headers=[any_path])


def remember_path() -> Json:
    """Keeps the path that was asked for, without its query: transcoder and engine routes change it.

    The access log and the server read it.
    """
    value = {
        "object_key": PATH_STATE,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": "%PATH(NQ)%"}},
    }
    return extension(PATH, f"{_KINDS}.set_filter_state.v3.Config", on_request_headers=[value])


def compressor() -> Json:
    """gzip for JSON answers that are worth it."""
    library = extension("gzip", "envoy.extensions.compression.gzip.compressor.v3.Gzip")
    common = {"min_content_length": COMPRESSED_FROM, "content_type_matcher": [{"prefix": "application/json"}]}
    return extension(
        COMPRESSOR,
        f"{_KINDS}.compressor.v3.Compressor",
        compressor_library=library,
        response_direction_config={"common_config": common},
    )


def ext_authz(limits: Limits) -> Json:
    """Asks the proxy whether a tunnel or gateway call may pass, and to which engine."""
    service = {
        "server_uri": {"uri": f"http://{PROXY}", "cluster": PROXY, "timeout": duration(limits.decision_timeout)},
        "path_prefix": "/decide",
        "authorization_request": {"headers_to_add": [{"key": "x-envoy-retriable-header-names", "value": ELSEWHERE}]},
        "authorization_response": {
            "allowed_upstream_headers": headers.patterns(headers.DECIDED),
            "allowed_client_headers": headers.patterns(headers.REFUSED_WITH),
            "dynamic_metadata_from_headers": headers.patterns((streams.PASS, *headers.ALLOWED_WITH, *headers.WHOSE)),
        },
        "retry_policy": retry(f"{QUESTION},5xx,retriable-headers"),
    }
    return extension(
        EXT_AUTHZ,
        f"{_KINDS}.ext_authz.v3.ExtAuthz",
        http_service=service,
        allowed_headers=headers.patterns(headers.ASKED_WITH),
        clear_route_cache=True,
        filter_enabled_metadata=remembered.undecided(),
        failure_mode_allow=False,
        status_on_error={"code": 503},
    )


def with_body(limits: Limits) -> Json:
    """Makes the decision about a route see the exact body. A larger one is refused with 413."""
    body = {"max_request_bytes": limits.body, "allow_partial_message": False, "pack_as_bytes": True}
    return typed(f"{_KINDS}.ext_authz.v3.ExtAuthzPerRoute", check_settings={"with_request_body": body})


def transcoded() -> Json:
    """Gives a transcoded answer its HTTP status, headers and form."""
    fault = error_body("INTERNAL", "A fault of ours. Quote this answer's x-request-id to support.").decode()
    told = "The control plane has just stopped. Ask whether the change was made before you try again."
    stopped = error_body("UNAVAILABLE", told, retry_after=RETRY_AFTER).decode()
    texts = {"FAULT": lua_string(fault), "STOPPED": lua_string(stopped)}
    return lua("transcoded.lua", **texts, RETRY_AFTER=str(RETRY_AFTER))


def buffer(limits: Limits) -> Json:
    """Refuses a management body that is too large: the transcoder's own limit only makes room."""
    return extension(BUFFER, f"{_KINDS}.buffer.v3.Buffer", max_request_bytes=limits.body)


def transcoder(limits: Limits, *, events: bool) -> Json:
    """REST to gRPC and back. With `events` a stream is printed as server-sent events."""
    return typed(
        f"{_KINDS}.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor_bin=base64.b64encode(descriptor_set()).decode(),
        services=[service.full_name for service in public_services()],
        auto_mapping=False,
        convert_grpc_status=True,
        match_incoming_request_route=True,
        max_request_body_size=limits.body,
        max_response_body_size=limits.answer,
        print_options={
            "preserve_proto_field_names": True,
            "always_print_primitive_fields": True,
            "stream_sse_style_delimited": events,
        },
        request_validation_options={"reject_unknown_method": True, "reject_unknown_query_parameters": True},
    )


def forward_to_header(name: str) -> Json:
    """Makes the forward proxy of a route go to the host and port that a header names, and rewrite the host to it."""
    return typed(f"{_KINDS}.dynamic_forward_proxy.v3.PerRouteConfig", host_rewrite_header=name)


def cors_policy(origins: tuple[str, ...]) -> Json:
    """Which other sites' pages may call."""
    return typed(
        f"{_KINDS}.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in origins],
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers=", ".join(headers.CORS_REQUEST),
        expose_headers=", ".join(headers.CORS_ANSWER),
        allow_credentials=True,
        max_age="600",
    )
