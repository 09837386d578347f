"""The decider where a collector is configured: a span for each decision of a sampled trace."""

from dataclasses import replace
from random import random
from typing import Any

from rest_bridge.proxy.decider import TRACE, Admission, Decider
from rest_bridge.proxy.headers import Headers, get_all
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.trail import Trail
from server.telemetry.tracing import Kind, Span, Tracing, is_sampled


class TracedDecider(Decider):
    """Decides as the other does. A request that is not sampled pays for the look at one header."""

    def __init__(self, *, tracing: Tracing, sample: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._tracing = tracing
        self._sample = sample

    async def decide(self, trail: Trail, headers: Headers, body: bytes) -> Admission | Refusal:
        """Decides. The engine, and the server if it is asked, are told of the span."""
        given = get_all(headers, TRACE)
        parent = given[0].decode("latin-1") if len(given) == 1 else None
        if not self._follows(parent, among=len(given)):
            return await super().decide(trail, headers, body)
        about = {"orch8.decision_id": trail.decision_id.decode(), "orch8.instance_id": trail.path.instance_id}
        with self._tracing.span("decide", Kind.SERVER, parent, about) as span:
            answer = await super().decide(trail, headers, body)
            _note(span, trail, answer)
            return _told(answer, span.traceparent)

    def _follows(self, parent: str | None, *, among: int) -> bool:
        """Whether to follow the caller's trace, or, without Envoy and where there is none, to begin one."""
        if among == 0:
            return random() < self._sample  # noqa: S311 - which requests are traced is no secret
        return parent is not None and is_sampled(parent)


def _note(span: Span, trail: Trail, answer: Admission | Refusal) -> None:
    if trail.route is not None:
        span.note({"orch8.org_id": trail.route.target.org_id})
    if not isinstance(answer, Refusal):
        span.note({"orch8.outcome": "allowed"})
        return
    span.note({"orch8.outcome": answer.reason or "refused", "orch8.status": answer.status})
    if answer.status >= 500:
        span.fail()


def _told(answer: Admission | Refusal, traceparent: str) -> Admission | Refusal:
    """Behind Envoy the edge's own span replaces this one on the way to the engine, where the edge has one."""
    if isinstance(answer, Refusal):
        return answer
    others = [header for header in answer.added if header[0] != TRACE]
    return replace(answer, added=[*others, (TRACE, traceparent.encode())])
