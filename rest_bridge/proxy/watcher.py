"""Keeps the proxy's knowledge up to date, and its lease alive (dataplane.proto, Watch)."""

import asyncio
import random
from contextlib import suppress

from orch8cloud.dataplane.v1.dataplane_pb2 import (
    Change,
    ProxyGoodbye,
    ProxyHello,
    ServerHello,
    WatchRequest,
    WatchResponse,
)
from structlog.typing import FilteringBoundLogger

from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.server_link import ChangeStream, ServerCalls, StreamLost

MIN_BACKOFF = 0.1
MAX_BACKOFF = 2.0


class Watcher:
    """Watches for as long as the proxy lives, over as many streams as it takes."""

    def __init__(self, *, calls: ServerCalls, knowledge: Knowledge, log: FilteringBoundLogger) -> None:
        self._calls = calls
        self._knowledge = knowledge
        self._log = log
        self._session: _Session | None = None
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Watches until `leave`, whatever happens to the server."""
        delay = MIN_BACKOFF
        while not self._leaving.is_set():
            was_connected = await self._watch()
            delay = MIN_BACKOFF if was_connected else min(delay * 2, MAX_BACKOFF)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311 - jitter is no secret
                    await self._leaving.wait()

    @property
    def server_version(self) -> int | None:
        """The newest version that the server has spoken of; None where it is not being heard."""
        return None if self._session is None else max(self._session.complete_from, self._knowledge.version)

    def leave(self) -> None:
        """Says goodbye: from now on nothing is served. `run` then ends by itself."""
        self._knowledge.lease.end()
        self._leaving.set()
        if self._session is not None:
            self._session.leave()

    async def _watch(self) -> bool:
        """One stream from beginning to end. True if the server answered it."""
        session = _Session(stream=self._calls.watch(), knowledge=self._knowledge)
        connected = False
        try:
            reset = await session.open(self._calls.proxy_id)
            connected = True
            self._session = session
            self._log.info("connected", version=self._knowledge.version, reset=reset)
            await session.run(leaving=self._leaving.is_set())
        except StreamLost as error:
            if connected and not self._leaving.is_set():
                self._log.warning("lost_server", problem=str(error))
        finally:
            self._session = None
            self._knowledge.lease.stream_lost()
            session.close()
        return connected


class _Session:
    """One stream. It reads and writes at once; acknowledgements coalesce while one is being written.

    A change is acknowledged once no edge acts on what was before it.
    """

    def __init__(self, *, stream: ChangeStream, knowledge: Knowledge) -> None:
        self._stream = stream
        self._knowledge = knowledge
        self._lease = knowledge.lease
        self._edges = knowledge.edges
        self._asked: dict[int, float] = {}
        self._beats = 0
        self._acked = -1
        self.complete_from = 0
        self._leaving = False
        self._wake = asyncio.Event()

    async def open(self, proxy_id: str) -> bool:
        """Says hello and hears the answer. True if everything had to be forgotten."""
        asked_at = self._lease.clock()
        since = self._knowledge.version
        hello = ProxyHello(proxy_id=proxy_id, stale_limit_ms=self._lease.bound_ms, since_version=since)
        await self._stream.write(WatchRequest(hello=hello))
        answer = await self._stream.read()
        if not answer.HasField("hello"):
            raise StreamLost("the server did not answer the hello")
        reset = self._apply_hello(answer.hello)
        self._count_proxies(answer)
        self._renew(asked_at)
        return reset

    async def run(self, *, leaving: bool) -> None:
        """Goes on until the stream is lost, which raises, or until leave."""
        self._leaving = leaving
        reader, writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            done, _ = await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    def leave(self) -> None:
        """Ends the session with a goodbye."""
        self._leaving = True
        self._wake.set()

    def close(self) -> None:
        """Ends the call."""
        self._stream.close()

    def _apply_hello(self, hello: ServerHello) -> bool:
        known = self._knowledge.version
        # A proxy that never heard of a change, or a server that is behind it: neither can be continued from.
        reset = hello.reset or known == 0 or hello.version < known
        if reset:
            self._knowledge.start_over(hello.version)
        self.complete_from = hello.version
        return reset

    def _renew(self, asked_at: float) -> None:
        """Not before the changes of the time away are applied: the server may have stopped waiting for this proxy."""
        if self._knowledge.version >= self.complete_from and not self._leaving:
            self._lease.renew(asked_at)

    def _count_proxies(self, message: WatchResponse) -> None:
        if message.proxies > 0:
            self._knowledge.proxies = message.proxies

    async def _read(self) -> None:
        while True:
            message = await self._stream.read()
            if message.HasField("change"):
                self._apply(message.change)
            elif message.HasField("heartbeat"):
                self._answered(message.heartbeat)
            self._count_proxies(message)

    def _apply(self, change: Change) -> None:
        subject = change.WhichOneof("subject")
        if subject == "instance_id":
            self._knowledge.route_changed(change.version, change.instance_id)
        elif subject == "key_sha256":
            self._knowledge.key_changed(change.version, change.key_sha256)
        else:
            self._knowledge.start_over(max(self._knowledge.version, change.version))
        self._wake.set()

    def _answered(self, beat: int) -> None:
        asked_at = self._asked.pop(beat, None)
        if asked_at is not None:
            self._asked = {number: at for number, at in self._asked.items() if number > beat}
            self._renew(asked_at)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._leaving:
            self._wake.clear()
            await self._acknowledge()
            if loop.time() >= due:
                due = loop.time() + self._lease.heartbeat_interval
                await self._beat()
            settles_in = self._edges.next_settles_in()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due if settles_in is None else min(due, loop.time() + settles_in)):
                    await self._wake.wait()
        # Edges may act on what this proxy knew for a moment longer, and it answers for them.
        await asyncio.sleep(self._edges.over_in())
        await self._stream.write(WatchRequest(goodbye=ProxyGoodbye()))
        await self._stream.finish()

    async def _acknowledge(self) -> None:
        version = self._edges.settled()
        if version > self._acked:
            self._acked = version
            await self._stream.write(WatchRequest(acked_version=version))

    async def _beat(self) -> None:
        self._beats += 1
        self._asked[self._beats] = self._lease.clock()
        await self._stream.write(WatchRequest(heartbeat=self._beats))
