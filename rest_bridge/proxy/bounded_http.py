"""HTTP/1.1 for the world, where no Envoy stands in front: uvicorn's protocol, within the bounds that Envoy keeps.

uvicorn bounds neither how large a head is, nor how long it takes, nor how many connections there are, and it adds
trailers to the headers that were decided about. What is refused here was never a request, so no decision was made.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rest_bridge.envoy.limits import Limits
from rest_bridge.proxy import refusals
from rest_bridge.proxy.refusals import Refusal

# Files that the process needs beside its connections.
OTHER_FILES = 64
# What a head has beside method, address, names and values: the rest of its first line, and the empty last one; and in
# each header the colon, the space and the end of the line.
FRAMING = len("  HTTP/1.1\r\n\r\n")
HEADER_FRAMING = len(": \r\n")
# A caller that still sends when it is refused needs a moment to read why: closing at once would take the answer back.
LINGER = 1.0


class _Refused(Exception):
    """Ends parsing; httptools makes an error of its own of it."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. `bounds` gives sizes and times, `most` is how many may be open at once."""

    bounds: ClassVar[Limits] = Limits()
    most: ClassVar[int] = Limits().connections

    _refusal: Refusal | None = None
    _timer: asyncio.TimerHandle | None = None
    # Whether the parser waits for the headers of a request, or is within them.
    _in_head = True
    _lingering = False
    # Bytes since the last one of a body, but for those of the piece in which that was: heads, chunk sizes and trailers,
    # which the parser may hold without a word.
    _held = 0
    # No head that ends in the piece that is being parsed is larger.
    _most_head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, unless there are too many. One that says nothing ends as an idle one does."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._end_in(min(self.bounds.connection_idle, self.timeout_keep_alive))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what came; a head that is not whole yet has a limited size, and time."""
        if self._lingering:
            return
        begun = self._held > 0
        self._held += len(data)
        self._most_head = self._most_head + len(data) if begun else len(data)
        super().data_received(data)
        if self._lingering or self.transport.is_closing():
            return
        if self._held > self._most_bytes:
            self._refusal = self._too_large()
            self.send_400_response("")
        elif self._in_head and self._held and not (begun and self._timer):
            self._end_in(self.bounds.headers_timeout)

    @property
    def _most_bytes(self) -> int:
        return self.bounds.headers_kib * 1024

    def on_message_begin(self) -> None:
        """A request begins."""
        self._held = self._held or 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole. Trailers are no headers: the decision would not have seen them."""
        too_many = len(self.headers) > self.bounds.headers_count
        if too_many or (self._most_head > self._most_bytes and self._head_size() > self._most_bytes):
            self._refusal = self._too_large()
            raise _Refused
        self._in_head = False
        self._held = 0
        self._stop_timer()
        super().on_headers_complete()
        self.headers = self.headers.copy()

    def _head_size(self) -> int:
        """All bytes of the head, as Envoy counts it."""
        first = len(self.parser.get_method()) + len(self.url) + FRAMING
        return first + sum(len(name) + len(value) + HEADER_FRAMING for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._in_head = True
        self._held = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request was answered. What it still has to send must come soon."""
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            self._end_in(self.bounds.headers_timeout)

    def handle_websocket_upgrade(self) -> None:
        """From here on another protocol has the connection."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, in the contract's error shape, and hangs up.

        While an earlier request of the connection is being answered nothing can be said: its answer is cut short.
        """
        if not self._is_free():
            self.transport.close()
            return
        self._lingering = True
        self.transport.write(_raw(self._refusal or refusals.unreadable()))
        self.transport.write_eof()
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER, self.transport.close)

    def _too_large(self) -> Refusal:
        return refusals.headers_too_large(self.bounds.headers_kib, self.bounds.headers_count)

    def _is_free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_in(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._too_late, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self, seconds: float) -> None:
        """A head that came too slowly is told so; a connection that said nothing is not, and one in use goes on."""
        if not self._is_free():
            self._end_in(seconds)
        elif self._in_head and self._held:
            self._refusal = refusals.too_late()
            self.send_400_response("")
        else:
            self.transport.close()


def bounded_http(limits: Limits) -> type[BoundedHttp]:
    """The protocol with these bounds, and no more connections than there may be files: a request needs two."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(1, (files - OTHER_FILES) // 2) if files != resource.RLIM_INFINITY else limits.connections
    return type("BoundedHttp", (BoundedHttp,), {"bounds": limits, "most": min(limits.connections, allowed)})


def _raw(refusal: Refusal) -> bytes:
    phrase = HTTPStatus(refusal.status).phrase.encode()
    headers = b"".join(b"%s: %s\r\n" % header for header in (*refusal.headers, (b"connection", b"close")))
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (refusal.status, phrase, headers, refusal.body)
