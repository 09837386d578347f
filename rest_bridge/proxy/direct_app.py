"""Without Envoy: decides, and carries the bytes itself."""

import asyncio
import os
import time

from rest_bridge.answers import Tally
from rest_bridge.proxy import refusals
from rest_bridge.proxy.answered import Answered
from rest_bridge.proxy.asgi import (
    BEGAN,
    ENGINE_ASKED,
    BodyTooLarge,
    CallerGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_probe,
    read_body,
)
from rest_bridge.proxy.decider import DECISION_HEADER, Admission, Decider, new_decision_id
from rest_bridge.proxy.forward import Forwarder
from rest_bridge.proxy.headers import REQUEST_ID, Headers, get_all, with_origin
from rest_bridge.proxy.refusals import GATEWAY_LIMIT, Refusal
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.targets import BadPath, PathTarget, normalize, parse
from rest_bridge.proxy.trail import Trail
from rest_bridge.proxy.websocket import WebSocketForwarder

_GRPC = b"application/grpc"
_GRPC_WEB = b"application/grpc-web"


class DirectApp:
    """An ASGI app that answers tunnel and gateway requests as Envoy and the decision app do together.

    The body of a gateway request must come within `body_timeout` seconds.
    """

    def __init__(
        self,
        *,
        decider: Decider,
        knowledge: Knowledge,
        answers: Tally,
        body_timeout: float,
        forwarder: Forwarder,
        websockets: WebSocketForwarder,
    ) -> None:
        self._answers = answers
        self._body_timeout = body_timeout
        self._decider = decider
        self._knowledge = knowledge
        self._forwarder = forwarder
        self._websockets = websockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        is_http = scope["type"] == "http"
        if is_http and await answer_probe(scope["path"], send, ready=self._knowledge.is_ready()):
            return
        scope[BEGAN] = time.perf_counter()
        request_id = _identify(scope)
        decision = ((DECISION_HEADER, new_decision_id()), (REQUEST_ID, request_id))
        try:
            refused = await self._serve(scope, receive, send, decision)
        except CallerGone:
            return
        if refused is not None:
            answering = answer if is_http else _deny
            await answering(send, refused.status, [*refused.headers, *decision], refused.body)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, decision: Headers) -> Refusal | None:
        try:
            target = parse(normalize(scope["raw_path"]))
        except BadPath:
            return refusals.bad_path()
        if target is None:
            return refusals.no_such_path()
        if (refused := _not_carried(scope, target)) is not None:
            return refused
        try:
            body = await _signed_body(scope, receive, target, self._body_timeout)
        except BodyTooLarge:
            return refusals.too_large()
        except TimeoutError:
            return refusals.too_late()
        return await self._carry(scope, receive, send, target, body, decision)

    async def _carry(
        self, scope: Scope, receive: Receive, send: Send, target: PathTarget, body: bytes | None, decision: Headers
    ) -> Refusal | None:
        trail = Trail(get_all(decision, DECISION_HEADER)[0], scope.get("method", "GET"), target)
        verdict = await self._decider.decide(trail, scope["headers"], body or b"")
        if isinstance(verdict, Refusal):
            return verdict
        scope[ENGINE_ASKED] = True
        path, told = target.engine_path, (*decision, *verdict.answer_headers)
        with Answered(self._answers, target.instance_id, scope, send) as answered:
            refused = await self._forward(scope, receive, answered.send, verdict, path, body, told)
            answered.instead(refused)
        return refused

    async def _forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        verdict: Admission,
        path: bytes,
        body: bytes | None,
        told: Headers,
    ) -> Refusal | None:
        if scope["type"] == "websocket":
            return await self._websockets.forward(
                scope, receive, send, admission=verdict, engine_path=path, answer_headers=told
            )
        return await self._forwarder.forward(
            scope, receive, send, admission=verdict, engine_path=path, body=body, answer_headers=told
        )


def _identify(scope: Scope) -> bytes:
    """Puts into the headers who calls, and the request's id: the caller's own, or a new one, which all then see."""
    client = scope.get("client")
    scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
    headers = with_origin(scope["headers"], client[0] if client else None, scheme)
    given = [value for value in get_all(headers, REQUEST_ID) if value]
    request_id = b",".join(given) or os.urandom(16).hex().encode()
    scope["headers"] = [*(header for header in headers if header[0] != REQUEST_ID), (REQUEST_ID, request_id)]
    return request_id


def _not_carried(scope: Scope, target: PathTarget) -> Refusal | None:
    """What Envoy does not carry either: WebSockets on the gateway, whose body is signed, and gRPC."""
    if scope["type"] == "websocket":
        return None if target.slug is None else refusals.bad_request("upgrade")
    kinds = get_all(scope["headers"], b"content-type")
    is_grpc = any(kind.startswith(_GRPC) and not kind.startswith(_GRPC_WEB) for kind in kinds)
    return refusals.bad_request("content-type") if is_grpc else None


async def _signed_body(scope: Scope, receive: Receive, target: PathTarget, seconds: float) -> bytes | None:
    """The whole body of a gateway request, which must come in time. None on the tunnel, whose bodies are never held."""
    if target.slug is None or scope["type"] != "http":
        return None
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > GATEWAY_LIMIT:
            raise BodyTooLarge
    async with asyncio.timeout(seconds):
        return await read_body(receive, GATEWAY_LIMIT)


async def _deny(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answers a WebSocket handshake with something else."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
