"""If-Match of a call: a header of REST, and metadata of gRPC."""

from typing import Any

import grpc

from server.domain.preconditions import IfMatch

HEADER = "if-match"


def if_match(context: grpc.aio.ServicerContext[Any, Any]) -> IfMatch:
    """What the call demands of the resource. Several headers are one list. Raises InvalidArgument."""
    found = [_text(value) for name, value in context.invocation_metadata() or () if name == HEADER]
    return IfMatch.parse(", ".join(found) if found else None)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
