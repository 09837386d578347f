"""Use cases of events: what happened in an organization, and what happens."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from server.domain.access import Caller, KeyHolder, check_reach
from server.domain.events import Cursor, EventKind
from server.errors import FieldViolation, InvalidArgument
from server.services.event_feed import Batch, Feed, Subscriber, Wants, batches
from server.store.database import Database
from server.store.events import Missed

PAGE = 100
# Proxies on the way close what is silent, as a rule after a minute.
KEEP_ALIVE_S = 15.0
MAX_KINDS = 50
FAMILIES = frozenset(f"{kind.partition('.')[0]}." for kind in EventKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What a subscriber is told at once; of nothing, where nothing is new.

    `cursor` is behind all of it. `reset`: some of what was missed is "dropped", or the id that was given "unknown".
    """

    cursor: Cursor
    batches: Sequence[Batch] = ()
    reset: str = ""


class EventsService:
    """Tells what happens, and what was missed."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed

    async def follow(
        self, *, caller: Caller, last_event_id: str = "", instance_id: str = "", kinds: Sequence[str] = ()
    ) -> AsyncIterator[News]:
        """All events behind the one with this id, or (where it is empty) from now on, and then those that happen.

        The first news say where that is. Ends only by an error: InvalidArgument and RateLimited at once, and later what
        ends a stream (see Feed).
        """
        cursor = _cursor(last_event_id)
        wants = _wants(caller, instance_id, kinds)
        with self._feed.seat(caller, wants) as subscriber:
            yield await self._begin(subscriber, cursor)
            async for news in self._missed(subscriber):
                yield news
            while True:
                found = await subscriber.take(KEEP_ALIVE_S)
                yield News(batches=found, cursor=subscriber.position if found else self._feed.up_to_date(subscriber))

    async def _begin(self, subscriber: Subscriber, cursor: Cursor | None) -> News:
        async with self._database.read() as tx:
            latest = Cursor(await tx.events.latest())
        known = cursor is not None and cursor <= latest
        subscriber.position = cursor if cursor is not None and known else latest
        return News(cursor=subscriber.position, reset="unknown" if cursor is not None and not known else "")

    async def _missed(self, subscriber: Subscriber) -> AsyncIterator[News]:
        """From the store, page by page at the subscriber's own pace, until there is no more and it has joined."""
        told = 0
        while True:
            before = subscriber.position
            latest, missed = await self._page(subscriber)
            found = [one for row in missed.rows for one in row]
            subscriber.position = max(before, found[-1].cursor or before) if found else Cursor(max(latest, before.row))
            dropped = missed.floor > max(told, before.row) and before.row > 0
            told = max(told, missed.floor)
            if found or dropped:
                wanted = batches(found, subscriber.wants)
                yield News(batches=wanted, cursor=subscriber.position, reset="dropped" if dropped else "")
            subscriber.check()
            if not found and await self._feed.join(subscriber):
                return

    async def _page(self, subscriber: Subscriber) -> tuple[int, Missed]:
        """The last row that there is, and what was missed, of the same moment."""
        async with self._database.read() as tx:
            latest = await tx.events.latest()
            org_id, instance_id = subscriber.caller.org_id, subscriber.wants.instance_id
            return latest, await tx.events.missed(org_id, subscriber.position, PAGE, instance_id)


def _cursor(last_event_id: str) -> Cursor | None:
    if not last_event_id:
        return None
    cursor = Cursor.parse(last_event_id)
    if cursor is None:
        what = "is no id of an event. Leave it out to be told what happens from now on"
        raise InvalidArgument([FieldViolation(field="last_event_id", description=what)])
    return cursor


def _wants(caller: Caller, instance_id: str, kinds: Sequence[str]) -> Wants:
    if instance_id:
        check_reach(caller, instance_id)
    if isinstance(caller, KeyHolder) and caller.instance_id is not None:
        instance_id = caller.instance_id
    return Wants(instance_id=instance_id or None, kinds=_kinds(kinds))


def _kinds(kinds: Sequence[str]) -> frozenset[str] | None:
    if len(kinds) > MAX_KINDS:
        raise InvalidArgument([FieldViolation(field="kinds", description=f"has more than {MAX_KINDS} kinds")])
    families = {kind for kind in kinds if f"{kind}." in FAMILIES}
    unknown = [kind for kind in kinds if kind not in families and kind not in set(EventKind)]
    if unknown:
        what = f'{unknown[0][:64]!r} is no kind of event, and no beginning of one like "policy"'
        raise InvalidArgument([FieldViolation(field="kinds", description=what)])
    return frozenset(kind if kind not in families else f"{kind}." for kind in kinds) or None
