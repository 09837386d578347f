"""Traces of the edge, for an OpenTelemetry collector. Nothing of it is there where none is configured."""

from rest_bridge.envoy.access_log import PATH_STATE
from rest_bridge.envoy.clusters import COLLECTOR
from rest_bridge.envoy.fragments import Json, duration, extension
from server.domain.addresses import Collector

SERVICE = "orch8-edge"
_WITHIN_S = 5
_MILLION = 1_000_000


def tracing(collector: Collector | None, sample: float) -> Json:
    """What the connection manager is told.

    Envoy's tag with the whole address would hold the query, which may hold secrets: the path takes its place. Nor may
    Envoy choose by the request id, which callers may give, and write the choice into it: the sampler chooses.
    """
    if collector is None:
        return {}
    uuid = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
    return {
        "tracing": {
            "custom_tags": [{"tag": "http.url", "value": f"%FILTER_STATE({PATH_STATE}:PLAIN)%"}],
            "provider": _provider(collector, sample),
        },
        "request_id_extension": {
            "typed_config": {
                "@type": f"type.googleapis.com/{uuid}",
                "pack_trace_reason": False,
                "use_request_id_for_trace_sampling": False,
            }
        },
    }


def _provider(collector: Collector, sample: float) -> Json:
    kind = "envoy.config.trace.v3.OpenTelemetryConfig"
    if collector.grpc:
        to: Json = {"grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": duration(_WITHIN_S)}}
    else:
        uri = {"uri": collector.traces_url, "cluster": COLLECTOR, "timeout": duration(_WITHIN_S)}
        to = {"http_service": {"http_uri": uri}}
    return extension("envoy.tracers.opentelemetry", kind, service_name=SERVICE, sampler=_sampler(sample), **to)


def _sampler(share: float) -> Json:
    """A sampled trace of the caller is followed, and one that is not is left alone; of all others a share is traced."""
    kind = "envoy.extensions.tracers.opentelemetry.samplers.v3"
    of_own = extension(
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        f"{kind}.TraceIdRatioBasedSamplerConfig",
        sampling_percentage={"numerator": round(share * _MILLION), "denominator": "MILLION"},
    )
    return extension(
        "envoy.tracers.opentelemetry.samplers.parent_based", f"{kind}.ParentBasedSamplerConfig", wrapped_sampler=of_own
    )
