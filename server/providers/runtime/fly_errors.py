"""What Fly's errors mean for an engine: cannot be, or not now. The one place that knows their statuses.

Its shapes are `{error, status}`, for leases `{status: "error", message}`, and plain text; statuses as in its
documentation, and as its staff explain them.
"""

import re
from collections.abc import Collection

import httpx

from server.providers.runtime.base import RuntimeFailed, RuntimeUnavailable

CAPACITY = "insufficient_capacity"
NAME_TAKEN = "name_taken"
TAKEN_WORDS = ("already been taken", "already_exists")
NOT_NOW = (408, 409, 412, 423)
LONGEST = 300
# Shorter ones are words such as "true", and no secrets.
SECRET_LENGTH = 8


class FlyFailed(RuntimeFailed):
    """Fly will not do it. Its message holds what Fly said, for the user."""

    def __init__(self, message: str, status: int, *, name_taken: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.name_taken = name_taken


class FlyUnavailable(RuntimeUnavailable):
    """Fly cannot do it now. The status is 0 where it did not answer."""

    def __init__(self, message: str, status: int = 0, *, unreachable: bool = False, name_taken: bool = False) -> None:
        super().__init__(message, unreachable=unreachable)
        self.status = status
        self.name_taken = name_taken


class FlyGone(FlyUnavailable):
    """The machine or volume is not there, or not any more. The next look shows what that means."""


def error_of(answer: httpx.Response, secrets: Collection[str], *, of_app: bool) -> FlyFailed | FlyUnavailable:
    """The error that an answer stands for; `of_app`: to a call about the app, and no machine or volume in it."""
    status, code, said = answer.status_code, _code(answer), said_by(answer, secrets)
    taken = code == NAME_TAKEN or any(words in said for words in TAKEN_WORDS)
    if code == CAPACITY:
        return FlyFailed(f"Fly has no room for this engine: {said}", status)
    if status in (401, 403):
        return FlyFailed(f"Fly does not let the service in: {said}", status)
    if status == httpx.codes.NOT_FOUND and not of_app:
        return FlyGone(f"Fly does not know it: {said}", status)
    if status in NOT_NOW:
        return FlyUnavailable(f"Fly cannot do it yet: {said}", status, name_taken=taken)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return FlyUnavailable("Fly's rate limit is reached.", status, unreachable=True)
    if answer.is_client_error:
        return FlyFailed(f"Fly refused: {said}", status, name_taken=taken)
    return FlyUnavailable(f"Fly answered with status {status}: {said}", status, unreachable=True)


def said_by(answer: httpx.Response, secrets: Collection[str]) -> str:
    """What Fly said, in one line of bounded length, without what must not be read."""
    found = _body(answer)
    text = found.get("message") or found.get("error") or answer.text
    line = re.sub(r"\s+", " ", str(text)).strip()
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_LENGTH:
            line = line.replace(secret, "…")
    return line[:LONGEST] or f"status {answer.status_code}"


def _code(answer: httpx.Response) -> str:
    return str(_body(answer).get("status", ""))


def _body(answer: httpx.Response) -> dict[str, object]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
