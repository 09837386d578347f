"""What every request passes first: an id, the two mounts, the key, the tenant, and one line of log."""

import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.providers.runtime.devengine import log
from server.providers.runtime.devengine.engine import Engine

API = "/api/v1"
# Only at the root, without a key and without being deprecated there.
PUBLIC = re.compile(r"/(health/live|health/ready|info|webhooks/[^/]+)")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
DEPRECATION = "@1767225600"
SUNSET = "Sat, 01 Jan 2028 00:00:00 GMT"
LOGGED = ("x-gateway-provider", "x-gateway-subject", "x-tenant-id")


class Front:
    """Wraps the routes, which know only bare paths and allowed callers."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path, started = Headers(scope=scope), scope["path"], time.monotonic()
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), path, request_id)
            await send(message)

        try:
            await self._admit(scope, headers, receive, answer)
        finally:
            fields = {name: headers[name] for name in LOGGED if name in headers}
            took = round((time.monotonic() - started) * 1000, 1)
            fields |= {"x-request-id": request_id}
            log.info("request", method=scope["method"], path=path, status=status, duration_ms=took, **fields)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if not PUBLIC.fullmatch(path):
            refusal = self._refusal(headers)
            if refusal:
                await Response(status_code=refusal)(scope, receive, send)
                return
            if path.startswith(API + "/"):
                bare = path.removeprefix(API)
                # What lives at the root only is not found under the prefix: a doubled slash matches no route.
                scope = {**scope, "path": "/" + bare if PUBLIC.fullmatch(bare) else bare}
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> int | None:
        """The status of a refusal, which has an empty body, or None."""
        if not self._engine.check_key(headers.get("x-api-key", "")):
            return 401
        if self._engine.settings.require_tenant_header and not headers.get("x-tenant-id", "").strip():
            return 400
        return None


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["x-request-id"] = request_id
    if path.startswith(API + "/") or PUBLIC.fullmatch(path):
        return
    headers["deprecation"] = DEPRECATION
    headers["sunset"] = SUNSET
    headers["link"] = f'<{API}{quote(path)}>; rel="successor-version"'
