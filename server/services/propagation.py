"""Tells the proxies what changed, and knows when none of them can serve the old state any more.

Two things end a proxy's knowledge of an old state: its acknowledgement, or time. A proxy may serve what it knows until
its stale limit has passed since it last asked (dataplane.proto, WatchRequest.heartbeat). We note when we heard it, and
that is not earlier: so a proxy that went silent is certain to have stopped at `heard + stale limit`.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from server.errors import ChangeUnconfirmed
from server.services.identifiers import Clock
from server.store.changes import Change
from server.store.database import Database
from server.store.proxies import KnownProxy

MAX_PENDING = 10_000
REPLAY = 1_000
PAGE = 1_000
# Proxies ask for more time every second.
SILENT_S = 3.0
# How much slower than ours a proxy's clock may run: twice what NTP does to a clock that it corrects (500 ppm).
DRIFT = 0.001


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to a hello: the version, whether everything must be forgotten first, and how many proxies serve."""

    version: int
    reset: bool
    proxies: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat, and how many proxies serve now."""

    number: int
    proxies: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Proxies that are connected or silent, how many versions the slowest is behind, and changes that wait for them.

    `unconfirmed` counts since the start.
    """

    version: int
    connected: int
    silent: int
    lag: int
    waiting: int
    unconfirmed: int


Message = Welcome | Heartbeat | Change


def serving_time(proxy: KnownProxy) -> float:
    """Seconds of our clock for which a proxy that falls silent may serve what it knows."""
    return proxy.stale_limit_ms / 1000 * (1 + DRIFT)


class Overrun(Exception):
    """A proxy does not take its messages. It has to come again and forget everything."""


class WatchSession:
    """One connected proxy: what it must still hear, and what it has acknowledged."""

    def __init__(self, proxy: KnownProxy, monotonic: Callable[[], float]) -> None:
        self.proxy = proxy
        self.acked = 0
        self._monotonic = monotonic
        self._heard = monotonic()
        self._messages: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def serves_until(self) -> float:
        """The latest moment (monotonic) at which it can still serve what it knew, if it stays silent from now on."""
        return self._heard + serving_time(self.proxy)

    def silent_for(self, now: float) -> float:
        """Seconds since the proxy was heard last."""
        return now - self._heard

    def heard(self) -> None:
        """Notes that the proxy asked for more time, before it is answered."""
        self._heard = self._monotonic()

    def send(self, message: Message) -> None:
        """Queues a message. A proxy that does not read ends with Overrun."""
        self._messages.append(message)
        self._closed = self._closed or len(self._messages) > MAX_PENDING
        self._wake.set()

    def close(self) -> None:
        """Ends messages()."""
        self._closed = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[Message]:
        """Every message, in order, until the session is closed. Raises Overrun."""
        while not self._closed:
            while self._messages and not self._closed:
                yield self._messages.popleft()
            self._wake.clear()
            if not self._messages and not self._closed:
                await self._wake.wait()
        if len(self._messages) > MAX_PENDING:
            raise Overrun


