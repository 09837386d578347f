"""What Envoy's administration is asked, over its own address."""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx

from server.domain.addresses import Address

_PATIENCE = 2.0
_POLL = 0.02
# Callers that keep a connection and are at work use it again sooner than this.
_QUIET = 0.25


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

    async def leave(self) -> None:
        """Has each answer ask its caller to close the connection, from now on; new ones are taken all the same."""
        with suppress(httpx.TransportError):
            await self._ask("POST", "/healthcheck/fail")

    async def drain(self, within: float) -> None:
        """Waits until callers that are at work have gone, closes the port, and waits for what is under way."""
        with suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(within):
                await self.leave()
                await self._quiet()
                await self._ask("POST", "/drain_listeners")
                while (await self._counts())["downstream_rq_active"]:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(_POLL)

    async def _quiet(self) -> None:
        """Waits until there is no connection, or none that is used."""
        last, since = -1, 0.0
        while (counts := await self._counts())["downstream_cx_active"]:
            total, now = counts["downstream_rq_total"], asyncio.get_running_loop().time()
            if total != last or counts["downstream_rq_active"]:
                last, since = total, now
            elif now - since >= _QUIET:
                return
            await asyncio.sleep(_POLL)

    async def _counts(self) -> Counter[str]:
        wanted = "downstream_(rq_active|rq_total|cx_active)"
        answer = await self._ask("GET", f"/stats?format=json&filter=^http.edge.{wanted}$")
        stats = [stat for stat in answer.json()["stats"] if "value" in stat]
        return Counter({stat["name"].rpartition(".")[2]: int(stat["value"]) for stat in stats})

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
