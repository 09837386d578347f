"""The answers of the proxy itself: what it says, in the contract's one error shape, when a request does not pass."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from rest_bridge.errors import error_body, http_status
from rest_bridge.proxy.headers import Header
from rest_bridge.proxy.limits import KEY, Standing
from server.domain.decisions import Credential, Decision, KeyCredential
from server.domain.usage import Cap

RETRY_AFTER = 2
GATEWAY_LIMIT = 1024 * 1024
_CHALLENGE = b'Bearer realm="orch8-cloud"'
_BAD_TOKEN = _CHALLENGE + b', error="invalid_token"'
_NOT_READY_HINTS = {
    "provisioning": "It is still starting; try again in a moment.",
    "resuming": "It is still starting; try again in a moment.",
    "failed": "It did not start; create another.",
}
# Statuses of HTTP itself, for which the error table has no row.
REQUEST_TIMEOUT = 408
HEAD_TOO_LARGE = 431
_BAD_REQUESTS = {
    "request": "The request cannot be read: its method, path, headers or framing are no valid HTTP. Correct it.",
    "host": "The request names no host, or one that can be none. Send a Host header with the name.",
    "path": "The request's target must be a path, or an http:// address, without a fragment.",
    "connection": "The Connection header names headers that may not end here, or too many. Name fewer.",
    "upgrade": "This path takes no such upgrade. Send a plain request, or to the tunnel a WebSocket handshake.",
    "content-type": "This path takes no gRPC. Send the request as JSON, with the content type application/json.",
    "transfer-encoding": "Transfer-Encoding can only be chunked here. Send the body in chunks or with its length.",
    "method": "CONNECT is not served: this is no forward proxy. Call a path of the API.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An answer instead of the engine's. `reason` is that of the error table; None: the engine itself refused.

    `elsewhere`: another proxy may know better.
    """

    reason: str | None = None
    status: int
    headers: tuple[Header, ...]
    body: bytes
    elsewhere: bool = False


def refusal(
    reason: str,
    message: str,
    metadata: Mapping[str, str] | None = None,
    *,
    retry_after: int | None = None,
    headers: tuple[Header, ...] = (),
) -> Refusal:
    """The answer for a reason of the error table."""
    body = error_body(reason, message, metadata or {}, retry_after)
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if retry_after is not None:
        own.append((b"retry-after", b"%d" % retry_after))
    return Refusal(reason=reason, status=http_status(reason), headers=(*own, *headers), body=body)


def no_such_path() -> Refusal:
    """Neither a tunnel nor a gateway path."""
    return refusal(
        "NOT_FOUND",
        "There is nothing at this path. Call /api/tunnel/{instance}/{path} or /api/gateway/{instance}/{slug}.",
        {"resource": "path"},
    )


def bad_path() -> Refusal:
    """A path that could be read in two ways."""
    return refusal(
        "INVALID_ARGUMENT",
        "The path contains an escaped slash, an escaped backslash or a NUL. Send it without.",
        {"field": "path"},
    )


def bad_request(field: str) -> Refusal:
    """What is no good HTTP, or cannot be carried. `field`: a key of _BAD_REQUESTS."""
    return refusal("INVALID_ARGUMENT", _BAD_REQUESTS[field], {"field": field})


def head_too_large(limit: int, count: int) -> Refusal:
    """More headers, or larger ones, than anybody needs. `limit` is in bytes."""
    message = f"The headers are larger than {limit // 1024} KiB or more than {count}. Send fewer."
    found = refusal("INVALID_ARGUMENT", message, {"field": "headers"})
    return replace(found, status=HEAD_TOO_LARGE)


def too_late() -> Refusal:
    """The head of a request did not arrive in time."""
    found = refusal("INVALID_ARGUMENT", "The request did not arrive in time. Send it again, without pauses.")
    return replace(found, status=REQUEST_TIMEOUT)


def no_such_instance(instance_id: str) -> Refusal:
    """Unknown or deleted."""
    message = f"There is no instance '{instance_id}'."
    return refusal("NOT_FOUND", message, {"resource": "instance", "id": instance_id})


def no_such_endpoint(instance_id: str, slug: str) -> Refusal:
    """No enabled policy names the slug."""
    message = f"Instance {instance_id} has no gateway endpoint '{slug}'. Create a policy with this slug and enable it."
    return refusal("NOT_FOUND", message, {"resource": "gateway endpoint", "id": slug})


def not_in_touch() -> Refusal:
    """The proxy cannot know what is true now."""
    message = "The control plane cannot be reached from here, so this request cannot be checked. Try again in a moment."
    return replace(refusal("DATA_PLANE_NOT_READY", message, retry_after=RETRY_AFTER), elsewhere=True)


def not_running(instance_id: str, status: str) -> Refusal:
    """The caller may, but the engine does not run."""
    if status == "suspended":
        message = f"Instance {instance_id} is suspended. Resume it first."
        return refusal("STATE_CONFLICT", message, {"status": status, "allowed": "running"})
    hint = _NOT_READY_HINTS.get(status, "Try again in a moment.")
    message = f"Instance {instance_id} is {status}. {hint}" if status != "running" else f"Its engine is not up. {hint}"
    return refusal("DATA_PLANE_NOT_READY", message, {"status": status}, retry_after=RETRY_AFTER)


