"""Tells all who follow events of this server what was committed, here or by another server.

One reader fetches what is new, once, and gives it to every subscriber whom it concerns: there is no query for each of
them, and what several are told alike is one Batch, which is put into bytes once. The reader's position is a row: all
who have joined have been told of everything up to it. Who joins brings a cursor that is not before it, and hears of
nothing twice and misses nothing, as no event is ever added before one that was seen (server/store/events.py).

A server sends so many messages a second at most. Where more people follow than that, they are told less often and of
more at once: telling 2 000 of one organization takes most of a second.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from server.domain.access import Caller, KeyHolder, Member
from server.domain.events import BEGINNING, Cursor, Event
from server.errors import CloudError, RateLimited, SubscriberTooSlow, TokenInvalid, Unauthenticated, Unavailable
from server.services.identifiers import Clock
from server.store.database import Database

MOST = 4_000
MOST_OF_ONE = 2_500
# Events that wait for one subscriber.
QUEUE = 5_000
BATCH = 500
# Of one message, about: gRPC clients take up to 4 MiB.
IN_A_MESSAGE = 1_000
ROWS = 1_000
# With more organizations than this the rows of all are read: a list of them would be longer than the rows.
NAMED = 500
# gRPC takes about 0.2 ms for a message: this is half of what a core can send.
MESSAGES_A_SECOND = 2_500
IN_A_ROW = 25
KEYS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Wants:
    """What a subscriber wants to be told of; None: of everything. A kind ends with "." where it is all of a family."""

    instance_id: str | None = None
    kinds: frozenset[str] | None = None

    def includes(self, event: Event) -> bool:
        """Whether this event is among it."""
        if self.instance_id not in (None, event.instance_id):
            return False
        kind = event.kind
        return self.kinds is None or kind in self.kinds or f"{kind.partition('.')[0]}." in self.kinds


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that follow each other, at least one. `looks`: its bytes, by who made them, for all who are told of it."""

    events: tuple[Event, ...]
    looks: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def cursor(self) -> Cursor:
        """The place behind it."""
        cursor = self.events[-1].cursor
        assert cursor is not None
        return cursor


def batches(events: Iterable[Event], wants: Wants, behind: Cursor = BEGINNING) -> list[Batch]:
    """What is wanted of some events, behind the cursor."""
    found = [one for one in events if wants.includes(one) and one.cursor is not None and one.cursor > behind]
    return [Batch(tuple(found[first : first + BATCH])) for first in range(0, len(found), BATCH)]


class Subscriber:
    """One who is told of events: what waits to be read, and whether there will be more."""

    def __init__(self, caller: Caller, wants: Wants) -> None:
        self.caller = caller
        self.wants = wants
        # Behind what it was told of, and what was not for it.
        self.position = Cursor(0)
        self._waiting: deque[Batch] = deque()
        self._events = 0
        self._wake = asyncio.Event()
        self._end: CloudError | None = None

    def offer(self, found: Sequence[Batch]) -> None:
        """Puts batches in the queue. One who does not read ends, and holds nothing up. An empty queue takes any."""
        if self._end is not None or not found:
            return
        self._waiting += found
        before, self._events = self._events, self._events + sum(len(one.events) for one in found)
        if before and self._events > QUEUE:
            self.end(SubscriberTooSlow(QUEUE))
        self._wake.set()

    def end(self, error: CloudError) -> None:
        """Ends it with this error. What waits is not told any more."""
        if self._end is None:
            self._end = error
            self._waiting.clear()
            self._events = 0
            self._wake.set()

    def check(self) -> None:
        """Raises the error with which it has ended, if it has."""
        if self._end is not None:
            raise self._end

    async def take(self, patience: float) -> list[Batch]:
        """The first of what waits, as soon as there is something; nothing after so many seconds.

        Raises what it ended with.
        """
        if not self._waiting and self._end is None:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wake.wait()
        self.check()
        if not self._waiting:
            return []
        taken: list[Batch] = []
        events = 0
        while self._waiting and events < IN_A_MESSAGE:
            taken.append(self._waiting.popleft())
            events += len(taken[-1].events)
        self._events -= events
        self.position = taken[-1].cursor
        return taken


