"""Tells the proxies what changed, and knows when none of them can serve the old state any more.

Two things end a proxy's knowledge of an old state: its acknowledgement, or time. A proxy may serve what it knows until
its stale limit has passed since it last asked (dataplane.proto, WatchRequest.heartbeat). We note when we heard it, and
that is not earlier: so a proxy that went silent is certain to have stopped at `heard + stale limit`.

On SQLite this server is the only one, and takes over the proxies of the one before it. On Postgres there may be others,
and what holds of their proxies is said and proven in peers.py.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from server.errors import ChangeUnconfirmed, DatabaseUnavailable
from server.services.identifiers import Clock, Monotonic, growing_time, new_id
from server.services.peers import CHECKED_S, SILENT_S, Peers, serving_time
from server.store.changes import Change
from server.store.database import Database
from server.store.dialects import Signal
from server.store.proxies import KnownProxy

MAX_PENDING = 10_000
REPLAY = 1_000
PAGE = 1_000


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


class Overrun(Exception):
    """A proxy does not take its messages. It has to come again and forget everything."""


class WatchSession:
    """One connected proxy: what it must still hear, and what it has acknowledged."""

    def __init__(self, proxy: KnownProxy, monotonic: Monotonic) -> None:
        self.proxy = proxy
        self.acked = 0
        # What the other servers were told of it last: the version, and whether it is connected.
        self.told = (0, True)
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


@dataclass(frozen=True, slots=True)
class _Silent:
    """A proxy that is not connected and has not taken leave, and until when it may serve."""

    proxy: KnownProxy
    until: float


class Propagation:
    """All proxies that may be serving: connected ones, and silent ones until their time is over."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        confirm_timeout: float,
        monotonic: Monotonic = growing_time,
    ) -> None:
        self.peers = Peers(database, monotonic) if database.is_shared else None
        self._database = database
        self._clock = clock
        self._timeout = confirm_timeout
        self._monotonic = monotonic
        self._sessions: dict[str, WatchSession] = {}
        self._silent: dict[str, _Silent] = {}
        # Streams whose rows are being deleted, or were, and may be in what was read before.
        self._gone: set[str] = set()
        self._version = 0
        self._publishing = asyncio.Lock()
        self._progress = asyncio.Event()
        self._waiting = 0
        self._unconfirmed = 0

    async def start(self) -> None:
        """Learns what there is. A lone server takes over the proxies of the one before: they may serve from now on."""
        async with self._database.read() as tx:
            self._version = await tx.changes.latest()
            known = await tx.proxies.all()
        if self.peers is None:
            now = self._monotonic()
            self._silent = {proxy.id: _Silent(proxy, now + serving_time(proxy)) for proxy in known}
        await self.check()

    def stop(self) -> None:
        """Ends every stream: the proxies go on alone and look for the next server."""
        for session in self._sessions.values():
            session.close()

    @property
    def connected(self) -> int:
        """How many proxies are connected to any server and heard of: one that hangs still has its connection."""
        now = self._monotonic()
        ours = sum(session.silent_for(now) < SILENT_S for session in self._sessions.values())
        return ours + (self.peers.connected(self._sessions) if self.peers else 0)

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
        server_id = self.peers.server_id if self.peers else ""
        proxy = KnownProxy(id=proxy_id, stale_limit_ms=stale_limit_ms, server_id=server_id, session=new_id("watch"))
        session = WatchSession(proxy, self._monotonic)
        try:
            async with self._database.write() as tx:
                await tx.proxies.save(proxy)
                await tx.commit()
            async with self._publishing:
                await self._welcome(session, since)
        except BaseException:
            # Its row may be there all the same, and is this server's to remove.
            self._fall_silent(session)
            raise
        return session

    async def _welcome(self, session: WatchSession, since: int) -> None:
        await self._publish()
        async with self._database.read() as tx:
            missed = [] if since == self._version else await tx.changes.since(since, REPLAY)
        if self.peers is not None and session.silent_for(self._monotonic()) > CHECKED_S:
            # So old that its row may be given up already: it has to come again.
            raise DatabaseUnavailable
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
        self._note(session, connected=True)
        self._wake()

    def heartbeat(self, session: WatchSession, number: int) -> None:
        """Gives the proxy more time, unless another server may have committed what this one has not seen."""
        session.heard()
        if self.peers is None or self.peers.may_answer:
            session.send(Heartbeat(number, proxies=self.connected))

    async def leave(self, session: WatchSession, *, goodbye: bool) -> None:
        """Notes that a proxy's stream has ended. Without a goodbye it may serve on until its time is over."""
        session.close()
        if self._sessions.get(session.proxy.id) is not session:
            return
        del self._sessions[session.proxy.id]
        try:
            if goodbye:
                await self._forget(session.proxy)
        except DatabaseUnavailable:
            goodbye = False
        if not goodbye:
            self._fall_silent(session)
        self._wake()

    async def confirm(self, version: int) -> None:
        """Publishes all changes up to this version and returns when no proxy can serve an older state.

        Raises ChangeUnconfirmed where that is not certain in time. The change stands all the same.
        """
        committed = self._monotonic()
        self._waiting += 1
        try:
            async with self._publishing:
                # Another one may have, while this one waited.
                if self._version < version:
                    await self._publish()
            await self._look(committed)
            async with asyncio.timeout(self._timeout):
                while (certain := self._certain(version, committed)) > self._monotonic():
                    await self._wait_until(certain)
        except TimeoutError:
            wait = timedelta(seconds=max(0.0, self._certain(version, committed) - self._monotonic()))
            self._unconfirmed += 1
            raise ChangeUnconfirmed(self._clock() + wait + timedelta(seconds=1)) from None
        finally:
            self._waiting -= 1
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

    async def check(self) -> None:
        """What is to be done every second: publishes what nobody has, and tells the other servers that we are here."""
        if self.peers is None:
            await self.announce()
            return
        for session in self._sessions.values():
            self._note(session, connected=session.silent_for(self._monotonic()) < SILENT_S)
        await self.peers.check(self._catch_up)
        await self._forget_expired()

    async def hear(self, signals: set[Signal]) -> None:
        """Acts on what another server has committed."""
        if Signal.CHANGES in signals:
            await self.announce()
        if Signal.PROXIES in signals and self._waiting:
            await self._look(self._monotonic())

    async def _catch_up(self) -> None:
        await self.announce()
        await self._look(self._monotonic())

    async def _look(self, not_before: float) -> None:
        """Reads who else may be serving, and lets go of who watches another server by now, or is given up by one."""
        if self.peers is None:
            return
        sessions, silent, gone = dict(self._sessions), dict(self._silent), set(self._gone)
        if await self.peers.look(not_before):
            kept = {row.session for row in self.peers.rows}
            for proxy_id, session in sessions.items():
                if session.proxy.session not in kept and self._sessions.get(proxy_id) is session:
                    session.close()
                    del self._sessions[proxy_id]
            for proxy_id, one in silent.items():
                if one.proxy.session not in kept and self._silent.get(proxy_id) is one:
                    del self._silent[proxy_id]
            self._gone -= gone - kept
            self._adopt([row for row in self.peers.rows if row.server_id == self.peers.server_id])
        self._wake()

    def _adopt(self, rows: list[KnownProxy]) -> None:
        """Rows of ours that nobody remembers, such as those of a hello that failed, are of silent proxies."""
        own = self._own()
        until = self._monotonic()
        for row in rows:
            if row.session not in own:
                self._silent.setdefault(row.id, _Silent(row, until + serving_time(row)))

    def _own(self) -> set[str]:
        """The names of the streams about which this server knows more than their rows tell."""
        ours = [session.proxy for session in self._sessions.values()]
        return self._gone.union(proxy.session for proxy in [*ours, *(one.proxy for one in self._silent.values())])

    def _certain(self, version: int, committed: float) -> float:
        """From when on (monotonic) nobody serves anything older than this version."""
        lagging = [session.serves_until for session in self._sessions.values() if session.acked < version]
        others = self.peers.certain(version, committed, self._own()) if self.peers else 0.0
        return max([others, *lagging, *(one.until for one in self._silent.values())])

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

    def _fall_silent(self, session: WatchSession) -> None:
        self._silent[session.proxy.id] = _Silent(session.proxy, session.serves_until)
        self._note(session, connected=False)

    def _note(self, session: WatchSession, *, connected: bool) -> None:
        """Has the others told, if there is anything new."""
        news = (session.acked, connected)
        if self.peers is not None and news != session.told:
            session.told = news
            self.peers.note(replace(session.proxy, acked_version=session.acked, connected=connected))

    async def _forget_expired(self) -> None:
        now = self._monotonic()
        expired = [one.proxy for one in self._silent.values() if one.until <= now]
        # All at once: while one is forgotten durably, another may come back, and fall silent again.
        for proxy in expired:
            del self._silent[proxy.id]
        if expired:
            await self._forget(*expired)

    async def _forget(self, *proxies: KnownProxy) -> None:
        """Forgets proxies durably, except those that have come back: the next server would not wait for them."""
        sessions = {proxy.session for proxy in proxies}
        if self.peers is not None:
            self._gone |= sessions
        try:
            async with self._database.write() as tx:
                for proxy in proxies:
                    await tx.proxies.remove(proxy.id, proxy.session)
                await tx.commit()
        except BaseException:
            # Their rows are such as nobody remembers.
            self._gone -= sessions
            raise

    def _wake(self) -> None:
        self._progress.set()
