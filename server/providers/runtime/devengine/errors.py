"""What a request can be answered with other than success, as the engine writes it.

ApiError               {"error": "<prefix>: <detail>"}
├── InvalidArgument    400
├── Unauthorized       401
├── Forbidden          403
├── NotFound           404
├── Conflict           409  (also "already exists")
├── TooLarge           413
├── RateLimited        429
├── NotImplementedHere 501  (the real engine can, this one cannot)
└── Unavailable        503
Undecodable            400, 415 or 422 in plain text, as the real engine's JSON extractor answers
"""

from typing import ClassVar


class ApiError(Exception):
    """A refusal with a JSON body."""

    status: ClassVar[int] = 500
    prefix: ClassVar[str] = "internal server error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidArgument(ApiError):
    """The request decodes but makes no sense."""

    status, prefix = 400, "invalid argument"


class Unauthorized(ApiError):
    """A trigger's secret or signature is missing or wrong."""

    status, prefix = 401, "unauthorized"


class Forbidden(ApiError):
    """The caller speaks for another tenant."""

    status, prefix = 403, "forbidden"


class NotFound(ApiError):
    """There is no such thing, or it belongs to another tenant."""

    status, prefix = 404, "not found"


class Conflict(ApiError):
    """What exists already stands in the way."""

    status, prefix = 409, "conflict"


class AlreadyExists(Conflict):
    """The name is taken."""

    prefix = "already exists"


class TooLarge(ApiError):
    """More bytes than the engine takes."""

    status, prefix = 413, "payload too large"


class RateLimited(ApiError):
    """Too many requests of one kind in a second."""

    status, prefix = 429, "rate limit exceeded"


class NotImplementedHere(ApiError):
    """The real engine has this, the development engine does not."""

    status, prefix = 501, "not implemented by the development engine"


class Unavailable(ApiError):
    """Not now."""

    status, prefix = 503, "unavailable"


class Undecodable(Exception):
    """The body is not the JSON document that the route takes."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def missing(field: str) -> Undecodable:
    """The refusal of a document without a required field."""
    return Undecodable(422, f"Failed to deserialize the JSON body into the target type: missing field `{field}`")


def mistyped(field: str, expected: str) -> Undecodable:
    """The refusal of a document with a field of the wrong type."""
    return Undecodable(422, f"Failed to deserialize the JSON body into the target type: {field}: expected {expected}")
