"""Behind Envoy: answers its question "may this request pass, and where to?" (HTTP ext_authz)."""

from rest_bridge.proxy import refusals
from rest_bridge.proxy.asgi import (
    BodyTooLarge,
    CallerGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_probe,
    read_gateway_body,
)
from rest_bridge.proxy.decider import DECISION_HEADER, Admission, Decider, new_decision_id
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.targets import parse
from rest_bridge.proxy.trail import Trail

PREFIX = b"/decide"
PASS_HEADER = b"x-orch8-pass"
REMOVE_HEADER = b"x-envoy-auth-headers-to-remove"


class DecideApp:
    """An ASGI app. Envoy asks with the caller's method, path behind the prefix, headers and, on the gateway, body."""

    def __init__(self, *, decider: Decider, knowledge: Knowledge) -> None:
        self._decider = decider
        self._knowledge = knowledge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one question."""
        if scope["type"] != "http" or await answer_probe(scope["path"], send, ready=self._knowledge.is_ready()):
            return
        number = new_decision_id()
        try:
            verdict = await self._decide(scope, receive, number)
        except CallerGone:
            return
        decision_id = (DECISION_HEADER, number)
        if isinstance(verdict, Refusal):
            await answer(send, verdict.status, [*verdict.headers, decision_id], verdict.body)
        else:
            await answer(send, 200, [*_instructions(verdict), decision_id])

    async def _decide(self, scope: Scope, receive: Receive, decision_id: bytes) -> Admission | Refusal:
        path: bytes = scope["raw_path"]
        target = parse(path[len(PREFIX) :]) if path.startswith(PREFIX + b"/") else None
        if target is None:
            return refusals.no_such_path()
        try:
            body = b"" if target.slug is None else await read_gateway_body(receive)
        except BodyTooLarge:
            return refusals.too_large()
        trail = Trail(decision_id, scope["method"], target)
        return await self._decider.decide(trail, scope["headers"], body)


def _instructions(admission: Admission) -> list[tuple[bytes, bytes]]:
    """What Envoy sets, replaces, removes, and adds to the answer."""
    return [
        *admission.upstream.routing,
        *admission.added,
        *admission.answer_headers,
        (REMOVE_HEADER, b",".join(admission.removed)),
        (PASS_HEADER, admission.passed.text().encode()),
        (b"content-length", b"0"),
    ]