def too_large() -> Refusal:
    """A gateway body over the limit."""
    message = f"A gateway body has at most {GATEWAY_LIMIT} bytes. Send less, or a reference to the data."
    return refusal("PAYLOAD_TOO_LARGE", message, {"limit_bytes": str(GATEWAY_LIMIT)})


def too_many(standing: Standing) -> Refusal:
    """The key's or the organization's rate is used up. What does not change from one to the next is made once."""
    common = _too_many(standing.scope, standing.rate.per_second, standing.rate.burst, standing.retry_after)
    return replace(common, headers=(*common.headers, *standing.headers))


@lru_cache(maxsize=1024)
def _too_many(scope: str, per_second: int, burst: int, retry_after: int) -> Refusal:
    whose = "This API key" if scope == KEY else "The organization of this instance"
    message = (
        f"{whose} may send {per_second} requests a second, and {burst} at once. Send fewer, spread them over time, or "
        "choose a larger plan."
    )
    metadata = {"scope": scope, "limit": str(per_second), "burst": str(burst)}
    return refusal("RATE_LIMITED", message, metadata, retry_after=retry_after)


def quota_exceeded(cap: Cap, now: datetime) -> Refusal:
    """The request would start a run, and the plan's executions are used up."""
    end = f"{cap.until:%Y-%m-%dT%H:%M:%SZ}"
    message = (
        f"The {cap.plan} plan includes {cap.quota} executions in a period, and they are used up. Runs can be started "
        f"again from {end} on, or with a larger plan."
    )
    metadata = {"plan": cap.plan, "limit": str(cap.quota), "period_end": end}
    wait = max(1, math.ceil((cap.until - now).total_seconds()))
    return refusal("QUOTA_EXCEEDED", message, metadata, retry_after=wait)


def too_many_unseen(instance_id: str) -> Refusal:
    """More new credentials than can be checked."""
    message = f"Too many new credentials for instance {instance_id} wait to be checked. Try again in a moment."
    return refusal("RATE_LIMITED", message, {"scope": "instance"}, retry_after=RETRY_AFTER)


def too_many_streams(limit: int) -> Refusal:
    """The organization has as many streams open as its plan allows."""
    message = f"The organization's plan allows {limit} open streams at once. Close one, or choose a larger plan."
    return refusal("RATE_LIMITED", message, {"scope": "open streams", "limit": str(limit)}, retry_after=RETRY_AFTER)


def several_credentials() -> Refusal:
    """More than one Authorization header."""
    return refusal("UNAUTHENTICATED", "Send exactly one Authorization header.", headers=(_challenge(bad_token=True),))


def issuer_unreachable() -> Refusal:
    """The issuer's keys cannot be had, and none are known."""
    message = "The issuer of this token does not answer, so the token cannot be checked. Try again in a moment."
    return refusal("DATA_PLANE_NOT_READY", message, retry_after=RETRY_AFTER)


def not_let_in(decision: Decision, credential: Credential, *, had_token: bool) -> Refusal:
    """What a decision against the caller answers."""
    if decision.reason == "RULE_MISMATCH":
        message = f"No allow rule of the instance's {decision.provider} policies matches this caller."
        return refusal("RULE_MISMATCH", message, {"provider": decision.provider or ""})
    headers = (_challenge(bad_token=had_token),)
    if decision.reason in ("KEY_REVOKED", "KEY_EXPIRED") and isinstance(credential, KeyCredential):
        what = "was revoked" if decision.reason == "KEY_REVOKED" else "has expired"
        message = f"The API key {credential.prefix}… {what}. Create a new one."
        return refusal(decision.reason, message, {"prefix": credential.prefix}, headers=headers)
    if decision.reason == "TOKEN_INVALID":
        message = "This token is not accepted here: it is expired, not for this audience, or not signed by its issuer."
        return refusal("TOKEN_INVALID", message, headers=headers)
    message = (
        "This credential is not accepted here. Send an API key that exists, as Authorization: Bearer orc8_…"
        if had_token
        else "This needs a credential. Send an API key, as Authorization: Bearer orc8_…"
    )
    return refusal("UNAUTHENTICATED", message, headers=headers)


def policy_changed() -> Refusal:
    """What let the request in is not in force any more."""
    message = "The policy that let this request in was changed meanwhile. Send it again."
    return refusal("PERMISSION_DENIED", message)


def unreachable() -> Refusal:
    """The engine refused the connection, or broke it before it answered."""
    return refusal("ENGINE_ERROR", "The engine refused or broke the connection. Check that it is running and healthy.")


def too_slow() -> Refusal:
    """The engine did not answer in time."""
    return refusal("ENGINE_TIMEOUT", "The engine did not answer in time. Try again, or check what it is busy with.")


def stopped(*, engine_asked: bool) -> Refusal:
    """This proxy ends, and the request with it."""
    if engine_asked:
        message = "The service stopped before the engine had answered. Ask whether it acted before you try again."
        return refusal("ENGINE_ERROR", message)
    message = "The service stopped before it had decided about this request. Try again in a moment."
    return refusal("DATA_PLANE_NOT_READY", message, retry_after=RETRY_AFTER)


def internal(request_id: str) -> Refusal:
    """A fault of ours."""
    message = f"Something went wrong here. Quote {request_id} to support."
    return refusal("INTERNAL", message, {"request_id": request_id})


def _challenge(*, bad_token: bool) -> Header:
    return (b"www-authenticate", _BAD_TOKEN if bad_token else _CHALLENGE)
