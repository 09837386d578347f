"""Several servers on one Postgres: what one confirms is true of the proxies of all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from server.app import running
from server.domain.keys import digest
from server.errors import ChangeUnconfirmed
from server.services.peers import CHECKED_S
from server.services.propagation import Propagation
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.sealing import Sealer
from tests.rpc.test_dataplane import Proxy, new_key, revoke
from tests.rpc.test_propagation import STALE_MS, Time, remembered
from tests.support.calls import eventually, failure
from tests.support.databases import databases
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

STALE_S = STALE_MS / 1000


@pytest.fixture(scope="module")
def database_kind() -> Iterator[str]:
    """On SQLite there is one server."""
    with databases.of("postgres") as kind:
        yield kind


@pytest.fixture
async def channels(tmp_path: Path) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Three servers."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(3):
            app = await stack.enter_async_context(running(settings(tmp_path, confirm_timeout=2), MemoryRuntime()))
            found.append(await stack.enter_async_context(grpc.aio.insecure_channel(str(app.address))))
        yield found


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(create_engine(databases.url(tmp_path)), Sealer(bytes(32))) as database:
        yield database


async def started(database: Database, time: Time) -> Propagation:
    made = Propagation(database, clock=lambda: datetime.now(UTC), confirm_timeout=0.05, monotonic=time)
    await made.start()
    return made


async def change(database: Database) -> int:
    async with database.write() as tx:
        made = await tx.changes.append(datetime.now(UTC), instance_id="inst_1")
        await tx.commit()
    return made.version


async def test_revocation_answers_after_the_proxies_of_every_server_have_acknowledged(
    channels: list[grpc.aio.Channel],
) -> None:
    made = await new_key(channels[0])
    proxies = [Proxy(channel, f"p{number}", stale_ms=60_000) for number, channel in enumerate(channels)]
    for proxy in proxies:
        await proxy.hello()
    revocation = asyncio.ensure_future(revoke(channels[0], made.id))
    for proxy in proxies:
        heard = (await proxy.read()).change
        assert heard.key_sha256 == digest(made.key)
        await asyncio.wait({revocation}, timeout=0.1)
        assert not revocation.done()
        await proxy.ack(heard.version)
    await revocation


async def test_change_reaches_the_proxies_of_other_servers_at_once(channels: list[grpc.aio.Channel]) -> None:
    """Within less than a second, most times: else only the slow look would have found it."""
    proxy = Proxy(channels[2], "p", stale_ms=60_000)
    await proxy.hello()
    took = []
    for _ in range(5):
        made = await new_key(channels[0])
        began = asyncio.get_running_loop().time()
        revocation = asyncio.ensure_future(revoke(channels[0], made.id))
        heard = (await proxy.read()).change
        took.append(asyncio.get_running_loop().time() - began)
        await proxy.ack(heard.version)
        await revocation
    assert sorted(took)[2] < 0.4


async def test_proxy_that_does_not_acknowledge_to_another_server_leaves_a_change_unconfirmed(
    channels: list[grpc.aio.Channel],
) -> None:
    made = await new_key(channels[0])
    proxy = Proxy(channels[1], "p", stale_ms=60_000)
    await proxy.hello()
    before = datetime.now(UTC)
    failed = await failure(revoke(channels[0], made.id))
    assert failed.reason == "CHANGE_UNCONFIRMED"
    wait = (datetime.fromisoformat(failed.metadata["certain_at"]) - before).total_seconds()
    assert 60 <= wait < 60 + CHECKED_S + 10
    await proxy.ack((await proxy.read()).change.version)
    again = asyncio.ensure_future(revoke(channels[2], made.id))
    await proxy.ack((await proxy.read()).change.version)
    await again


async def test_proxies_of_all_servers_share_the_rates(channels: list[grpc.aio.Channel]) -> None:
    proxies = [Proxy(channel, f"p{number}", stale_ms=60_000) for number, channel in enumerate(channels)]
    for proxy in proxies:
        await proxy.hello()

    async def counted(number: int, *beating: Proxy) -> bool:
        found = set()
        for proxy in beating:
            await proxy.call.write(pb.WatchRequest(heartbeat=1))
            found.add((await proxy.read()).proxies)
        return found == {number}

    await eventually(lambda: counted(3, *proxies))
    proxies[2].call.cancel()
    await eventually(lambda: counted(2, *proxies[:2]))


async def test_proxy_that_moves_is_neither_lost_nor_counted_twice(database: Database, time: Time) -> None:
    one, two, three = [await started(database, time) for _ in range(3)]
    lost = await one.join("p", STALE_MS, 0)
    one.acknowledge(lost, 10**6)
    await one.leave(lost, goodbye=False)
    session = await two.join("p", STALE_MS, 0)
    version = await change(database)
    for propagation in (one, two, three):
        with pytest.raises(ChangeUnconfirmed):
            await propagation.confirm(version)
    two.acknowledge(session, version)
    assert two.peers is not None
    await two.peers.report()
    for propagation in (one, two, three):
        await propagation.confirm(version)
        assert propagation.connected == 1
    await two.leave(session, goodbye=True)
    assert await remembered(database) == set()


async def test_stream_that_still_seems_to_stand_is_dropped_when_its_proxy_watches_another_server(
    database: Database, time: Time
) -> None:
    one, two = [await started(database, time) for _ in range(2)]
    stale = await one.join("p", STALE_MS, 0)
    session = await two.join("p", STALE_MS, 0)
    await one.check()
    assert [message async for message in stale.messages()] == []
    await one.leave(stale, goodbye=True)
    assert await remembered(database) == {"p"}
    version = await change(database)
    two.acknowledge(session, version)
    assert two.peers is not None
    await two.peers.report()
    await one.confirm(version)


async def test_dead_servers_proxies_are_waited_for_until_their_time_is_over_and_forgotten_then(
    database: Database, time: Time
) -> None:
    dead, one = [await started(database, time) for _ in range(2)]
    await dead.join("p", STALE_MS, 0)
    await one.check()
    time.now += STALE_S
    version = await change(database)
    with pytest.raises(ChangeUnconfirmed):
        await one.confirm(version)
    await one.check()
    assert await remembered(database) == {"p"}
    # One that starts now has not seen when the dead one was there last: it waits for longer.
    late = await started(database, time)
    time.now += CHECKED_S + 1
    await one.confirm(version)
    with pytest.raises(ChangeUnconfirmed):
        await late.confirm(version + 1)
    await one.check()
    assert await remembered(database) == set()
    await late.confirm(version + 1)


async def test_server_that_was_halted_for_long_answers_no_proxy_whose_row_is_gone(
    database: Database, time: Time
) -> None:
    halted, other = [await started(database, time) for _ in range(2)]
    session = await halted.join("p", STALE_MS, 0)
    await other.check()
    heard = session.messages()
    await anext(heard)
    time.now += STALE_S + CHECKED_S + 1
    await other.check()
    assert await remembered(database) == set()
    version = await change(database)
    await other.confirm(version)
    halted.heartbeat(session, 1)
    await halted.check()
    halted.heartbeat(session, 2)
    assert [message async for message in heard] == [], "no more time, and the stream ends"


async def test_server_that_cannot_look_gives_no_time(database: Database, time: Time) -> None:
    """Another may have committed what it does not know."""
    one = await started(database, time)
    session = await one.join("p", STALE_MS, 0)
    heard = session.messages()
    await anext(heard)
    time.now += CHECKED_S - 0.1
    one.heartbeat(session, 1)
    time.now += 0.1
    one.heartbeat(session, 2)
    await change(database)
    await one.check()
    one.heartbeat(session, 3)
    found: list[Any] = [await anext(heard) for _ in range(3)]
    assert [getattr(message, "number", "change") for message in found] == [1, "change", 3]


async def test_heartbeats_and_acknowledgements_cost_few_transactions(
    database: Database, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await started(database, time)
    sessions = [await one.join(f"p{number}", STALE_MS, 0) for number in range(20)]
    writes = 0
    write = database.write

    def counted(turn: str | None = None) -> Any:
        nonlocal writes
        writes += 1
        return write(turn)

    monkeypatch.setattr(database, "write", counted)
    for session in sessions:
        for version in range(1, 11):
            one.heartbeat(session, version)
            one.acknowledge(session, version)
    assert one.peers is not None
    await one.peers.report()
    assert writes == 1
    async with database.read() as tx:
        assert {proxy.acked_version for proxy in await tx.proxies.all()} == {10}


async def test_failed_report_is_made_again(database: Database, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = [await started(database, time) for _ in range(2)]
    session = await one.join("p", STALE_MS, 0)
    version = await change(database)
    one.acknowledge(session, version)
    assert one.peers is not None
    with monkeypatch.context() as broken:
        broken.setattr(database, "write", lambda: (_ for _ in ()).throw(OSError()))
        with pytest.raises(OSError):
            await one.peers.report()
    await one.peers.report()
    await two.confirm(version)


async def test_app_is_there_for_the_others(channels: list[grpc.aio.Channel], database: Database) -> None:
    async def all_beat() -> bool:
        async with database.read() as tx:
            return sorted((await tx.proxies.beats()).values())[-3:][0] > 1

    await eventually(all_beat)
