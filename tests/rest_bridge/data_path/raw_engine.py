"""An engine that answers bytes which no HTTP library would write, as the path asks for."""

import asyncio
from collections.abc import Mapping

_OK = b"HTTP/1.1 200 OK\r\nx-engine: yes\r\n"

# What comes after a request has arrived; then the connection ends.
ANSWERS: Mapping[str, bytes] = {
    "/nothing": b"",
    "/half-a-head": b"HTTP/1.1 200 OK\r\nx-engine: y",
    "/garbage": b"no HTTP at all\r\n\r\n",
    "/hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + _OK + b"content-length: 2\r\n\r\nok",
    "/processing": b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + _OK + b"content-length: 2\r\n\r\nok",
    "/no-content": b"HTTP/1.1 204 No Content\r\nx-engine: yes\r\n\r\n",
    "/not-modified": b'HTTP/1.1 304 Not Modified\r\nx-engine: yes\r\netag: "1"\r\ncontent-length: 500\r\n\r\n',
    "/length": _OK + b"content-length: 500\r\n\r\n",
    "/chunked": _OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/trailers": _OK + b"transfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
    "/until-the-end": _OK + b"\r\nok",
    "/redirect": b"HTTP/1.1 302 Found\r\nx-engine: yes\r\nlocation: http://169.254.169.254/\r\n"
    b"content-length: 0\r\n\r\n",
    "/webhooks/nothing": b"",
    "/cookies": _OK + b"set-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\nok",
    "/odd-status": b"HTTP/1.1 299 Odd\r\nx-engine: yes\r\ncontent-length: 2\r\n\r\nok",
    "/internals": _OK
    + b"X-Orch8-Decision-Id: forged\r\nX-Orch8-Upstream: 10.0.0.1:1\r\nX-API-Key: secret\r\nX-Gateway-Subject: s\r\n"
    + b"X-Gateway-Provider: p\r\nFly-Request-Id: f\r\nFly-Replay: app=other\r\nX-Envoy-Upstream-Service-Time: 1\r\n"
    + b"X-Request-Id: forged\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
    + b"WWW-Authenticate: Bearer\r\nServer: engine\r\nRetry-After: 9\r\nContent-Length: 2\r\n\r\nok",
}


class RawEngine:
    """`heads` are the request heads that arrived."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        self.heads.append(head)
        path = head.split(b" ", 2)[1].partition(b"?")[0].decode()
        if path == "/reset":
            writer.transport.abort()
            return
        writer.write(ANSWERS[path])
        await writer.drain()
        writer.close()
