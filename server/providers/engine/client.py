"""Asks an engine for its health and version (providers' facts: /health/ready and /info need no key)."""

from dataclasses import dataclass

import httpx

from server.errors import EngineError
from server.providers.runtime.base import Upstream

TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHealth:
    """What an engine said of itself."""

    ready: bool
    version: str


class EngineClient:
    """Talks to the management side of engines."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def health(self, upstream: Upstream) -> EngineHealth:
        """The engine's readiness and version. Raises EngineError."""
        base = f"{'https' if upstream.tls else 'http'}://{upstream.host}:{upstream.port}"
        headers = dict(upstream.headers)
        try:
            ready = await self._http.get(f"{base}/health/ready", headers=headers, timeout=TIMEOUT_S)
            info = await self._http.get(f"{base}/info", headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise EngineError("The engine does not answer. It is restarted if it has died; try again.") from error
        if ready.status_code not in (200, 503) or info.status_code != 200:
            status = info.status_code if ready.status_code in (200, 503) else ready.status_code
            raise EngineError(f"The engine answered with status {status}.", {"engine_status": str(status)})
        return EngineHealth(ready=ready.status_code == 200, version=_version(info))


def _version(info: httpx.Response) -> str:
    try:
        return str(info.json()["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError("The engine's answer is not what an engine answers.", {"engine_status": "200"}) from error
