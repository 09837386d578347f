"""The few types and helpers of raw ASGI that the apps share."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from rest_bridge.proxy.headers import Header

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


# Set in the scope of a request once it is on its way to an engine.
ENGINE_ASKED = "orch8.engine_asked"
# When a request came, by the clock of time.perf_counter().
BEGAN = "orch8.began"


class CallerGone(Exception):
    """The caller hung up."""


class BodyTooLarge(Exception):
    """The body is larger than its path takes."""


async def answer(send: Send, status: int, headers: list[Header], body: bytes = b"") -> None:
    """Answers a request at once."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body of a request. Raises CallerGone, or BodyTooLarge once it passes the limit, in bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return bytes(body)


async def answer_probe(path: str, send: Send, *, ready: bool) -> bool:
    """Answers /healthz and /readyz of the proxy itself. False where the path is neither."""
    if path not in ("/healthz", "/readyz"):
        return False
    up = ready or path == "/healthz"
    body = b'{"status":"ok"}' if up else b'{"status":"not ready"}'
    await answer(send, 200 if up else 503, [(b"content-type", b"application/json")], body)
    return True
