"""The public door: `POST /webhooks/{slug}`, without the engine's key, signed with the trigger's secret.

The rules are those of engine 0.7: `x-trigger-timestamp` within -300 and +60 seconds of now, a fresh
`x-trigger-nonce`, and `x-orch8-signature: v1=<unpadded base64url HMAC-SHA256(secret, timestamp.nonce.body)>` over the
bytes as received.
"""

import base64
import hashlib
import hmac
import re
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, log
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import InvalidArgument, NotFound, RateLimited, Unauthorized
from server.providers.runtime.devengine.models import Trigger
from server.providers.runtime.devengine.store import Taken

MAX_BODY = 1024 * 1024
PAST_S = 300
FUTURE_S = 60
NONCE = re.compile(r"[\x20-\x7e]{16,128}")
MOMENT = re.compile(r"[0-9]{1,12}")


async def receive(request: Request) -> Response:
    """Starts the trigger's sequence if the request is signed, fresh and new."""
    engine: Engine = request.app.state.engine
    slug = request.path_params["slug"]
    peer = request.client.host if request.client else ""
    if not engine.webhook_limit.take(peer, slug):
        raise RateLimited(f"more than {engine.webhook_limit.per_second} webhooks a second")
    trigger = engine.store.trigger(slug)
    if trigger is None or trigger.trigger_type != "webhook":
        raise NotFound(f"trigger '{slug}'")
    body = await bodies.read(request, MAX_BODY)
    nonce, sent_at = _verify(request, engine, trigger, body)
    instance_id = _accept(engine, trigger, body, nonce, sent_at)
    engine.runner.start(instance_id)
    return JSONResponse({"instance_id": instance_id, "trigger": slug}, 202)


def signature(secret: str, timestamp: str, nonce: str, body: bytes) -> str:
    """What `x-orch8-signature` must be."""
    message = f"{timestamp}.{nonce}.".encode() + body
    digest = hmac.new(secret.encode(), message, hashlib.sha256).digest()
    return "v1=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _verify(request: Request, engine: Engine, trigger: Trigger, body: bytes) -> tuple[str, int]:
    """The nonce and the time of a request that its sender has signed. Raises Unauthorized."""
    secret = engine.trigger_secret(trigger)
    if secret is None:
        raise _refusal(trigger, "the trigger has no secret")
    timestamp = request.headers.get("x-trigger-timestamp", "")
    nonce = request.headers.get("x-trigger-nonce", "")
    if not MOMENT.fullmatch(timestamp) or not NONCE.fullmatch(nonce):
        raise _refusal(trigger, "timestamp or nonce is missing or malformed")
    if not -PAST_S <= int(timestamp) - time.time() <= FUTURE_S:
        raise _refusal(trigger, "the timestamp is too far from now")
    given = request.headers.get("x-orch8-signature", "")
    if not hmac.compare_digest(given.encode(), signature(secret, timestamp, nonce, body).encode()):
        raise _refusal(trigger, "the signature is missing or wrong")
    return nonce, int(timestamp)


def _accept(engine: Engine, trigger: Trigger, body: bytes, nonce: str, sent_at: int) -> str:
    """Uses up the nonce and stores the instance, both or neither."""
    try:
        data = bodies.parse(body)
    except ValueError as error:
        raise InvalidArgument("webhook body must be JSON") from error
    instance = engine.fired(trigger, data, "webhook")
    try:
        with engine.store.transaction():
            engine.store.use_nonce(trigger.slug, nonce, sent_at + PAST_S + 1)
            engine.store.add_instance(instance)
    except Taken as error:
        raise _refusal(trigger, "the nonce was used before") from error
    return instance.id


def _refusal(trigger: Trigger, reason: str) -> Unauthorized:
    # The reason is for the operator; a stranger is not told which part of a forgery was good.
    log.warn("webhook refused", slug=trigger.slug, reason=reason)
    return Unauthorized("webhook authentication failed")


ROUTES = [Route("/webhooks/{slug}", receive, methods=["POST"])]
