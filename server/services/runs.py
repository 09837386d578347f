"""Use cases of runs: engines report them, members look at them."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from server.domain.access import Caller, Engine, KeyHolder
from server.domain.run_events import read_batch
from server.domain.runs import Batch, RunState, microseconds, moment
from server.errors import FieldViolation, InvalidArgument, NotFound
from server.services.identifiers import Clock
from server.store.database import Database
from server.store.runs import FoundRun, Place, RunFilter

# A batch is milliseconds of work. Others have their turns between its pieces, of so many events or runs, and with one
# batch at a time they need not wait for those of every engine that reports. The database keeps up all the same.
AT_ONCE = 1
PIECE = 100
PAGE, LARGEST_PAGE = 50, 500
TOKEN = re.compile(r"(\d{1,17}) ([A-Za-z0-9_]{1,64}) ([0-9A-Za-z_.-]{1,64})", re.ASCII)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What became of the events of a batch."""

    accepted: int
    duplicates: int
    rejected: int


class RunsService:
    """Takes run events, and shows runs."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ingest(self, *, engine: Engine, body: bytes) -> Taken:
        """Takes a batch of an engine. What is committed is true of the whole batch, so it may be sent again.

        Raises InvalidArgument where it is no batch.
        """
        async with self._turns:
            return await self._ingest(engine, body)

    async def _ingest(self, engine: Engine, body: bytes) -> Taken:
        found = [event async for event in _in_pieces(read_batch(body, self._clock()))]
        events = [event for event in found if event is not None]
        rejected = len(found) - len(events)
        if not events:
            return Taken(accepted=0, duplicates=0, rejected=rejected)
        # Two batches of one engine take turns: what one makes of a run the other must see.
        async with self._database.write(f"runs {engine.instance_id}") as tx:
            known = await tx.runs.load(engine.instance_id, sorted({event.run_id for event in events}))
            batch = Batch(runs=known)
            async for event in _in_pieces(events):
                batch.take(event)
            starts = batch.count()
            changed = list(batch.changed.values())
            for first in range(0, len(changed), PIECE):
                await tx.runs.put(engine.org_id, engine.instance_id, changed[first : first + PIECE])
            if starts:
                await tx.usage.add_starts(engine.org_id, starts)
            await tx.commit()
        return Taken(accepted=batch.accepted, duplicates=batch.duplicates, rejected=rejected)

    async def page(
        self, *, caller: Caller, wanted: RunFilter, page_size: int, page_token: str
    ) -> tuple[list[FoundRun], str]:
        """A page of the runs that the caller may see, newest first, and the token of the next one.

        Raises InvalidArgument.
        """
        size, after = _checked_size(page_size), _place(page_token) if page_token else None
        own = _within_reach(caller, wanted)
        if own is None:
            return [], ""
        async with self._database.read() as tx:
            found = await tx.runs.page(caller.org_id, own, after=after, limit=size + 1)
        more = len(found) > size
        return found[:size], _token(found[size - 1].place) if more else ""

    async def get(self, *, caller: Caller, run_id: str, instance_id: str | None) -> FoundRun:
        """One run of the caller's organization. Raises NotFound."""
        own = _within_reach(caller, RunFilter(instance_id=instance_id))
        found = None
        if own is not None:
            async with self._database.read() as tx:
                found = await tx.runs.get(caller.org_id, run_id, own.instance_id)
        if found is None:
            raise NotFound("run", run_id)
        return found


def run_filter(*, instance_id: str, state: str, sequence: str, since: datetime | None) -> RunFilter:
    """What is wanted, where an empty text means whichever. Raises InvalidArgument."""
    if state and state not in set(RunState):
        raise _wrong("state", f"is unknown: one of {', '.join(RunState)}")
    return RunFilter(
        instance_id=instance_id or None,
        state=RunState(state) if state else None,
        sequence=sequence or None,
        since=since,
    )


async def _in_pieces(items: Iterable[T]) -> AsyncIterator[T]:
    """The same items; after each piece of them others have a turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % PIECE == 0:
            await asyncio.sleep(0)


def _within_reach(caller: Caller, wanted: RunFilter) -> RunFilter | None:
    """What is wanted of what a key of one instance reaches; None: nothing of it."""
    if not isinstance(caller, KeyHolder) or caller.instance_id is None:
        return wanted
    if wanted.instance_id not in (None, caller.instance_id):
        return None
    return RunFilter(instance_id=caller.instance_id, state=wanted.state, sequence=wanted.sequence, since=wanted.since)


def _checked_size(page_size: int) -> int:
    if page_size < 0:
        raise _wrong("page_size", f"must be from 1 to {LARGEST_PAGE}")
    return min(page_size or PAGE, LARGEST_PAGE)


def _token(place: Place) -> str:
    """Opaque to callers. It only says where to go on, so it need not be secret."""
    text = f"{microseconds(place.started_at)} {place.instance_id} {place.run_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(page_token: str) -> Place:
    try:
        text = base64.urlsafe_b64decode(page_token.encode() + b"=" * (-len(page_token) % 4)).decode("ascii")
        found = TOKEN.fullmatch(text)
        if found is None:
            raise ValueError(text)
        return Place(started_at=moment(int(found[1])), instance_id=found[2], run_id=found[3])
    except (ValueError, OverflowError, binascii.Error):
        raise _wrong("page_token", "is not one that a page gave; leave it out for the first page") from None


def _wrong(field: str, what: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field=field, description=what)])
