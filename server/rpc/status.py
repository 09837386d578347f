"""How an error leaves the server: its row of the error table (errors.proto), as a gRPC status with details."""

from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from orch8cloud.v1.errors_pb2 import ErrorReason
from orch8cloud.v1.options_pb2 import ErrorOptions, error

from server.errors import (
    ChangeUnconfirmed,
    CloudError,
    IdempotencyInProgress,
    InvalidArgument,
    PlanLimitReached,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "cloud.orch8.io"
CHALLENGE = 'Bearer realm="orch8-cloud"'
RETRY_AFTER_S = 2
CODES = {code.value[0]: code for code in grpc.StatusCode}


def row(reason: str) -> ErrorOptions:
    """The row of the error table for a reason. Raises ValueError where there is none."""
    value = ErrorReason.DESCRIPTOR.values_by_name.get(f"ERROR_REASON_{reason}")
    if value is None:
        raise ValueError(f"errors.proto has no reason {reason}")
    return value.GetOptions().Extensions[error]


Trailers = Sequence[tuple[str, str]]


def to_status(failure: CloudError) -> grpc.Status:
    """The gRPC status of an error. Its trailing metadata tells Envoy the HTTP status and headers."""
    return with_trailers(*described(failure))


def described(failure: CloudError) -> tuple[Status, Trailers]:
    """An error as a message, and its trailing metadata."""
    options = row(failure.reason)
    details = [_packed(detail) for detail in _details(failure)]
    return Status(code=options.grpc_code, message=failure.message, details=details), _trailers(failure, options)


def with_trailers(status: Status, trailers: Trailers) -> grpc.Status:
    """The gRPC status of an error that is a message already."""
    return _WithTrailers(rpc_status.to_status(status), trailers)


class _WithTrailers(grpc.Status):
    """A status with more trailing metadata: what set_trailing_metadata set before an abort is lost."""

    def __init__(self, status: grpc.Status, trailers: Trailers) -> None:
        self.code = status.code
        self.details = status.details
        self.trailing_metadata = (*status.trailing_metadata, *trailers)


def _trailers(failure: CloudError, options: ErrorOptions) -> list[tuple[str, str]]:
    trailers = [("x-http-status", str(options.http_status))]
    if isinstance(failure, Unauthenticated):
        trailers.append(("www-authenticate", CHALLENGE))
    if (seconds := _retry_after(failure)) is not None:
        trailers.append(("retry-after", str(seconds)))
    return trailers


def _retry_after(failure: CloudError) -> int | None:
    if isinstance(failure, RateLimited):
        return failure.retry_after
    if isinstance(failure, ChangeUnconfirmed | IdempotencyInProgress):
        return 1
    return RETRY_AFTER_S if isinstance(failure, Unavailable) else None


def _details(failure: CloudError) -> list[Message]:
    details: list[Message] = [ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=failure.metadata)]
    if isinstance(failure, InvalidArgument):
        details.append(_bad_request(failure))
    if isinstance(failure, PlanLimitReached):
        details.append(_quota(failure))
    if (seconds := _retry_after(failure)) is not None:
        details.append(RetryInfo(retry_delay=Duration(seconds=seconds)))
    return details


def _bad_request(failure: InvalidArgument) -> BadRequest:
    fields = [BadRequest.FieldViolation(field=one.field, description=one.description) for one in failure.violations]
    return BadRequest(field_violations=fields)


def _quota(failure: PlanLimitReached) -> QuotaFailure:
    subject = f"plan:{failure.metadata['plan']}"
    return QuotaFailure(violations=[QuotaFailure.Violation(subject=subject, description=failure.message)])


def _packed(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed


def internal(request_id: str) -> CloudError:
    """What a caller sees of a fault of ours: a number to quote, and nothing else."""
    return CloudError(
        f"Something went wrong on our side. Quote the request id {request_id} to support.", _request(request_id)
    )


def _request(request_id: str) -> Mapping[str, str]:
    return {"request_id": request_id}
