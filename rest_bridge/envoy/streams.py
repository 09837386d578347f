"""Long answers: the proxy is asked when one begins, and ends it when what let the request in is over (ext_proc).

Measured with Envoy 1.40: an answer of the processor that nobody asked for breaks a stream off at any time, an upgraded
one too; where the connection to the processor is lost, Envoy breaks its streams off.
"""

from collections.abc import Iterable

from rest_bridge.envoy.clusters import STREAMS
from rest_bridge.envoy.fragments import Json, duration, extension
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.matching import answer_header, skipping
from rest_bridge.envoy.replicas import QUESTION, retry

NAME = "orch8.streams"
# The decision's answer, from which Envoy keeps the pass, and where it does.
DECISION = "envoy.filters.http.ext_authz"
PASS = "x-orch8-pass"  # noqa: S105 - it lets nobody in

# An answer of a known length with fewer digits is over before anybody could cut it, and asking would double its cost.
_SHORT = "[0-9]{1,5}"
_EMPTY = "204|304"


def watch(limits: Limits) -> Json:
    """The filter. It fails closed: an answer that nobody watches does not go on."""
    processor = extension(
        "envoy.filters.http.ext_proc",
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": STREAMS}, "retry_policy": retry(QUESTION)},
        failure_mode_allow=False,
        status_on_error={"code": 503},
        message_timeout=duration(limits.decision_timeout),
        # With trailers to be asked about, the processor is kept to the end of the answer; none but gRPC has any.
        processing_mode={
            "request_header_mode": "SKIP",
            "response_header_mode": "SEND",
            "response_trailer_mode": "SEND",
        },
        forward_rules={"allowed_headers": {"patterns": [{"exact": ":status"}]}},
        response_attributes=["response.code_details"],
        metadata_options={"forwarding_namespaces": {"untyped": [DECISION]}},
    )
    return skipping(NAME, processor, answer_header("content-length", _SHORT), answer_header(":status", _EMPTY))


def decided(names: Iterable[str]) -> dict[str, str]:
    """Headers with what the decision said under these names. Those of which it said nothing are left out."""
    return {name: f"%DYNAMIC_METADATA({DECISION}:{name})%" for name in names}
