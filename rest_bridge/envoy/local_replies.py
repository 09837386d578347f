"""What Envoy answers by itself, in the contract's error shape: one row for each cause, the first that fits is taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rest_bridge import errors
from rest_bridge.envoy import headers, streams
from rest_bridge.envoy.descriptors import READINESS, bindings
from rest_bridge.envoy.fragments import Json, extension, set_headers
from rest_bridge.envoy.limits import Limits

# Names of routes, and what those of REST and gRPC begin with; the rows below tell causes apart by them.
TUNNEL = "tunnel"
GATEWAY = "gateway"
CONNECT = "connect"
REST = "rest:"
GRPC = "grpc:"

RETRY_AFTER = 2
_ENGINE = f"(xds.route_name == '{TUNNEL}' || xds.route_name == '{GATEWAY}')"
_IS_GRPC = "request.headers['content-type'].matches('^application/grpc([+;]|$)')"
_GRPC = f"xds.route_name.startsWith('{GRPC}') && {_IS_GRPC}"
# The transcoder has made a REST request look like gRPC by the time it finds a fault in it.
_NO_GRPC = f"{_IS_GRPC} && !('x-envoy-original-method' in request.headers)"
_REFUSED = "response.code_details == 'ext_authz_denied'"
_DECIDED = streams.decided(headers.ALLOWED_WITH)
_CUT = "response.code_details.contains('stream_cut')"
_AS_IT_IS = "%LOCAL_REPLY_BODY%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A cause (a CEL expression over Envoy's attributes) and its answer. `status` replaces the reason's own."""

    when: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    retry: bool = False
    decided: bool = False
    """The request was let in, and no filter that knows its decision sees this answer."""
    violation: str = ""
    """The field of the request with which Envoy finds fault, in its own words."""


def rows(limits: Limits) -> list[Row]:
    """Every answer that Envoy gives by itself to a REST, tunnel or gateway call."""
    return [
        *_engine_rows(),
        *_path_rows(),
        *_size_rows(limits),
        *_transcoding_rows(),
        *_framing_rows(),
        *_server_rows(),
    ]


def _engine_rows() -> list[Row]:
    undecided = "It cannot be decided at the moment whether this call may pass. Try again in a few seconds."
    unreachable = "The engine cannot be reached, or broke the connection. Check its health, and try again."
    late = "The engine did not answer in time. Try again, or give it less to do in one call."
    return [
        Row(
            when="response.code_details == 'ext_authz_error'",
            reason="DATA_PLANE_NOT_READY",
            message=undecided,
            retry=True,
        ),
        Row(
            when="response.code_details.startsWith('ext_proc_error')",
            reason="DATA_PLANE_NOT_READY",
            message=undecided,
            retry=True,
            decided=True,
        ),
        Row(
            when=f"{_ENGINE} && response.code_details.contains('overflow')",
            reason="DATA_PLANE_NOT_READY",
            message="Too many calls to engines are under way. Try again in a few seconds.",
            retry=True,
        ),
        Row(
            when=f"{_ENGINE} && (response.code == 504 || response.code_details.contains('connection_timeout'))",
            reason="ENGINE_TIMEOUT",
            message=late,
        ),
        Row(
            when=f"{_ENGINE} && (response.code == 502 || response.code == 503)",
            reason="ENGINE_ERROR",
            message=unreachable,
        ),
    ]