class Feed:
    """The reader, and all subscribers of this server."""

    def __init__(self, database: Database, *, clock: Clock, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._most_of_one = most_of_one
        self._seats: set[Subscriber] = set()
        self._by_org: Counter[str] = Counter()
        self._joined: defaultdict[str, set[Subscriber]] = defaultdict(set)
        self._position = 0
        # Who reads and tells, or joins: a subscriber must not come in between.
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._closed = False
        self._unpaced = 0

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return len(self._seats)

    @contextmanager
    def seat(self, caller: Caller, wants: Wants) -> Iterator[Subscriber]:
        """A new subscriber, who has not joined yet, for as long as the block lasts. Raises RateLimited."""
        org_id = caller.org_id
        if self._closed:
            raise _stopping()
        if self._by_org[org_id] >= self._most_of_one or len(self._seats) >= self._most:
            what = "Too many streams of events are open at once. Close some, or try again later."
            raise RateLimited(what, scope="event streams", limit=self._most_of_one, retry_after=5)
        subscriber = Subscriber(caller, wants)
        self._seats.add(subscriber)
        self._by_org[org_id] += 1
        try:
            yield subscriber
        finally:
            self._seats.discard(subscriber)
            self._by_org -= Counter({org_id: 1})
            self._leave(subscriber)

    async def join(self, subscriber: Subscriber) -> bool:
        """From now on it is told of all behind its position. False: the reader is ahead of it, and it must read on."""
        async with self._turn:
            if not self._joined:
                self._position = subscriber.position.row
            if subscriber.position < Cursor(self._position):
                return False
            self._joined[subscriber.caller.org_id].add(subscriber)
        self.wake()
        return True

    def up_to_date(self, subscriber: Subscriber) -> Cursor:
        """Behind what one who has joined, and has taken all that waits, was told of or need not be."""
        return max(subscriber.position, Cursor(self._position))

    def _leave(self, subscriber: Subscriber) -> None:
        org_id = subscriber.caller.org_id
        if org_id in self._joined:
            self._joined[org_id].discard(subscriber)
            if not self._joined[org_id]:
                del self._joined[org_id]

    def wake(self) -> None:
        """Says that there may be something new."""
        self._news.set()

    async def news(self, patience: float) -> None:
        """Returns when there may be something new, or after so many seconds: what another server said may be lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._news.wait()

    async def advance(self) -> None:
        """Reads what is new and tells everybody. Raises DatabaseUnavailable; nothing is lost then."""
        self._news.clear()
        async with self._turn:
            while self._joined and await self._page():
                pass

    async def _page(self) -> bool:
        """One page of it. Says whether there is more."""
        org_ids = list(self._joined)
        async with self._database.read() as tx:
            latest = await tx.events.latest()
            if latest <= self._position:
                return False
            rows = await tx.events.after(self._position, org_ids if len(org_ids) <= NAMED else None, ROWS)
        await self._tell(rows)
        full = len(rows) == ROWS
        self._position = _row_of(rows[-1]) if full else latest
        return full

    async def _tell(self, rows: Sequence[Sequence[Event]]) -> None:
        by_org: defaultdict[str, list[Event]] = defaultdict(list)
        for row in rows:
            by_org[row[0].org_id] += row
        for org_id, events in by_org.items():
            made: dict[Wants, list[Batch]] = {}
            for subscriber in list(self._joined.get(org_id, ())):
                if subscriber.wants not in made:
                    made[subscriber.wants] = batches(events, subscriber.wants)
                found = made[subscriber.wants]
                if events[0].cursor is not None and events[0].cursor <= subscriber.position:
                    found = batches(events, subscriber.wants, subscriber.position)
                subscriber.offer(found)
                await self._pace(len(found))

    async def _pace(self, told: int) -> None:
        self._unpaced += min(told, 1)
        if self._unpaced >= IN_A_ROW:
            self._unpaced = 0
            await asyncio.sleep(IN_A_ROW / MESSAGES_A_SECOND)

    async def check(self) -> None:
        """Ends all who may not be told any more: their key was revoked, or their session is over.

        One query for the keys of all. Raises DatabaseUnavailable; nobody is told of anything either then.
        """
        now = self._clock()
        keys = sorted({one.caller.key_id for one in self._seats if isinstance(one.caller, KeyHolder)})
        refused = await self._refused(keys, now)
        for subscriber in list(self._seats):
            caller = subscriber.caller
            if isinstance(caller, Member):
                if caller.session_ends is not None and caller.session_ends <= now:
                    subscriber.end(TokenInvalid())
            elif caller.key_id in refused:
                subscriber.end(refused[caller.key_id])

    async def _refused(self, key_ids: Sequence[str], now: datetime) -> dict[str, CloudError]:
        refused: dict[str, CloudError] = {}
        for first in range(0, len(key_ids), KEYS_AT_ONCE):
            asked = key_ids[first : first + KEYS_AT_ONCE]
            async with self._database.read() as tx:
                found = {key.id: key for key in await tx.api_keys.by_ids(asked)}
            gone: dict[str, CloudError] = {one: Unauthenticated("This API key is gone.") for one in asked}
            standing = {one: key.refusal(now) for one, key in found.items()}
            refused |= {one: error for one in asked if (error := standing.get(one, gone[one])) is not None}
        return refused

    def close(self) -> None:
        """Ends everybody: this process stops, and another one goes on."""
        self._closed = True
        for subscriber in list(self._seats):
            subscriber.end(_stopping())


def _row_of(row: Sequence[Event]) -> int:
    assert row[0].cursor is not None
    return row[0].cursor.row


def _stopping() -> Unavailable:
    return Unavailable("This server stops. Come again with the last id: another one goes on.", {"part": "server"})