class Propagation:
    """All proxies that may be serving: connected ones, and silent ones until their time is over."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        confirm_timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._timeout = confirm_timeout
        self._monotonic = monotonic
        self._sessions: dict[str, WatchSession] = {}
        self._silent: dict[str, float] = {}
        self._version = 0
        self._publishing = asyncio.Lock()
        # Who is remembered durably, and who is in the two tables above, change together.
        self._membership = asyncio.Lock()
        self._progress = asyncio.Event()
        self._waiting = 0
        self._unconfirmed = 0

    async def start(self) -> None:
        """Takes over from the server before this one: its proxies may serve until their limit, counted from now."""
        async with self._database.read() as tx:
            self._version = await tx.changes.latest()
            known = await tx.proxies.all()
        now = self._monotonic()
        self._silent = {proxy.id: now + serving_time(proxy) for proxy in known}

    def stop(self) -> None:
        """Ends every stream: the proxies go on alone and look for the next server."""
        for session in self._sessions.values():
            session.close()

    @property
    def connected(self) -> int:
        """How many proxies are connected and heard of: one that hangs still has its connection."""
        now = self._monotonic()
        return sum(session.silent_for(now) < SILENT_S for session in self._sessions.values())

    def standing(self) -> Standing:
        """How things stand."""
        slowest = min((session.acked for session in self._sessions.values()), default=self._version)
        return Standing(
            version=self._version,
            connected=self.connected,
            silent=len(self._silent),
            lag=max(0, self._version - slowest),
            waiting=self._waiting,
            unconfirmed=self._unconfirmed,
        )

    async def join(self, proxy_id: str, stale_limit_ms: int, since: int) -> WatchSession:
        """Admits a proxy that said hello. It is remembered durably before it may serve anything."""
        proxy = KnownProxy(id=proxy_id, stale_limit_ms=stale_limit_ms, seen_at=self._clock())
        session = WatchSession(proxy, self._monotonic)
        async with self._membership:
            async with self._database.write() as tx:
                await tx.proxies.save(proxy)
                await tx.commit()
            async with self._publishing:
                await self._welcome(session, since)
        return session

    async def _welcome(self, session: WatchSession, since: int) -> None:
        await self._publish()
        async with self._database.read() as tx:
            missed = [] if since == self._version else await tx.changes.since(since, REPLAY)
        before = self._sessions.get(session.proxy.id)
        if before is not None:
            before.close()
        self._sessions[session.proxy.id] = session
        session.send(Welcome(self._version, reset=missed is None, proxies=self.connected))
        for change in missed or ():
            session.send(change)
        self._silent.pop(session.proxy.id, None)

    def acknowledge(self, session: WatchSession, version: int) -> None:
        """Notes that the proxy serves nothing older than this version."""
        session.acked = max(session.acked, version)
        self._wake()

    def heartbeat(self, session: WatchSession, number: int) -> None:
        """Gives the proxy more time."""
        session.heard()
        session.send(Heartbeat(number, proxies=self.connected))

    async def leave(self, session: WatchSession, *, goodbye: bool) -> None:
        """Notes that a proxy's stream has ended. Without a goodbye it may serve on until its time is over."""
        session.close()
        if self._sessions.get(session.proxy.id) is not session:
            return
        del self._sessions[session.proxy.id]
        if goodbye:
            await self._forget(session.proxy.id)
        else:
            self._silent[session.proxy.id] = session.serves_until
        self._wake()

    async def confirm(self, version: int) -> None:
        """Publishes all changes up to this version and returns when no proxy can serve an older state.

        Raises ChangeUnconfirmed where that is not certain in time. The change stands all the same.
        """
        self._waiting += 1
        try:
            await self._confirm(version)
        except ChangeUnconfirmed:
            self._unconfirmed += 1
            raise
        finally:
            self._waiting -= 1

    async def _confirm(self, version: int) -> None:
        async with self._publishing:
            await self._publish()
        try:
            async with asyncio.timeout(self._timeout):
                while (certain := self._certain(version)) > self._monotonic():
                    await self._wait_until(certain)
        except TimeoutError:
            wait = timedelta(seconds=max(0.0, self._certain(version) - self._monotonic()))
            raise ChangeUnconfirmed(self._clock() + wait + timedelta(seconds=1)) from None
        await self._forget_expired()

    async def settle(self) -> None:
        """Gives the proxies the time of a confirmation to learn what is stored now; it is no error if they do not."""
        async with self._database.read() as tx:
            version = await tx.changes.latest()
        with suppress(ChangeUnconfirmed):
            await self.confirm(version)

    async def announce(self) -> None:
        """Publishes all changes, and waits for nobody: for changes that take nothing away."""
        async with self._publishing:
            await self._publish()

    def _certain(self, version: int) -> float:
        """From when on (monotonic) nobody serves anything older than this version."""
        lagging = [session.serves_until for session in self._sessions.values() if session.acked < version]
        return max([*lagging, *self._silent.values()], default=0.0)

    async def _wait_until(self, moment: float) -> None:
        self._progress.clear()
        try:
            async with asyncio.timeout(max(0.0, moment - self._monotonic())):
                await self._progress.wait()
        except TimeoutError:
            return

    async def _publish(self) -> None:
        """Sends what the log has that was not sent, in the log's order: commits may end in another one."""
        while True:
            async with self._database.read() as tx:
                changes = await tx.changes.after(self._version, PAGE)
            for change in changes:
                for session in self._sessions.values():
                    session.send(change)
                self._version = change.version
            if len(changes) < PAGE:
                return

    async def _forget_expired(self) -> None:
        now = self._monotonic()
        expired = [proxy_id for proxy_id, until in self._silent.items() if until <= now]
        # All at once: while one is forgotten durably, another may come back, and fall silent again.
        for proxy_id in expired:
            del self._silent[proxy_id]
        for proxy_id in expired:
            await self._forget(proxy_id)

    async def _forget(self, proxy_id: str) -> None:
        """Forgets a proxy durably, unless it has come back meanwhile: the next server would not wait for it."""
        async with self._membership:
            if proxy_id in self._sessions or proxy_id in self._silent:
                return
            async with self._database.write() as tx:
                await tx.proxies.remove(proxy_id)
                await tx.commit()

    def _wake(self) -> None:
        self._progress.set()
