"""Several servers on one database: what the proxies of the others may still serve, and that this one is there.

A proxy watches one server, and that server alone gives it time: the answer to a question that the proxy asked at its
time t lets it serve until t + its stale limit. Here is why a change that one server has confirmed is true on all of
them. No two hosts' clocks are compared, the database's neither: each server measures with its own, which only grows.

1. Before a proxy is answered its hello, its row names this server and a fresh session, with nothing acknowledged. What
   the hello is answered is read from the log after that. So a proxy whose row was written after a change was committed
   has more time only once it has applied the change, and one whose row was written before is found by whoever reads the
   rows after the commit. It is in one row whichever server it watches: never lost, never counted twice.
2. Every server beats: it raises its number in the database, then reads the log and hands what is new to its sessions,
   then reads the rows and drops the sessions that have lost theirs. From the moment when this began it may answer
   heartbeats for CHECKED_S, not longer. So once a change was committed, a heartbeat is answered by a server that does
   not know it for CHECKED_S at most: after `committed + CHECKED_S + stale limit` nothing older is served, by anybody.
3. The same holds from the beat on where a server beats no more: whoever saw the beat knows that it began before. A beat
   that comes after the rows were read is followed by a reading of the log that has the change.
4. A row is deleted by its own server when the proxy took leave or its time is over, or by another one when the time of
   (3) is over and, in the same transaction, the server still has not beaten. Both name the session, so a proxy that has
   come back meanwhile keeps its row; and a server that beats after that finds the row gone, in (2), before it answers.

While the database is away no server can know that none has committed a change (its own link may be cut, not that of
another), so none answers heartbeats after CHECKED_S: the proxies then serve until their stale limit, and so do we fail
closed. Their streams stay open, and time is given again with the first beat.

Acknowledgements are written together, at most one transaction in REPORT_S; heartbeats never.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from server.services.identifiers import Monotonic, new_id
from server.store.database import Database
from server.store.proxies import KnownProxy

# How much slower than ours another clock may run: twice what NTP does to a clock that it corrects (500 ppm).
DRIFT = 0.001
CHECKED_S = 3.0
REPORT_S = 0.02
# Proxies ask for more time, and servers beat, every second. Who was not heard for so long is not counted.
SILENT_S = 3.0
# A server without proxies that has not beaten for so long is forgotten.
FORGOTTEN_S = 600.0


def serving_time(proxy: KnownProxy) -> float:
    """Seconds of our clock for which a proxy that falls silent may serve what it knows."""
    return proxy.stale_limit_ms / 1000 * (1 + DRIFT)


@dataclass(slots=True)
class _Sighting:
    """A server's beat, and since when we know it."""

    beat: int
    since: float


@dataclass(slots=True)
class _View:
    """What was read of all proxies and servers at one moment, and since when each of it is known."""

    began: float = float("-inf")
    rows: list[KnownProxy] = field(default_factory=list)
    servers: dict[str, _Sighting] = field(default_factory=dict)
    sessions: dict[str, float] = field(default_factory=dict)

    def next(self, began: float, ended: float, rows: list[KnownProxy], beats: dict[str, int]) -> "_View":
        """The view after this one."""
        servers = {}
        for server_id, beat in beats.items():
            before = self.servers.get(server_id)
            servers[server_id] = before if before and before.beat == beat else _Sighting(beat, ended)
        sessions = {row.session: self.sessions.get(row.session, ended) for row in rows}
        return _View(began, rows, servers, sessions)

    def heard(self, row: KnownProxy) -> float:
        """No heartbeat of the proxy was answered later than CHECKED_S after this, unless its server beats again."""
        server = self.servers.get(row.server_id)
        return max(self.sessions[row.session], server.since if server else 0.0)


class Peers:
    """The other servers, as the database shows them, and this one for them."""

    def __init__(self, database: Database, monotonic: Monotonic) -> None:
        self.server_id = new_id("srv")
        self._database = database
        self._monotonic = monotonic
        self._beat = 0
        self._checked_until = 0.0
        self._view = _View()
        self._looking = asyncio.Lock()
        self._notes: dict[str, KnownProxy] = {}
        self._noted = asyncio.Event()

    @property
    def rows(self) -> list[KnownProxy]:
        """Every proxy that may be serving, as of the last look."""
        return self._view.rows

    @property
    def may_answer(self) -> bool:
        """Whether proxies may be given more time."""
        return self._monotonic() < self._checked_until

    async def check(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        """Beats, has what is new read and handed on, and from then on may answer for a while."""
        began = self._monotonic()
        self._beat += 1
        async with self._database.write() as tx:
            await tx.proxies.beat(self.server_id, self._beat)
            await tx.commit()
        await catch_up()
        self._checked_until = began + CHECKED_S
        await self._bury_the_dead()

    async def look(self, not_before: float) -> bool:
        """Reads all rows, unless that was begun after this moment already. Says whether it did."""
        async with self._looking:
            if self._view.began > not_before:
                return False
            began = self._monotonic()
            async with self._database.read() as tx:
                rows, beats = await tx.proxies.all(), await tx.proxies.beats()
            self._view = self._view.next(began, self._monotonic(), rows, beats)
            return True

    def certain(self, version: int, committed: float, own: Collection[str]) -> float:
        """From when on none of the proxies, except those of our own sessions, serves anything older than this version.

        `committed`: a moment after which the version was committed, and before the last look began.
        """
        lagging = (row for row in self._view.rows if row.acked_version < version and row.session not in own)
        return max((_over(row, min(committed, self._view.heard(row))) for row in lagging), default=0.0)

    def connected(self, own: Collection[str]) -> int:
        """How many proxies are connected to the other servers, and not to ours by now (`own`, by their ids)."""
        now = self._monotonic()
        servers = {name for name, server in self._view.servers.items() if now - server.since < SILENT_S}
        servers.discard(self.server_id)
        return sum(row.connected and row.server_id in servers and row.id not in own for row in self._view.rows)

    def note(self, proxy: KnownProxy) -> None:
        """Takes what is new of a proxy of ours, for the others."""
        self._notes[proxy.session] = proxy
        self._noted.set()

    async def report(self) -> None:
        """Writes down what was noted, once there is something. What could not be written is kept."""
        await self._noted.wait()
        self._noted.clear()
        notes, self._notes = self._notes, {}
        try:
            async with self._database.write() as tx:
                await tx.proxies.note(list(notes.values()))
                await tx.commit()
        except BaseException:
            self._notes = notes | self._notes
            self._noted.set()
            raise

    async def _bury_the_dead(self) -> None:
        """Forgets proxies whose server beats no more, once their time is over."""
        now = self._monotonic()
        view = self._view
        dead: dict[str, list[str]] = {
            name: []
            for name, server in view.servers.items()
            if now - server.since > FORGOTTEN_S and all(row.server_id != name for row in view.rows)
        }
        for row in view.rows:
            if row.server_id != self.server_id and _over(row, view.heard(row)) < now:
                dead.setdefault(row.server_id, []).append(row.session)
        for server_id, sessions in dead.items():
            seen = view.servers.get(server_id)
            async with self._database.write() as tx:
                if await tx.proxies.bury(server_id, seen.beat if seen else None, sessions):
                    await tx.commit()


def _over(row: KnownProxy, heard: float) -> float:
    return heard + CHECKED_S * (1 + DRIFT) + serving_time(row)
