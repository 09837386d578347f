"""Revisions, events and calls with an Idempotency-Key, as they are stored."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from server.domain.events import Cursor, Event, EventKind
from server.domain.instances import Phase
from server.domain.restarts import Restarts
from server.store.database import Database
from server.store.idempotency import CallKey, Entry, StoredAnswer
from server.workers import housekeeping
from tests.store.rows import NOW, add, instance

LEASE = timedelta(seconds=30)
KEY = CallKey(org_id="org_one", method="/a.B/C", key="k")
ANSWER = StoredAnswer(body=b"\x00\xff secret", headers=(("etag", '"1"'),), version=7)


async def test_revision_counts_what_is_shown_and_restarts_come_back_as_they_went_in(database: Database) -> None:
    await add(database, instance())
    restarts = Restarts(count=2, since=NOW, down_since=NOW, next_at=NOW + timedelta(seconds=4))
    async with database.write() as tx:
        (claim,) = await tx.instances.claim_due("a", NOW, LEASE, 10)
        unseen = await tx.instances.record(claim, "a", replace(claim.instance, restarts=restarts))
        assert unseen == replace(claim.instance, restarts=restarts)
        claim = replace(claim, instance=unseen)
        shown = replace(unseen, phase=Phase.RUNNING, updated_at=NOW + timedelta(seconds=1))
        assert await tx.instances.record(claim, "a", shown) == replace(shown, revision=2)
        assert await tx.instances.record(claim, "a", shown) is None, "it is not as it was claimed"
        await tx.commit()
    async with database.read() as tx:
        assert await tx.instances.find("inst_1") == replace(shown, revision=2)
        assert await tx.instances.running() == ["inst_1"]
        assert await tx.instances.phases(["inst_1", "inst_2"]) == {"inst_1": Phase.RUNNING}


async def test_a_lone_server_forgives_restarts_when_it_starts(database: Database) -> None:
    await add(database, instance())
    async with database.write() as tx:
        (claim,) = await tx.instances.claim_due("a", NOW, LEASE, 10)
        failing = replace(claim.instance, restarts=Restarts(count=9, since=NOW, next_at=NOW + timedelta(hours=1)))
        await tx.instances.record(claim, "a", failing)
        await tx.instances.wake_all(NOW, alone=False)
        kept = await tx.instances.find("inst_1")
        await tx.instances.wake_all(NOW, alone=True)
        found = await tx.instances.find("inst_1")
    assert found is not None
    assert (found.restarts.count, found.restarts.next_at) == (0, None)
    assert kept is not None
    assert kept.restarts == failing.restarts, "engines do not end with one of several servers"


async def test_what_waits_keeps_its_place_when_a_server_starts(database: Database) -> None:
    await add(database, instance(1), instance(2), instance(3))
    minute = timedelta(minutes=1)
    async with database.write() as tx:
        for number, due_at in ((1, NOW + 9 * minute), (2, NOW + minute), (3, None)):
            await tx.instances.claim_due("a", NOW, LEASE, 10)
            await tx.instances.release(f"inst_{number}", "a", due_at=due_at, attempts=0)
        for start in (2, 3):
            await tx.instances.wake_all(NOW + start * minute, alone=True)
        claims = await tx.instances.claim_due("b", NOW + 3 * minute, LEASE, 10)
    assert claims[0].instance.id == "inst_2", "it waits for longest"
    assert sorted(claim.instance.id for claim in claims) == ["inst_1", "inst_2", "inst_3"]


async def test_only_its_own_leases_are_renewed(database: Database) -> None:
    await add(database, instance(1), instance(2))
    async with database.write() as tx:
        for owner in ("a", "b"):
            await tx.instances.claim_due(owner, NOW, LEASE, 1)
        first, second = await tx.instances.phases(["inst_1", "inst_2"])
        ours = await tx.instances.renew([first, second], "a", NOW + 3 * LEASE)
        assert len(ours) == 1
        (free,) = await tx.instances.claim_due("c", NOW + 2 * LEASE, LEASE, 10)
        assert free.instance.id not in ours


def event(number: int, org_id: str = "org_one") -> Event:
    at = NOW + timedelta(minutes=number)
    return Event(org_id=org_id, instance_id=f"inst_{number % 2}", kind=EventKind.LATE, at=at, details={"n": number})


async def test_events_are_listed_in_order_and_by_organization(database: Database) -> None:
    async with database.write() as tx:
        await tx.events.append([event(0), event(1, "org_two"), event(2)])
        await tx.events.append([event(3)])
        await tx.commit()
    async with database.read() as tx:
        found = await tx.events.of_org("org_one", limit=10)
        assert [replace(one, cursor=None) for one in found] == [event(0), event(2), event(3)]
        assert await tx.events.of_org("org_one", after=found[0].cursor or Cursor(0), limit=1) == found[1:2]
        assert await tx.events.of_org("org_one", limit=10, instance_id="inst_1") == found[2:]


async def test_events_that_are_not_committed_did_not_happen(database: Database) -> None:
    async with database.write() as tx:
        await tx.events.append([event(0)])
    async with database.read() as tx:
        assert await tx.events.of_org("org_one", limit=10) == []


async def test_old_and_too_many_events_are_dropped(database: Database) -> None:
    async with database.write() as tx:
        await tx.events.append([event(number) for number in range(20)])
        await tx.events.append([event(1, "org_two")])
        await tx.commit()
    now = NOW + housekeeping.KEEP_EVENTS + timedelta(minutes=4, seconds=30)
    await housekeeping.sweep(database, lambda: now, org_events=10, rows=3)
    async with database.read() as tx:
        found = await tx.events.of_org("org_one", limit=100)
        assert [one.details["n"] for one in found] == list(range(10, 20))
        assert await tx.events.of_org("org_two", limit=100) == []
    await housekeeping.sweep(database, lambda: now + timedelta(minutes=10), rows=3)
    async with database.read() as tx:
        found = await tx.events.of_org("org_one", limit=100)
    assert [one.details["n"] for one in found] == list(range(15, 20))


async def claim(database: Database, owner: str, at: datetime = NOW, fingerprint: bytes = b"f") -> Entry:
    async with database.write() as tx:
        entry = await tx.idempotency.claim(
            KEY,
            fingerprint=fingerprint,
            owner=owner,
            now=at,
            lease_until=at + LEASE,
            forgotten=at - timedelta(hours=24),
        )
        await tx.commit()
    return entry


async def answer(database: Database, owner: str) -> bool:
    async with database.write() as tx:
        kept = await tx.idempotency.answer(KEY, owner, ANSWER)
        await tx.commit()
    return kept


async def test_call_belongs_to_one_until_its_lease_is_over_and_then_to_the_next(database: Database) -> None:
    assert (await claim(database, "a")).owner == "a"
    assert (await claim(database, "b")).owner == "a"
    assert (await claim(database, "b", NOW + LEASE, b"another request")).owner == "a", (
        "whoever sends another gets nothing"
    )
    assert (await claim(database, "b", NOW + LEASE)).owner == "b"
    assert not await answer(database, "a"), "it is not its own any more"
    assert await answer(database, "b")
    assert not await answer(database, "b"), "it has one"
    assert await claim(database, "c", NOW + timedelta(hours=23)) == Entry(owner="b", fingerprint=b"f", answer=ANSWER)
    assert (await claim(database, "c", NOW + timedelta(hours=24))).owner == "c", "a day is over"


async def test_answer_is_sealed_in_its_place_and_stays_when_its_owner_gives_up(database: Database) -> None:
    await claim(database, "a")
    await answer(database, "a")
    async with database.write() as tx:
        await tx.idempotency.drop(KEY, "a")
        count, size = await tx.idempotency.usage("org_one", NOW - timedelta(days=1))
        await tx.commit()
    assert (count, size > len(ANSWER.body)) == (1, True)
    async with database.engine.connect() as connection:
        stored = (await connection.exec_driver_sql("SELECT answer FROM idempotency_keys")).scalar_one()
    assert b"secret" not in stored


async def test_call_that_came_to_nothing_is_free_again(database: Database) -> None:
    await claim(database, "a")
    async with database.write() as tx:
        await tx.idempotency.drop(KEY, "b")
        await tx.commit()
    assert (await claim(database, "b")).owner == "a", "only its owner gives it up"
    async with database.write() as tx:
        await tx.idempotency.drop(KEY, "a")
        await tx.commit()
    assert (await claim(database, "b", NOW, b"another request")).owner == "b"


async def test_old_keys_are_dropped_a_few_at_a_time(database: Database) -> None:
    async with database.write() as tx:
        for number in range(7):
            key = replace(KEY, key=f"k{number}")
            at = NOW + timedelta(minutes=number)
            await tx.idempotency.claim(
                key, fingerprint=b"f", owner="a", now=at, lease_until=at, forgotten=at - timedelta(hours=24)
            )
        assert await tx.idempotency.forget(NOW + timedelta(minutes=4), 3) == 3
        assert await tx.idempotency.forget(NOW + timedelta(minutes=4), 3) == 2
        assert (await tx.idempotency.usage("org_one", datetime(2020, 1, 1, tzinfo=UTC)))[0] == 2
