"""Reads what Envoy says of answers (answer_log.py), and passes the sums on to a proxy, which reports them."""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from rest_bridge.answers import Row, Tally, to_messages
from rest_bridge.envoy.answer_log import tally
from server.domain.addresses import Address, Addresses

INTERVAL_S = 5.0
ROWS_PER_REPORT = 1_000
# For a minute what could not be told is kept.
MAX_FAILURES = 12
_PATIENCE_S = 3.0
# Far more than a line has.
_MOST_OF_A_LINE = 4096


class ProxiesAway(Exception):
    """No proxy takes the sums, and none has taken them."""


class AnswerReader(asyncio.Protocol):
    """Reads a pipe that Envoy takes for its log file, for as long as it is open, and tallies what comes.

    Envoy never waits for it; what is not read stays in Envoy's memory, as with a log on standard output.
    """

    def __init__(self, path: Path, into: Tally) -> None:
        self._path = path
        self._into = into
        self._rest = b""
        self._writer = -1
        self._transport: asyncio.BaseTransport | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Makes the pipe, for this user only, and begins to read."""
        os.mkfifo(self._path, mode=0o600)
        reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        # While somebody may write, there is no end of file: Envoy opens it later.
        self._writer = os.open(self._path, os.O_WRONLY)
        pipe = os.fdopen(reader, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, pipe)

    def data_received(self, data: bytes) -> None:
        """Takes whole lines, and keeps the beginning of the next one."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_MOST_OF_A_LINE]
        tally(lines, self._into, time.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody writes any more."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def drain(self) -> None:
        """Reads to the end, now that Envoy has ended."""
        if self._transport is None:
            return
        os.close(self._writer)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._ended
        self._transport.close()


class AnswerReports:
    """Passes a tally on every few seconds. A report that may have arrived is not sent again."""

    def __init__(self, answers: Tally, proxies: Addresses) -> None:
        self._answers = answers
        self._proxies = proxies
        self._failures = 0

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Passes on what was tallied since the last time."""
        rows = self._answers.take()
        try:
            while rows:
                await self._tell(rows[:ROWS_PER_REPORT])
                del rows[:ROWS_PER_REPORT]
            self._failures = 0
        except ProxiesAway:
            self._failures += 1
            keep = self._answers.add if self._failures < MAX_FAILURES else self._answers.lose
            keep(rows)

    async def _tell(self, rows: Sequence[Row]) -> None:
        body = pb.ReportTrafficRequest(answers=to_messages(rows)).SerializeToString()
        # Any of them will do, and all should have their share.
        for proxy in random.sample(self._proxies.each, len(self._proxies)):
            try:
                await _post(proxy, body)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError:
                self._answers.lose(rows)
            return
        raise ProxiesAway


async def _post(proxy: Address, body: bytes) -> None:
    # Proxies speak no TLS, and to read the authorities for it would cost more than all else here.
    transport = httpx.AsyncHTTPTransport(uds=proxy.path or None, verify=False)
    where = "proxy" if proxy.is_unix else str(proxy)
    async with httpx.AsyncClient(transport=transport, timeout=_PATIENCE_S, trust_env=False) as client:
        (await client.post(f"http://{where}/edge/answers", content=body)).raise_for_status()