def _path_rows() -> list[Row]:
    return [
        Row(
            when=f"xds.route_name == '{CONNECT}'",
            reason="INVALID_ARGUMENT",
            message="CONNECT is not served: this is no forward proxy. Call a path of the API.",
            metadata={"field": "method"},
        ),
        Row(
            when="response.code == 404 || response.code_details == 'route_not_found'",
            reason="NOT_FOUND",
            message="Nothing exists for %REQ(:METHOD)% %PATH(NQ)%. Check the method and the path.",
            metadata={"method": "%REQ(:METHOD)%", "path": "%PATH(NQ)%"},
        ),
        Row(
            when="response.code_details == 'path_normalization_failed'",
            reason="INVALID_ARGUMENT",
            message="The path holds an encoded slash or backslash, or a byte that no path may hold. Leave it out.",
            metadata={"field": "path"},
        ),
        Row(
            when="response.code_details == 'upgrade_failed'",
            reason="INVALID_ARGUMENT",
            message="This path takes no WebSocket and no other upgrade. Send a plain request.",
            metadata={"field": "upgrade"},
        ),
    ]


def _size_rows(limits: Limits) -> list[Row]:
    size = f"The headers are larger than {limits.headers_kib} KiB or more than {limits.headers_count}. Send fewer."
    return [
        # The decision's answer was sound, so what it adds is what was too much.
        Row(
            when="response.code_details == 'ext_authz_invalid'",
            reason="INVALID_ARGUMENT",
            message=f"With what is added for the engine, {size[0].lower()}{size[1:]}",
            metadata={"field": "headers"},
            status=431,
            decided=True,
        ),
        Row(
            when="response.code == 413",
            reason="PAYLOAD_TOO_LARGE",
            message=f"The body is larger than {limits.body} bytes, the most that this path accepts. Send less at once.",
            metadata={"limit_bytes": str(limits.body)},
        ),
        Row(
            when="response.code == 431",
            reason="INVALID_ARGUMENT",
            message=size,
            metadata={"field": "headers"},
            status=431,
        ),
        Row(
            when="response.code == 408",
            reason="INVALID_ARGUMENT",
            message="The request did not arrive in time. Send it again, without pauses.",
            status=408,
        ),
    ]


def _transcoding_rows() -> list[Row]:
    """What the transcoder finds: before the body it reads the query, with the body all else."""
    failed = "grpc_json_transcode_failure{"
    return [
        Row(
            when=f"response.code == 400 && response.code_details.startsWith('early_{failed}')",
            reason="INVALID_ARGUMENT",
            message="The query is not what this method takes. Look at the details, and send it again.",
            metadata={"field": "query"},
            violation="query",
        ),
        Row(
            when=f"response.code == 400 && response.code_details.startsWith('{failed}')",
            reason="INVALID_ARGUMENT",
            message="The body is not the JSON that this method takes. Look at the details, and send it again.",
            metadata={"field": "body"},
            violation="body",
        ),
    ]


def _framing_rows() -> list[Row]:
    """Requests that are no good HTTP. Most are answered before anything of them is known, a request id too."""
    return [
        Row(
            when="response.code_details == 'missing_host_header'",
            reason="INVALID_ARGUMENT",
            message="The request names no host. Send a Host header.",
            metadata={"field": "host"},
        ),
        Row(
            when="response.code_details == 'http.invalid_authority'",
            reason="INVALID_ARGUMENT",
            message="The Host header holds no host name. Correct it, and send it again.",
            metadata={"field": "host"},
        ),
        Row(
            when="response.code == 501",
            reason="INVALID_ARGUMENT",
            message="Transfer-Encoding can only be chunked here. Send the body as it is, in chunks or with its length.",
            metadata={"field": "transfer-encoding", "accepted": "chunked"},
        ),
        Row(
            when="response.code >= 400 && response.code < 500",
            reason="INVALID_ARGUMENT",
            message="The request cannot be read: its method, path, headers or framing are no valid HTTP. Correct it, "
            "and send it again.",
            metadata={"field": "request"},
        ),
    ]


