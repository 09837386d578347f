"""One JSON line for each request. No query string and no header that may hold a secret.

Fields that server and proxy log too have the same names. Of a tunnel or gateway request it names the instance and its
organization, where there is such an instance, and the decision's record, by its id, has the rest.
"""

from rest_bridge.envoy import headers
from rest_bridge.envoy.fragments import Json, extension
from rest_bridge.envoy.streams import decided

# Where a filter keeps the path that was asked for, without its query.
PATH_STATE = "orch8.path"

_DECIDED = decided((headers.DECISION_ID, *headers.WHOSE))

FIELDS = {
    "part": "edge",
    "event": "request",
    "timestamp": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": f"%FILTER_STATE({PATH_STATE}:PLAIN)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "protocol": "%PROTOCOL%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
    "decision_id": _DECIDED[headers.DECISION_ID],
    "org_id": _DECIDED[headers.ORG],
    "instance_id": _DECIDED[headers.INSTANCE],
    "route": "%ROUTE_NAME%",
    "upstream": "%UPSTREAM_HOST%",
}


# Load balancers, and we ourselves, ask every second.
_NO_PROBE = {"name": ":path", "string_match": {"exact": "/healthz"}, "invert_match": True}


def access_log() -> list[Json]:
    """The log on standard output."""
    kind = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    log = extension("envoy.access_loggers.stdout", kind, log_format={"json_format": FIELDS})
    return [{**log, "filter": {"header_filter": {"header": _NO_PROBE}}}]
