"""Behind Envoy: answers its question "may this request pass, and where to?" (HTTP ext_authz)."""

from google.protobuf.message import DecodeError
from orch8cloud.dataplane.v1 import dataplane_pb2

from rest_bridge.answers import Tally, from_messages
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
from rest_bridge.proxy.headers import Headers, header_text
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.remembered import EDGE_PATH, MAX_QUESTION, BadQuestion, Remembered
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.targets import parse
from rest_bridge.proxy.trail import Trail

PREFIX = b"/decide"
PASS_HEADER = b"x-orch8-pass"
REMOVE_HEADER = b"x-envoy-auth-headers-to-remove"
ORG_HEADER = b"x-orch8-org"
INSTANCE_HEADER = b"x-orch8-instance"
ANSWERS_PATH = "/edge/answers"
# More than an edge sends at once.
MAX_ANSWERS = 4 * 1024 * 1024
ELSEWHERE_HEADER = (b"x-orch8-ask-another", b"1")


class DecideApp:
    """An ASGI app. Envoy asks with the caller's method, path behind the prefix, headers and, on the gateway, body."""

    def __init__(self, *, decider: Decider, knowledge: Knowledge, remembered: Remembered, answers: Tally) -> None:
        self._answers = answers
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
        if scope["path"] == ANSWERS_PATH:
            await self._take_answers(receive, send)
            return
        try:
            verdict, whose = await self._decide(scope, receive, number)
        except CallerGone:
            return
        about = [(DECISION_HEADER, number), *whose]
        if isinstance(verdict, Refusal):
            elsewhere = [ELSEWHERE_HEADER] if verdict.elsewhere else []
            await answer(send, verdict.status, [*verdict.headers, *about, *elsewhere], verdict.body)
        else:
            await answer(send, 200, [*_instructions(verdict), *about])

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

    async def _take_answers(self, receive: Receive, send: Send) -> None:
        """What an edge has tallied: it is reported with what this proxy counts."""
        try:
            told = dataplane_pb2.ReportTrafficRequest.FromString(await read_body(receive, MAX_ANSWERS))
        except CallerGone:
            return
        except (DecodeError, BodyTooLarge):
            await answer(send, 400, [(b"content-length", b"0")])
            return
        self._answers.add(from_messages(told.answers))
        await answer(send, 200, [(b"content-length", b"0")])

    async def _decide(self, scope: Scope, receive: Receive, decision_id: bytes) -> tuple[Admission | Refusal, Headers]:
        """What is decided, and whose the instance is."""
        path: bytes = scope["raw_path"]
        target = parse(path[len(PREFIX) :]) if path.startswith(PREFIX + b"/") else None
        if target is None:
            return refusals.no_such_path(), ()
        try:
            body = b"" if target.slug is None else await read_body(receive, refusals.GATEWAY_LIMIT)
        except BodyTooLarge:
            return refusals.too_large(), ()
        trail = Trail(decision_id, scope["method"], target)
        return await self._decider.decide(trail, scope["headers"], body), _whose(trail)


def _whose(trail: Trail) -> Headers:
    """For the edge's log."""
    if trail.route is None:
        return ()
    target = trail.route.target
    return ((ORG_HEADER, header_text(target.org_id)), (INSTANCE_HEADER, target.instance_id.encode()))


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
