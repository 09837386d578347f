"""Sees on the direct path what Envoy's log says of an answer (envoy/answer_log.py): its kind, and when it began."""

import time
from typing import Self

from rest_bridge.answers import Tally
from rest_bridge.proxy.asgi import BEGAN, Message, Scope, Send
from rest_bridge.proxy.refusals import Refusal
from server.domain.answers import NOT_ANSWERED, kind_of

_STARTS = ("http.response.start", "websocket.accept")
_SWITCHED = 101


class Answered:
    """One answer, which counts when the context ends. What never began, for the caller had left, does not."""

    def __init__(self, tally: Tally, instance_id: str, scope: Scope, send: Send) -> None:
        self._tally = tally
        self._instance_id = instance_id
        self._asked = scope[BEGAN]
        self._send = send
        self._kind: str | None = None
        self._milliseconds = 0.0

    async def send(self, message: Message) -> None:
        """Passes a message on to the caller."""
        if message["type"] in _STARTS:
            self._began(kind_of(message.get("status", _SWITCHED)))
        await self._send(message)

    def instead(self, refusal: Refusal | None) -> None:
        """What the caller is answered where the engine's answer was not passed on."""
        if refusal is None:
            return
        engines_own = refusal.reason is None
        if engines_own or refusal.status >= 500:
            self._began(kind_of(refusal.status) if engines_own else NOT_ANSWERED)

    def _began(self, kind: str | None) -> None:
        self._kind = kind
        self._milliseconds = (time.perf_counter() - self._asked) * 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._kind is not None:
            self._tally.count(self._instance_id, self._kind, self._milliseconds, time.time())
