"""Minutes of instances: nothing that is reported at once is lost, and nothing is counted twice."""

import asyncio
from datetime import timedelta

from server.domain.answers import Answers
from server.store.database import Database
from server.store.metrics import Minute
from tests.store.rows import NOW

MINUTE = NOW.replace(second=0, microsecond=0)
NEXT = MINUTE + timedelta(minutes=1)


def minute(at: int = 0, instance_id: str = "inst_1", *, allowed: int = 0, denied: int = 0, **kinds: int) -> Minute:
    answers = Answers()
    for kind, many in kinds.items():
        answers.count(kind.removeprefix("k"), 5.0, many)
    when = MINUTE + timedelta(minutes=at)
    return Minute(instance_id=instance_id, at=when, allowed=allowed, denied=denied, answers=answers)


async def add(database: Database, *minutes: Minute) -> None:
    async with database.write() as tx:
        await tx.metrics.add(minutes)
        await tx.commit()


async def of_instance(database: Database, instance_id: str = "inst_1", until: int = 10) -> list[Minute]:
    async with database.read() as tx:
        return await tx.metrics.of_instance(instance_id, MINUTE, MINUTE + timedelta(minutes=until))


async def test_whoever_reports_a_minute_adds_to_it(database: Database) -> None:
    several = [
        add(database, minute(1, denied=1), minute(0, allowed=2, k2xx=2, k5xx=1), minute(0, "inst_2", k2xx=1))
        for _ in range(8)
    ]
    await asyncio.gather(*several, *(add(database, minute(number, k4xx=1)) for number in (2, 1, 0)))
    await add(database)
    assert await of_instance(database) == [
        minute(0, allowed=16, k2xx=16, k5xx=8, k4xx=1),
        minute(1, denied=8, k4xx=1),
        minute(2, k4xx=1),
    ]
    assert await of_instance(database, "inst_2") == [minute(0, "inst_2", k2xx=8)]
    assert await of_instance(database, "inst_3") == []


async def test_a_range_ends_before_its_end(database: Database) -> None:
    await add(database, *(minute(number, allowed=number) for number in range(4)))
    assert [found.allowed for found in await of_instance(database, until=3)] == [0, 1, 2]


async def test_what_has_no_end_of_requests_is_counted_still(database: Database) -> None:
    for _ in range(2):
        await add(database, minute(allowed=2**31, denied=2**31, k2xx=2**31))
    (found,) = await of_instance(database)
    assert found == minute(allowed=2**32, denied=2**32, k2xx=2**32)


async def test_old_minutes_are_dropped_a_few_at_a_time(database: Database) -> None:
    await add(database, *(minute(0, f"inst_{number}") for number in range(4)), minute(1))
    async with database.write() as tx:
        assert [await tx.metrics.forget(NEXT, 3) for _ in range(3)] == [3, 1, 0]
        await tx.commit()
    assert await of_instance(database) == [minute(1)]
