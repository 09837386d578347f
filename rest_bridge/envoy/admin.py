"""What Envoy's administration is asked, over its own address."""

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx

from server.domain.addresses import Address

_PATIENCE = 2.0
_POLL = 0.02


class Admin:
    """The administration of one Envoy."""

    def __init__(self, address: Address):
        self._unix = address.path or None
        self._base = "http://envoy" if self._unix else f"http://{address}"

    async def ready(self) -> bool:
        """Whether Envoy takes requests."""
        with suppress(httpx.TransportError):
            return (await self._ask("GET", "/ready")).status_code == httpx.codes.OK
        return False

    async def listens(self, listener: str) -> Address:
        """Where a listener got its port."""
        answer = (await self._ask("GET", "/listeners?format=json")).json()
        found = next(each for each in answer["listener_statuses"] if each["name"] == listener)
        socket = found["local_address"]["socket_address"]
        return Address(host=socket["address"], port=socket["port_value"])

    async def statistics(self) -> str:
        """All of Envoy's statistics, in Prometheus' format; none where it does not answer."""
        with suppress(httpx.TransportError):
            return (await self._ask("GET", "/stats/prometheus")).text
        return ""

    async def drain(self, within: float) -> None:
        """Asks callers to close their connections, and waits for the requests that are under way."""
        with suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(within):
                await self._ask("POST", "/healthcheck/fail")
                await self._ask("POST", "/drain_listeners?graceful&skip_exit")
                await self._idle()

    async def _idle(self) -> None:
        while await self._active_requests():  # noqa: ASYNC110  # another process can only be asked
            await asyncio.sleep(_POLL)

    async def _active_requests(self) -> int:
        answer = await self._ask("GET", "/stats?format=json&filter=^http.edge.downstream_rq_active$")
        return sum(int(stat["value"]) for stat in answer.json()["stats"] if "value" in stat)

    async def _ask(self, method: str, path: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=self._unix)
        async with httpx.AsyncClient(transport=transport, base_url=self._base, timeout=_PATIENCE) as client:
            return await client.request(method, path)


def written_address(file: Path) -> Address | None:
    """Where the administration listens, as Envoy wrote it down; None while it has not."""
    with suppress(OSError, ValueError):
        text = file.read_text()
        return Address.parse(f"unix:{text}" if text.startswith("/") else text)
    return None
