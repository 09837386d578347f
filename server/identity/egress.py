"""The one guard of calls to addresses that users choose: it resolves, checks, and connects to what it has checked.

No check before the connection can do this: the name may resolve to something else a moment later (DNS rebinding), and a
redirect names another host. So the check stands where the connection is made, and covers both.
"""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from server.domain.urls import Refused, check_url, is_allowed

Resolver = Callable[[str, int], Awaitable[list[str]]]

TIMEOUT_S = 5.0
# No compression: what a few bytes unfold to could not be bounded.
HEADERS = {"User-Agent": "orch8-cloud", "Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer: its status, headers (lower case), and body within the limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises Refused."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Refused("the answer is not JSON") from error


async def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, as the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(row[4][0]) for row in found]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts by the addresses that it has checked itself, so that nothing can change in between."""

    def __init__(self, *, allow_loopback: bool, resolver: Resolver = resolve) -> None:
        self._allow_loopback = allow_loopback
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to a checked address of the host. Raises Refused, or httpcore's errors."""
        try:
            async with asyncio.timeout(timeout):
                found = [ipaddress.ip_address(text) for text in await self._resolver(host, port)]
        except (OSError, ValueError, TimeoutError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        # One bad address spoils the name: a mixture is how rebinding begins.
        if not found or not all(is_allowed(address, allow_loopback=self._allow_loopback) for address in found):
            raise Refused(f"{host} is not a public address")
        return await self._inner.connect_tcp(str(found[0]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: users name hosts. Raises Refused."""
        raise Refused("a Unix socket is not a public address")

    async def sleep(self, seconds: float) -> None:
        """Waits between httpcore's own retries."""
        await self._inner.sleep(seconds)


class GuardedClient:
    """Calls addresses that users chose: HTTPS, no redirects, no proxies, no cookies, bounded in size and time."""

    def __init__(self, *, allow_loopback: bool = False, resolver: Resolver = resolve, verify: Any = True) -> None:
        self._allow_loopback = allow_loopback
        backend = GuardedBackend(allow_loopback=allow_loopback, resolver=resolver)
        # Nothing is kept open: each call resolves and checks anew.
        limits = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits)
        # httpx has no public way to hand its pool a network backend.
        transport._pool._network_backend = backend  # noqa: SLF001
        self._http = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, headers=HEADERS)

    async def get(self, url: str, *, limit: int, seconds: float = TIMEOUT_S) -> Fetched:
        """An answer of at most `limit` bytes within so many seconds. Raises Refused or httpx.HTTPError."""
        check_url(url, allow_loopback=self._allow_loopback)
        try:
            async with asyncio.timeout(seconds), self._http.stream("GET", url, timeout=seconds) as answer:
                return Fetched(answer.status_code, dict(answer.headers), await _bounded(answer, limit))
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer within {seconds:g} s") from error

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()


async def _bounded(answer: httpx.Response, limit: int) -> bytes:
    if "content-encoding" in answer.headers:
        raise Refused("the answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise Refused(f"the answer is larger than {limit} bytes")
    return bytes(body)