def _server_rows() -> list[Row]:
    readiness = next(binding.rpc for binding in bindings() if binding.path == READINESS)
    return [
        Row(
            when="response.code_details == 'health_check_failed'",
            reason="UNAVAILABLE",
            message="The edge is about to stop. Call again on a new connection.",
            retry=True,
        ),
        Row(
            when=f"response.code == 504 && xds.route_name == '{REST}{readiness}'",
            reason="UNAVAILABLE",
            message="The service was not ready in time. Try again in a few seconds.",
            retry=True,
        ),
        Row(
            when="response.code == 504",
            reason="ENGINE_TIMEOUT",
            message="The control plane did not answer in time. Ask whether the change was made before you try again.",
        ),
        Row(
            when="response.code == 502 || response.code == 503",
            reason="UNAVAILABLE",
            message="The control plane cannot be reached. Try again in a few seconds.",
            retry=True,
        ),
    ]


def _faults() -> list[Row]:
    """Whatever is left. A request that has no id yet has none to quote."""
    return [
        Row(
            when="'x-request-id' in request.headers",
            reason="INTERNAL",
            message="A fault of ours. Quote the request id %REQ(X-REQUEST-ID)% to support.",
            metadata={"request_id": "%REQ(X-REQUEST-ID)%"},
        ),
        Row(when="true", reason="INTERNAL", message="A fault of ours. Tell support when it happened."),
    ]


def local_replies(limits: Limits) -> Json:
    """The `local_reply_config` of the connection manager."""
    return {"mappers": [*_passing(), *_grpc(), *map(_mapper, [*rows(limits), *_faults()])]}


def _passing() -> list[Json]:
    """Answers that are right already: a direct success, and the decision's refusal, which the proxy has worded."""
    return [
        _as_text("response.code < 400", _AS_IT_IS, "application/json"),
        *map(_restored, ("500", "502", "503", "504")),
        _as_text(_REFUSED, _AS_IT_IS, "application/json"),
        {**_as_text(_CUT, _AS_IT_IS, "application/json"), "headers_to_add": set_headers(_DECIDED)},
    ]


def _restored(status: str) -> Json:
    """See refused.lua."""
    mapper = _as_text(f"{_REFUSED} && response.code == 45{status[-1]}", _AS_IT_IS, "application/json")
    return {**mapper, "status_code": int(status)}


def _grpc() -> list[Json]:
    """gRPC callers get Envoy's gRPC status, whose message is the text: a sentence, not JSON.

    Where no gRPC is served, the answer is marked, and no_grpc.lua makes a true HTTP error of it.
    """
    unreachable = "The control plane cannot be reached. Try again in a few seconds."
    return [
        _as_text(f"{_GRPC} && response.code == 404", "There is no method %PATH(NQ)%."),
        _as_text(f"{_GRPC} && response.code == 503", unreachable),
        _as_text(_GRPC, _AS_IT_IS),
        {"filter": _cel(_NO_GRPC), "headers_to_add": set_headers({headers.NO_GRPC: "%REQ(:METHOD)%"})},
    ]


def _as_text(when: str, text: str, content_type: str = "text/plain") -> Json:
    body = {"text_format_source": {"inline_string": text}, "content_type": content_type}
    return {"filter": _cel(when), "body_format_override": body}


def _mapper(row: Row) -> Json:
    retry_after = RETRY_AFTER if row.retry else None
    status = errors.error_status(row.reason, row.message, row.metadata, retry_after)
    if row.violation:
        status["details"].append(_bad_request(row.violation))
    mapper: Json = {
        "filter": _cel(row.when),
        "status_code": row.status or errors.http_status(row.reason),
        "body_format_override": {
            "json_format": status,
            "content_type": "application/json",
        },
    }
    more = {"retry-after": str(retry_after)} if retry_after is not None else {}
    if row.decided:
        more |= _DECIDED
    return {**mapper, "headers_to_add": set_headers(more)} if more else mapper


def _bad_request(field: str) -> Json:
    violation = {"field": field, "description": _AS_IT_IS, "reason": ""}
    return {"@type": "type.googleapis.com/google.rpc.BadRequest", "field_violations": [violation]}


def _cel(expression: str) -> Json:
    kind = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {"extension_filter": extension("envoy.access_loggers.extension_filters.cel", kind, expression=expression)}
