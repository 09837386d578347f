"""HTTP/1.1 as this program speaks it: uvicorn's, with errors in the contract's shape, and for the world with bounds."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rest_bridge.proxy import heads, refusals
from rest_bridge.proxy.refusals import Refusal

HEAD_WITHIN = 15.0
# As many as Envoy takes (envoy/limits.py). What the system cannot open ends by itself.
MAX_CONNECTIONS = 20_000


class _Refused(Exception):
    """Ends the parsing of a request; the parser reports it as a fault of the request."""


class InnerProtocol(HttpToolsProtocol):
    """For callers that are ours: Envoy. What cannot be parsed is refused in the contract's shape."""

    _refusal: Refusal | None = None

    def send_400_response(self, msg: str) -> None:
        """Refuses what the parser cannot read. An answer that is under way is broken off instead: two would mix."""
        refusal = self._refusal or refusals.bad_request("request")
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_written(refusal))
        self.transport.close()


class OuterProtocol(InnerProtocol):
    """For the world: heads are checked, and are bounded in size and time."""

    _waiting = 0
    _in_head = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has come."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it too
        if len(self.connections) > MAX_CONNECTIONS:
            self.transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._got_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come. Those of a head or of trailers are bounded, half a header that the parser keeps included."""
        self._waiting += len(data)
        super().data_received(data)
        if self._waiting > heads.MAX_HEAD and not self.transport.is_closing():
            self._refusal = refusals.head_too_large(heads.MAX_HEAD, heads.MAX_HEADERS)
            self.send_400_response("")

    def handle_websocket_upgrade(self) -> None:
        """From here on another protocol reads."""
        self._got_head()
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        if self.cycle is not None:
            # What has just come may be the end of the request before: nobody can tell how much of it.
            self._waiting = 0
        self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        if len(self.url) > heads.MAX_HEAD:
            self._refuse(refusals.head_too_large(heads.MAX_HEAD, heads.MAX_HEADERS))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes behind the body, a trailer, is none and ends here, as it does at Envoy."""
        if not self._in_head:
            return
        if len(self.headers) > heads.MAX_HEADERS:
            self._refuse(refusals.head_too_large(heads.MAX_HEAD, heads.MAX_HEADERS))
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._waiting = 0
        self._in_head = False
        self._got_head()
        refusal = heads.check(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        kept = heads.end_to_end(self.headers)
        if refusal is not None or kept is None:
            self._refuse(refusal or refusals.bad_request("connection"))
            return
        self.headers[:] = kept
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._waiting = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        self._waiting = 0
        super().on_message_complete()

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_WITHIN, self._too_slow)

    def _got_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refusal = refusals.too_late()
            self.send_400_response("")

    def _unsupported_upgrade_warning(self) -> None:
        """An offer that is not taken up. Nothing behind it can be read, so the connection ends with the answer."""
        self.cycle.keep_alive = False


def _written(refusal: Refusal) -> bytes:
    lines = [
        b"HTTP/1.1 %d " % refusal.status,
        *(b"%s: %s" % header for header in refusal.headers),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + refusal.body


def protocol(*, direct: bool) -> Any:
    """The protocol for the proxy's own listener."""
    return OuterProtocol if direct else InnerProtocol
