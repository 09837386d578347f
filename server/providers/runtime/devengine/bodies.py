"""Reads request bodies and queries, with the refusals that the real engine's extractors give."""

import json
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import ClientDisconnect, Request

from server.providers.runtime.devengine.errors import InvalidArgument, TooLarge, Undecodable, missing, mistyped
from server.providers.runtime.devengine.models import JsonObject

MAX_BODY = 10 * 1024 * 1024
MAX_PAGE = 1000
DEFAULT_PAGE = 100
I32 = 2**31


async def capped(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The chunks of the body. Raises TooLarge, by the declared length before anything is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit:
                raise TooLarge(f"the body is larger than {limit} bytes")
            yield chunk
    except ClientDisconnect as error:
        raise Undecodable(400, "the client went away") from error


async def read(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. Raises TooLarge."""
    return b"".join([chunk async for chunk in capped(request, limit)])


async def read_json(request: Request) -> Any:
    """The body as JSON. Raises Undecodable."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(.+\+)?json", media_type):
        raise Undecodable(415, "Expected request with `Content-Type: application/json`")
    try:
        return parse(await read(request))
    except ValueError as error:
        raise Undecodable(400, "Failed to parse the request body as JSON") from error


async def read_object(request: Request) -> JsonObject:
    """The body as a JSON object. Raises Undecodable."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise mistyped("body", "a map")
    return body


def parse(raw: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN and no lone surrogates. Raises ValueError."""

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=refuse)
        # A lone surrogate escape would decode, but could never be written again.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def text(body: JsonObject, field: str, *, default: str | None = None) -> str:
    """A text field, required unless it has a default. Raises Undecodable."""
    value = body.get(field, default)
    if field not in body and default is None:
        raise missing(field)
    if not isinstance(value, str):
        raise mistyped(field, "a string")
    return value


def optional_text(body: JsonObject, field: str) -> str | None:
    """A text field that may be null or absent. Raises Undecodable."""
    return None if body.get(field) is None else text(body, field)


def optional_integer(body: JsonObject, field: str) -> int | None:
    """A 32-bit number that may be null or absent. Raises Undecodable."""
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -I32 <= value < I32:
        raise mistyped(field, "i32")
    return value


def integer(body: JsonObject, field: str) -> int:
    """A required 32-bit number. Raises Undecodable."""
    value = optional_integer(body, field)
    if value is None:
        raise missing(field) if field not in body else mistyped(field, "i32")
    return value


def uuid_text(body: JsonObject, field: str) -> str:
    """A required UUID in its usual form. Raises Undecodable."""
    value = as_uuid(text(body, field))
    if value is None:
        raise mistyped(field, "a UUID")
    return value


def as_uuid(value: str) -> str | None:
    """The UUID in its usual form, or None."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return None


def moment(body: JsonObject, field: str, *, required: bool = False) -> float | None:
    """A date-time with its offset, in seconds since 1970. Raises Undecodable."""
    value = text(body, field) if required else optional_text(body, field)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise mistyped(field, "a date-time with its offset")
        return at.astimezone(UTC).timestamp()
    except (ValueError, OverflowError) as error:
        raise mistyped(field, "a date-time with its offset") from error


def page(request: Request) -> tuple[int, int]:
    """The limit, at most 1000, and the offset of a list. Raises InvalidArgument."""
    limit = _count(request, "limit", DEFAULT_PAGE)
    return min(limit, MAX_PAGE), _count(request, "offset", 0)


def _count(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise InvalidArgument(f"{name} must be a whole number")
    return int(value)
