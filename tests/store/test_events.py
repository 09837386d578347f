"""The order of events: what a reader has seen is never added to, however many write at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from server.domain.events import Cursor, Event, EventKind
from server.store.database import Database
from server.store.dialects import Signal, create_engine
from server.store.sealing import Sealer
from server.workers import housekeeping
from tests.support.databases import databases
from tests.support.lifecycle import open_database

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WRITERS = 8
TIMES = 25


@pytest_asyncio.fixture(loop_scope="module")
async def database(tmp_path: Path, database_kind: str) -> AsyncIterator[Database]:
    async with open_database(tmp_path, lambda: NOW) as opened:
        yield opened


def event(org_id: str, number: int) -> Event:
    return Event(org_id=org_id, instance_id="inst_1", kind=EventKind.LATE, at=NOW, details={"n": number})


def run(number: int, org_id: str = "org_one", instance_id: str = "inst_1") -> Event:
    return Event(
        org_id=org_id,
        instance_id=instance_id,
        run_id=f"run_{number}",
        kind=EventKind.RUN_CHANGED,
        at=NOW,
        details={"state": "running"},
    )


def cursors(rows: Sequence[Sequence[Event]]) -> list[Cursor]:
    return [one.cursor for row in rows for one in row if one.cursor is not None]


async def write(database: Database, org_id: str) -> None:
    """Transactions of different lengths: some note the event first and do other things after it."""
    for number in range(TIMES):
        async with database.write() as tx:
            await tx.events.append([event(org_id, number), run(number, org_id), run(-number, org_id)])
            if number % 3 == 0:
                await tx.changes.append(NOW, instance_id="inst_1")
            await asyncio.sleep(0.001 * (number % 4))  # makes them overlap; nothing is waited for
            await tx.events.write()
            await asyncio.sleep(0.001 * (number % 3))  # between the number and the commit it must not matter
            if number % 5 == 4:
                continue
            await tx.commit()


async def follow(database: Database, seen: list[Cursor], until: asyncio.Event) -> None:
    """Reads as the servers do: always only what is behind the last row that it has read."""
    while True:
        ended = until.is_set()
        async with database.read() as tx:
            rows = await tx.events.after(seen[-1].row if seen else 0, None, 50)
        seen += cursors(rows)
        if ended and not rows:
            return
        await asyncio.sleep(0)


async def test_nothing_appears_behind_a_reader_of_concurrent_writers(database: Database, tmp_path: Path) -> None:
    """The writers have two connection pools, as two servers on Postgres have."""
    seen: list[Cursor] = []
    ended = asyncio.Event()
    reading = asyncio.create_task(follow(database, seen, ended))
    other = database
    if database.is_shared:
        other = Database(create_engine(databases.url(tmp_path)), Sealer(bytes(32)))
    await asyncio.gather(*(write((database, other)[n % 2], f"org_{n}") for n in range(WRITERS)))
    ended.set()
    await reading
    if other is not database:
        await other.close()
    async with database.read() as tx:
        stored = cursors(await tx.events.after(0, None, 10_000))
        latest = await tx.events.latest()
    assert seen == stored
    assert len(stored) == WRITERS * TIMES * 4 // 5 * 3
    assert latest == stored[-1].row


async def test_changes_of_runs_that_follow_each_other_share_a_row(database: Database) -> None:
    told = [run(number) for number in range(150)] + [event("org_one", 0)] + [run(150), run(151, instance_id="inst_2")]
    async with database.write() as tx:
        await tx.events.append(told[:20])
        await tx.events.append(told[20:])
        await tx.commit()
    async with database.read() as tx:
        rows = await tx.events.after(0, None, 100)
        of_one = await tx.events.of_org("org_one", limit=100, instance_id="inst_1")
    assert [len(row) for row in rows] == [100, 50, 1, 1, 1]
    found = [one for row in rows for one in row]
    assert [(one.run_id, one.instance_id, one.kind, one.at, one.details) for one in found] == [
        (one.run_id, one.instance_id, one.kind, one.at, one.details) for one in told
    ]
    assert cursors(rows) == sorted(set(cursors(rows)))
    assert [str(one) for one in cursors(rows)][98:101] == ["1.99", "1", "2.1"]
    assert len(of_one) == 152


async def test_what_was_missed_begins_within_a_row(database: Database) -> None:
    async with database.write() as tx:
        await tx.events.append([run(number) for number in range(5)] + [event("org_one", 1)])
        await tx.commit()
    for text, ids in (("0", ["1.1", "1.2", "1.3", "1.4", "1", "2"]), ("1.3", ["1.4", "1", "2"]), ("1", ["2"])):
        cursor = Cursor.parse(text)
        assert cursor is not None
        async with database.read() as tx:
            found = await tx.events.missed("org_one", cursor, 10)
            one = await tx.events.missed("org_one", cursor, 1)
        assert [str(cursor) for cursor in cursors(found.rows)] == ids
        assert one.rows == found.rows[:1]
        assert found.floor == 0


async def test_who_missed_what_was_dropped_is_told(database: Database) -> None:
    for number in range(6):
        async with database.write() as tx:
            await tx.events.append([event("org_one", number)])
            await tx.events.append([run(number), run(number)])
            await tx.commit()
    async with database.write() as tx:
        await tx.events.append([event("org_two", 0)])
        await tx.commit()
    # 2 of 6 of one kind (rows 1 and 3), and 4 of 6 of the other (rows 2, 4, 6, 8).
    await housekeeping.sweep(database, lambda: NOW, org_events=4, org_run_events=2, rows=3)
    async with database.read() as tx:
        kept = await tx.events.missed("org_one", Cursor(0), 100)
        assert [row[0].cursor.row for row in kept.rows if row[0].cursor] == [5, 7, 9, 10, 11, 12]
        assert kept.floor == 8
        assert (await tx.events.missed("org_two", Cursor(0), 100)).floor == 0
    await housekeeping.sweep(database, lambda: NOW + housekeeping.KEEP_EVENTS, rows=3)
    async with database.read() as tx:
        assert await tx.events.of_org("org_one", limit=10) == []
        assert await tx.events.latest() == 13, "numbers are never given twice"
        assert (await tx.events.missed("org_two", Cursor(12), 100)).floor == 13


async def test_changes_of_runs_are_kept_for_a_day(database: Database) -> None:
    async with database.write() as tx:
        await tx.events.append([run(1), run(2), event("org_one", 1), run(3)])
        await tx.commit()
    await housekeeping.sweep(database, lambda: NOW + housekeeping.KEEP_RUN_EVENTS, rows=3)
    async with database.read() as tx:
        assert [one.kind for one in await tx.events.of_org("org_one", limit=10)] == ["instance.late"]


async def test_servers_tell_each_other_and_this_one_itself(database: Database) -> None:
    told: list[None] = []
    database.published = lambda: told.append(None)
    async with database.write() as tx:
        await tx.events.append([event("org_one", 1)])
        await tx.commit()
    async with database.write() as tx:
        await tx.commit()
    async with database.write() as tx:
        await tx.events.append([event("org_one", 1)])
    assert len(told) == 1
    if database.is_shared:
        async with database.signals() as signals:
            async with database.write() as tx:
                await tx.events.append([event("org_one", 1)])
                await tx.commit()
            async with asyncio.timeout(30):
                assert Signal.EVENTS in await anext(signals)


@pytest.mark.parametrize("text", ["", "-1", "1.", ".1", "1.2.3", "١", "1 ", "9" * 19, "x"])
async def test_ids_that_are_none_of_ours(text: str) -> None:
    assert Cursor.parse(text) is None
