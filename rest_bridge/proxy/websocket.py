"""Carries a WebSocket to the engine and back."""

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from rest_bridge.proxy import refusals
from rest_bridge.proxy.asgi import Receive, Scope, Send
from rest_bridge.proxy.decider import Admission
from rest_bridge.proxy.exchange import Ends
from rest_bridge.proxy.forward import engine_url
from rest_bridge.proxy.headers import Headers, to_caller, to_engine
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.streams import Streams

MAX_MESSAGE = 16 * 1024 * 1024
_HANDSHAKE = frozenset(
    {
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-accept",
    }
)
# Codes that an endpoint never sends (RFC 6455, 7.4.1).
_UNSENDABLE = frozenset({1005, 1006, 1015})
# Why we close, by the status that the problem would have had: going away, or a policy violation (RFC 6455, 7.4.1).
_GOODBYES = {504: (1001, "nothing was sent for too long"), 503: (1001, "the proxy cannot check this any more")}
_OVER = (1008, "what let this connection in is over")


class _Connect(connect):
    """Follows no redirect: it would carry the engine's key elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketForwarder:
    """Forwards WebSockets, message by message (at most 16 MiB each). Times are in seconds."""

    def __init__(self, *, connect_timeout: float, idle: float, streams: Streams) -> None:
        self._connect_timeout = connect_timeout
        self._idle = idle
        self._streams = streams

    async def forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        admission: Admission,
        engine_path: bytes,
        answer_headers: Headers,
    ) -> Refusal | None:
        """Carries one WebSocket until either side closes it. A refusal: it was not accepted yet."""
        ends = Ends(idle=self._idle)
        try:
            with self._streams.watched(admission.passed, ends.cut):
                engine = await self._open(scope, admission, engine_path, ends)
                if isinstance(engine, Refusal):
                    return engine
                async with engine:
                    await _relay(engine, receive, send, ends, answer_headers)
        finally:
            ends.close()
        return None

    async def _open(
        self, scope: Scope, admission: Admission, engine_path: bytes, ends: Ends
    ) -> ClientConnection | Refusal:
        try:
            return await self._connect(scope, admission, engine_path)
        except asyncio.CancelledError:
            if ends.absorb() and ends.problem is not None:
                return ends.problem
            raise
        except TimeoutError:
            return refusals.too_slow()
        except InvalidStatus as error:
            return _engines_own(error)
        except (OSError, InvalidHandshake, EOFError):
            return refusals.unreachable()

    async def _connect(self, scope: Scope, admission: Admission, engine_path: bytes) -> ClientConnection:
        url = engine_url(admission, engine_path, scope["query_string"])
        headers = to_engine(scope["headers"], removed=(*admission.removed, *_HANDSHAKE), added=admission.added)
        return await _Connect(
            str(url.with_scheme("wss" if admission.upstream.tls else "ws")),
            additional_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
            subprotocols=[Subprotocol(name) for name in scope["subprotocols"]] or None,
            compression=None,
            user_agent_header=None,
            proxy=None,
            open_timeout=self._connect_timeout,
            close_timeout=2,
            max_size=MAX_MESSAGE,
        )


async def _accept(send: Send, engine: ClientConnection, answer_headers: Headers) -> None:
    answer = engine.response
    raw = answer.headers.raw_items() if answer is not None else ()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in raw]
    kept = [header for header in to_caller(headers) if header[0] not in _HANDSHAKE]
    await send({"type": "websocket.accept", "subprotocol": engine.subprotocol, "headers": [*kept, *answer_headers]})


async def _relay(engine: ClientConnection, receive: Receive, send: Send, ends: Ends, answer_headers: Headers) -> None:
    tasks: list[asyncio.Task[None]] = []
    try:
        await _accept(send, engine, answer_headers)
        tasks = [
            asyncio.create_task(_to_engine(engine, receive, ends)),
            asyncio.create_task(_to_caller(engine, send, ends)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        if not ends.absorb():
            raise
    finally:
        ends.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # Last, because a caller that does not read holds it up.
    if ends.problem is not None:
        await _close(send, *_GOODBYES.get(ends.problem.status, _OVER))


async def _to_engine(engine: ClientConnection, receive: Receive, ends: Ends) -> None:
    try:
        while True:
            message = await receive()
            ends.silence.touch()
            if message["type"] == "websocket.disconnect":
                await engine.close(_sendable(message.get("code", 1005)), message.get("reason") or "")
                return
            if message["type"] == "websocket.receive":
                text = message.get("text")
                await engine.send(message["bytes"] if text is None else text)
    except ConnectionClosed:
        # The other direction tells the caller.
        await asyncio.Event().wait()


async def _to_caller(engine: ClientConnection, send: Send, ends: Ends) -> None:
    try:
        while True:
            message = await engine.recv()
            ends.silence.touch()
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1011, "")
        await _close(send, _sendable(code), reason)


async def _close(send: Send, code: int, reason: str) -> None:
    await send({"type": "websocket.close", "code": code, "reason": reason})


def _sendable(code: int) -> int:
    return 1000 if code == 1005 else 1011 if code in _UNSENDABLE else code


def _engines_own(error: InvalidStatus) -> Refusal:
    """The engine answered something else than a WebSocket: that is the answer."""
    answer: Any = error.response
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.raw_items()]
    body = bytes(answer.body or b"")
    kept = [header for header in to_caller(headers) if header[0] != b"content-length"]
    return Refusal(status=answer.status_code, headers=(*kept, (b"content-length", b"%d" % len(body))), body=body)
