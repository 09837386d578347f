"""Carries a request to the engine and the answer back, as it comes, both ways at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import yarl

from rest_bridge.proxy import refusals
from rest_bridge.proxy.asgi import CallerGone, Receive, Scope, Send
from rest_bridge.proxy.decider import Admission
from rest_bridge.proxy.exchange import Ends
from rest_bridge.proxy.headers import Header, Headers, get_all, to_caller, to_engine
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.streams import Streams

IDLE_CONNECTION = 4.0
MAX_HEAD = 64 * 1024


def open_session(*, connect_timeout: float) -> aiohttp.ClientSession:
    """A client that changes nothing: no cookies, no redirects, no decoding, no retries, no headers of its own."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        trust_env=False,
        max_line_size=MAX_HEAD,
        max_field_size=MAX_HEAD,
    )
    # A request may have had its effect when its connection broke, so it is never sent again. There is no public switch.
    session._retry_connection = False  # noqa: SLF001
    return session


class Forwarder:
    """Forwards plain HTTP. `idle` is in seconds."""

    def __init__(self, *, session: aiohttp.ClientSession, idle: float, streams: Streams) -> None:
        self._session = session
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
        body: bytes | None,
        answer_headers: Headers,
    ) -> Refusal | None:
        """Carries one request. `body` is the whole body where it was read already. A refusal: nothing was answered yet.

        An engine that breaks in the middle ends in an answer that is visibly incomplete, and so does a request that was
        let in by what is over.
        """
        ends = Ends(idle=self._idle)
        exchange = _Exchange(send=send, ends=ends, extra=answer_headers)
        request = self._request(scope, receive, admission, engine_path, body, ends)
        try:
            with self._streams.watched(admission.passed, ends.cut):
                await exchange.run(request)
        except CallerGone:
            pass
        except asyncio.CancelledError:
            if not ends.absorb():
                raise
        except TimeoutError:
            return None if exchange.started else refusals.too_slow()
        except aiohttp.ClientError:
            return None if exchange.started or ends.caller_gone else refusals.unreachable()
        finally:
            ends.close()
        return None if exchange.started else ends.problem

    def _request(
        self,
        scope: Scope,
        receive: Receive,
        admission: Admission,
        engine_path: bytes,
        body: bytes | None,
        ends: Ends,
    ) -> Any:
        headers = scope["headers"]
        streams = body is None and _has_body(headers)
        ends.watch_caller(receive, has_body=streams)
        return self._session.request(
            scope["method"],
            engine_url(admission, engine_path, scope["query_string"]),
            headers=_text(_engine_headers(headers, admission, streams=streams)),
            data=ends.body(receive) if streams else body or None,
            allow_redirects=False,
        )


class _Exchange:
    """The answer's way back."""

    def __init__(self, *, send: Send, ends: Ends, extra: Headers) -> None:
        self.started = False
        self._send = send
        self._ends = ends
        self._extra = extra

    async def run(self, request: Any) -> None:
        async with request as answer:
            self._ends.silence.touch()
            self.started = True
            await self._send(self._start(answer))
            async for chunk in _chunks(answer, self._ends.silence.touch):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._ends.silence.touch()
            await self._send({"type": "http.response.body", "body": b""})

    def _start(self, answer: aiohttp.ClientResponse) -> dict[str, Any]:
        headers = to_caller(answer.raw_headers)
        if answer.status == 304:
            # It names the length of a body that does not follow, and the server would wait for it.
            headers = [header for header in headers if header[0] != b"content-length"]
        return {"type": "http.response.start", "status": answer.status, "headers": [*headers, *self._extra]}


async def _chunks(answer: aiohttp.ClientResponse, touch: Callable[[], None]) -> AsyncIterator[bytes]:
    async for chunk in answer.content.iter_any():
        touch()
        yield chunk


def engine_url(admission: Admission, path: bytes, query: bytes) -> yarl.URL:
    """The address that the engine is asked, byte for byte."""
    target = path + b"?" + query if query else path
    return yarl.URL(admission.upstream.origin + target.decode("latin-1"), encoded=True)


def _engine_headers(headers: Headers, admission: Admission, *, streams: bool) -> list[Header]:
    wanted = to_engine(headers, removed=admission.removed, added=admission.added)
    wanted.append((b"host", admission.upstream.authority.encode()))
    if streams and (length := get_all(headers, b"content-length")):
        wanted.append((b"content-length", length[0]))
    return wanted


def _has_body(headers: Headers) -> bool:
    """Whether a body follows: HTTP says so in one of two headers."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _text(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), _decoded(value)) for name, value in headers]


def _decoded(value: bytes) -> str:
    """As the client library, which writes UTF-8, gives the same bytes again; other bytes cannot be kept."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
