"""A request a second to our own Envoy, so that no worker keeps for itself what it has counted.

Workers report what they let pass unasked with a request that comes later (remembered.lua): they have no timers. Each
pulse is a new connection, which Envoy gives to the worker that has the fewest: an idle one has its turn.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace

import httpx

from server.domain.addresses import Address

INTERVAL_S = 1.0
_PATIENCE_S = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be replaced, not to be listened on


async def beat(address: Address, *, tls: bool) -> None:
    """Goes on until it is cancelled. Whether Envoy answers is for others to watch."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        with suppress(httpx.HTTPError, OSError):
            await _beat_once(address, tls=tls)


async def _beat_once(address: Address, *, tls: bool) -> None:
    # The certificate is for the name by which the world knows us, and nothing is said here that is not public.
    transport = httpx.AsyncHTTPTransport(uds=address.path or None, verify=False)
    here = replace(address, host=_EVERYWHERE.get(address.host, address.host))
    where = "edge" if address.is_unix else str(here)
    async with httpx.AsyncClient(transport=transport, timeout=_PATIENCE_S) as client:
        await client.get(f"{'https' if tls else 'http'}://{where}/healthz")
