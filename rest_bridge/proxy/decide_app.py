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
    read_body,
)
from rest_bridge.proxy.decider import DECISION_HEADER, Admission, Decider, new_decision_id
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.remembered import EDGE_PATH, MAX_QUESTION, BadQuestion, Remembered
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.targets import parse
from rest_bridge.proxy.trail import Trail

PREFIX = b"/decide"
PASS_HEADER = b"x-orch8-pass"
REMOVE_HEADER = b"x-envoy-auth-headers-to-remove"
ELSEWHERE_HEADER = (b"x-orch8-ask-another", b"1")


class DecideApp:
    """An ASGI app. Envoy asks with the caller's method, path behind the prefix, headers and, on the gateway, body."""

    def __init__(self, *, decider: Decider, knowledge: Knowledge, remembered: Remembered) -> None:
        self._decider = decider
        self._knowledge = knowledge
        self._remembered = remembered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one question."""
        if scope["type"] != "http" or await answer_probe(scope["path"], send, ready=self._knowledge.is_ready()):
            return
        number = new_decision_id()
        if scope["path"] == EDGE_PATH:
            await self._answer_edge(scope, receive, send, number)
            return
        try:
            verdict = await self._decide(scope, receive, number)
        except CallerGone:
            return
        decision_id = (DECISION_HEADER, number)
        if isinstance(verdict, Refusal):
            elsewhere = [ELSEWHERE_HEADER] if verdict.elsewhere else []
            await answer(send, verdict.status, [*verdict.headers, decision_id, *elsewhere], verdict.body)
        else:
            await answer(send, 200, [*_instructions(verdict), decision_id])

    async def _answer_edge(self, scope: Scope, receive: Receive, send: Send, decision_id: bytes) -> None:
        try:
            question = await read_body(receive, MAX_QUESTION)
            told = await self._remembered.answer(scope["headers"], question, decision_id)
        except CallerGone:
            return
        except (BadQuestion, BodyTooLarge):
            await answer(send, 400, [(b"content-length", b"0")])
            return
        await answer(send, 200, [(b"content-length", b"%d" % len(told))], told)

    async def _decide(self, scope: Scope, receive: Receive, decision_id: bytes) -> Admission | Refusal:
        path: bytes = scope["raw_path"]
        target = parse(path[len(PREFIX) :]) if path.startswith(PREFIX + b"/") else None
        if target is None:
            return refusals.no_such_path()
        try:
            body = b"" if target.slug is None else await read_body(receive, refusals.GATEWAY_LIMIT)
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
