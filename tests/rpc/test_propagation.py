"""How the server remembers proxies, at the moments when several things happen to one at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from server.app import running
from server.errors import ChangeUnconfirmed
from server.services.propagation import Propagation
from server.store import migrate
from server.store.database import Database, UnitOfWork
from server.store.dialects import create_engine
from server.store.sealing import Sealer
from tests.rpc.test_dataplane import Proxy
from tests.support.databases import databases
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

STALE_MS = 60_000


class GatedDatabase(Database):
    """Holds the next write back until it is let go."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.holds = False
        self.held, self.go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def write(self, turn: str | None = None) -> AsyncIterator[UnitOfWork]:
        holds, self.holds = self.holds, False
        if holds:
            self.held.set()
            await self.go_on.wait()
        async with super().write(turn) as tx:
            yield tx


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(tmp_path: Path, database_kind: str) -> AsyncIterator[GatedDatabase]:
    async with GatedDatabase(create_engine(databases.url(tmp_path)), Sealer(bytes(32))) as database:
        await migrate.upgrade(database.engine)
        yield database


@pytest.fixture
def time() -> Time:
    return Time()


def propagation_of(database: Database, time: Time) -> Propagation:
    return Propagation(database, clock=lambda: datetime.now(UTC), confirm_timeout=0.05, monotonic=time)


async def remembered(database: Database) -> set[str]:
    async with database.read() as tx:
        return {proxy.id for proxy in await tx.proxies.all()}


async def fall_silent(propagation: Propagation, *proxy_ids: str) -> None:
    for proxy_id in proxy_ids:
        await propagation.leave(await propagation.join(proxy_id, STALE_MS, 0), goodbye=False)


async def test_proxy_that_comes_back_while_it_is_forgotten_stays_remembered(
    database: GatedDatabase, time: Time
) -> None:
    """Else the server after this one would not wait for it, and call a change certain that it is not."""
    propagation = propagation_of(database, time)
    await fall_silent(propagation, "p1")
    time.now += STALE_MS / 1000 + 1
    database.holds = True
    confirming = asyncio.create_task(propagation.confirm(0))
    await database.held.wait()
    joining = asyncio.create_task(propagation.join("p1", STALE_MS, 0))
    # It may have to wait for its turn; if it does not, its row is there before the other's delete.
    await asyncio.wait({joining}, timeout=0.3)
    database.go_on.set()
    await asyncio.gather(confirming, joining)
    assert await remembered(database) == {"p1"}


async def test_goodbye_of_a_process_does_not_forget_the_next_one_of_its_name(
    database: GatedDatabase, time: Time
) -> None:
    propagation = propagation_of(database, time)
    first = await propagation.join("p1", STALE_MS, 0)
    database.holds = True
    leaving = asyncio.create_task(propagation.leave(first, goodbye=True))
    await database.held.wait()
    joining = asyncio.create_task(propagation.join("p1", STALE_MS, 0))
    await asyncio.wait({joining}, timeout=0.3)
    database.go_on.set()
    await asyncio.gather(leaving, joining)
    assert await remembered(database) == {"p1"}


async def test_proxy_that_falls_silent_again_is_waited_for_again(database: GatedDatabase, time: Time) -> None:
    """Two are forgotten, one after the other; the second comes back and goes while the first is."""
    propagation = propagation_of(database, time)
    await fall_silent(propagation, "p1", "p2")
    time.now += STALE_MS / 1000 + 1
    database.holds = True
    confirming = asyncio.create_task(propagation.confirm(0))
    await database.held.wait()
    again = asyncio.create_task(fall_silent(propagation, "p2"))
    await asyncio.wait({again}, timeout=0.3)
    database.go_on.set()
    await asyncio.gather(confirming, again)
    assert await remembered(database) == {"p2"}
    with pytest.raises(ChangeUnconfirmed):
        await propagation.confirm(0)


async def test_changes_that_end_at_once_forget_the_same_proxies(database: GatedDatabase, time: Time) -> None:
    propagation = propagation_of(database, time)
    await fall_silent(propagation, "p1", "p2")
    time.now += STALE_MS / 1000 + 1
    database.holds = True
    first = asyncio.create_task(propagation.confirm(0))
    await database.held.wait()
    await propagation.confirm(0)
    database.go_on.set()
    await first
    assert await remembered(database) == set()


async def test_silent_proxy_has_a_little_more_time_than_its_limit(database: GatedDatabase, time: Time) -> None:
    """Two clocks never run alike."""
    propagation = propagation_of(database, time)
    await fall_silent(propagation, "p1")
    time.now += STALE_MS / 1000 + 0.03
    with pytest.raises(ChangeUnconfirmed):
        await propagation.confirm(0)


async def test_change_whose_caller_hung_up_is_announced_all_the_same(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        proxy = Proxy(channel)
        await proxy.hello()
        async with app.database.write() as tx:
            change = await tx.changes.append(datetime.now(UTC), key_sha256=b"k" * 32)
            await tx.commit()
        assert (await proxy.read()) == pb.WatchResponse(change=pb.Change(version=change.version, key_sha256=b"k" * 32))
