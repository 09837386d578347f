"""MetricsService over gRPC."""

from datetime import datetime
from typing import Any

import grpc
from google.protobuf.message import Message
from orch8cloud.v1 import metrics_pb2 as pb
from orch8cloud.v1.metrics_pb2_grpc import MetricsServiceServicer

from server.domain.answers import STEP, percentile
from server.errors import FieldViolation, InvalidArgument
from server.rpc.convert import moment, nullable, timestamp
from server.rpc.interceptors.authentication import caller
from server.services.metrics import Bucket, InstanceMetrics, MetricsService

# What an int32 holds.
MOST = 2**31 - 1

Context = grpc.aio.ServicerContext[Any, Any]


class MetricsServicer(MetricsServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: MetricsService) -> None:
        self._service = service

    async def GetInstanceMetrics(
        self, request: pb.GetInstanceMetricsRequest, context: Context
    ) -> pb.GetInstanceMetricsResponse:
        """See metrics.proto."""
        since, until = _moment(request, "since"), _moment(request, "until")
        found = await self._service.of_instance(
            caller=caller(), instance_id=request.instance_id, since=since, until=until
        )
        return _response(found)


def _moment(request: pb.GetInstanceMetricsRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        return moment(getattr(request, field))
    except (ValueError, OverflowError):
        raise InvalidArgument([FieldViolation(field=field, description="is no time of this calendar")]) from None


def _response(found: InstanceMetrics) -> pb.GetInstanceMetricsResponse:
    # `from` is a word of Python.
    fields: dict[str, Message] = {"from": timestamp(found.since), "to": timestamp(found.until)}
    return pb.GetInstanceMetricsResponse(
        instance_id=found.instance_id,
        step=f"{STEP.total_seconds():.0f}s",
        buckets=[_bucket(bucket) for bucket in found.buckets],
        **fields,  # type: ignore[arg-type]
    )


def _bucket(bucket: Bucket) -> pb.MetricsBucket:
    minute, answers = bucket.minute, bucket.minute.answers
    p50, p90, p99 = (percentile(answers.latency, share) for share in (0.5, 0.9, 0.99))
    return pb.MetricsBucket(
        at=timestamp(minute.at),
        requests=min(minute.allowed + minute.denied, MOST),
        allowed=min(minute.allowed, MOST),
        denied=min(minute.denied, MOST),
        errors=min(answers.errors, MOST),
        answers={kind: min(many, MOST) for kind, many in answers.kinds.items()},
        p50_ms=nullable(_rounded(p50)),
        p90_ms=nullable(_rounded(p90)),
        p99_ms=nullable(_rounded(p99)),
        runs=bucket.runs,
    )


def _rounded(milliseconds: float | None) -> float | None:
    """Three digits: more would promise more than is known."""
    return None if milliseconds is None else float(f"{milliseconds:.3g}")
