"""What steps do. Names, parameters and outputs are those of the engine's built-in handlers.

noop          {}
log           {"message", "level"?: debug|info|warn} → {"message"}
transform     any object → that object, filled in
fail          {"message"?, "retryable"?: bool}
http_request  {"url", "method"?, "headers"?, "body"?, "timeout_ms"?: 10000} → {"status", "headers", "body"}

`sleep` is the runner's own, since it must outlive the process.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from server.providers.runtime.devengine import log
from server.providers.runtime.devengine.models import JsonObject

if TYPE_CHECKING:
    import httpx

MAX_RESPONSE_BYTES = 10 * 1024 * 1024
DEFAULT_TIMEOUT_MS = 10_000


class StepFailed(Exception):
    """A try of a step has failed. `retryable` says whether another try could help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable


class Handlers:
    """The handlers by name. Only http_request may see secrets: it alone sends its parameters out."""

    def __init__(self, *, allow_internal_urls: bool) -> None:
        self._allow_internal_urls = allow_internal_urls
        self._client: httpx.AsyncClient | None = None
        self._by_name: Mapping[str, Callable[[JsonObject], Awaitable[Any]]] = {
            "noop": self._noop,
            "log": self._log,
            "transform": self._transform,
            "fail": self._fail,
            "http_request": self._http_request,
        }

    async def run(self, handler: str, params: JsonObject) -> Any:
        """What the handler leaves. Raises StepFailed."""
        return await self._by_name[handler](params)

    async def close(self) -> None:
        """Closes the connections of http_request."""
        if self._client is not None:
            await self._client.aclose()

    async def _noop(self, _params: JsonObject) -> JsonObject:
        return {}

    async def _log(self, params: JsonObject) -> JsonObject:
        message = params.get("message", "no message")
        write = log.warn if params.get("level") == "warn" else log.info
        write("log step", text=message)
        return {"message": message}

    async def _transform(self, params: JsonObject) -> JsonObject:
        return params

    async def _fail(self, params: JsonObject) -> JsonObject:
        message = str(params.get("message") or "step failed")
        raise StepFailed(message, retryable=params.get("retryable") is True)

    async def _http_request(self, params: JsonObject) -> JsonObject:
        import httpx  # here, because it is slow to load and most runs do without

        url = params.get("url")
        if not isinstance(url, str):
            raise StepFailed("missing required param: url")
        if not self._allow_internal_urls:
            await _check_public(url)
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False)
        try:
            async with asyncio.timeout(_timeout_s(params)):
                return await _exchange(self._client, _request(self._client, url, params))
        except TimeoutError as error:
            raise StepFailed("HTTP request failed: timed out", retryable=True) from error
        except httpx.TransportError as error:
            raise StepFailed(f"HTTP request failed: {type(error).__name__}", retryable=True) from error


def _timeout_s(params: JsonObject) -> float:
    value = params.get("timeout_ms", DEFAULT_TIMEOUT_MS)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise StepFailed("timeout_ms must be a positive number")
    return float(value) / 1000


def _request(client: "httpx.AsyncClient", url: str, params: JsonObject) -> "httpx.Request":
    import httpx

    body = params.get("body")
    headers = {str(name): str(value) for name, value in (params.get("headers") or {}).items()}
    try:
        request = client.build_request(str(params.get("method") or "GET").upper(), url, headers=headers, timeout=None)
        if body in (None, ""):
            return request
        if not isinstance(body, str):
            return client.build_request(request.method, url, headers=headers, json=body, timeout=None)
        headers = {"content-type": "application/json", **{name.lower(): value for name, value in headers.items()}}
        return client.build_request(request.method, url, headers=headers, content=body, timeout=None)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        # The parameters may hold secrets, so the message does not repeat them.
        raise StepFailed("url, method, headers or body cannot be sent") from error


async def _exchange(client: "httpx.AsyncClient", request: "httpx.Request") -> JsonObject:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_RESPONSE_BYTES:
                raise StepFailed("response too large: more than 10 MiB")
    finally:
        await response.aclose()
    status = response.status_code
    if status >= 400:
        raise StepFailed(f"HTTP {status} from {request.url.host}", retryable=status >= 500)
    return {"status": status, "headers": dict(response.headers), "body": body.decode("utf-8", "replace")}


async def _check_public(url: str) -> None:
    """The engine's guard against requests to its own network, lifted by ORCH8_ALLOW_INTERNAL_URLS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise StepFailed("url is not a URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise StepFailed("url must be an http or https URL")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StepFailed("blocked: URL does not resolve") from error
    if not all(ipaddress.ip_address(address[4][0]).is_global for address in found):
        raise StepFailed("blocked: URL targets a private/internal network address")
