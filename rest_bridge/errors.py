"""Errors that this side answers itself, in the contract's one shape, read from the error table in errors.proto."""

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from orch8cloud.v1 import errors_pb2, options_pb2

DOMAIN = "cloud.orch8.io"
PREFIX = "ERROR_REASON_"
_TYPES = "type.googleapis.com/google.rpc."
_NOTHING: Mapping[str, str] = MappingProxyType({})


@cache
def _options(reason: str) -> options_pb2.ErrorOptions:
    """The table's row of a reason. Raises ValueError for a reason that is not in it."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name.get(PREFIX + reason)
    if value is None or value.number == 0:
        raise ValueError(f"errors.proto has no reason {reason}")
    return value.GetOptions().Extensions[options_pb2.error]


def grpc_code(reason: str) -> int:
    """The gRPC status code with which a reason is answered."""
    return _options(reason).grpc_code


def http_status(reason: str) -> int:
    """The HTTP status with which a reason is answered."""
    return _options(reason).http_status


def error_status(
    reason: str, message: str, metadata: Mapping[str, str] = _NOTHING, retry_after: int | None = None
) -> dict[str, Any]:
    """A google.rpc.Status as its protobuf JSON. `retry_after` is in seconds."""
    details: list[dict[str, Any]] = [
        {"@type": f"{_TYPES}ErrorInfo", "reason": reason, "domain": DOMAIN, "metadata": dict(metadata)}
    ]
    if retry_after is not None:
        details.append({"@type": f"{_TYPES}RetryInfo", "retry_delay": f"{retry_after}s"})
    return {"code": grpc_code(reason), "message": message, "details": details}


def error_body(
    reason: str, message: str, metadata: Mapping[str, str] = _NOTHING, retry_after: int | None = None
) -> bytes:
    """The JSON body of an error answer."""
    return json.dumps(error_status(reason, message, metadata, retry_after), ensure_ascii=False).encode()
