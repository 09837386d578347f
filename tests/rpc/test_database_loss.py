"""Postgres goes away, hangs and comes back under a server with a connected proxy."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.v1 import api_keys_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub

from server.app import App, open_database, running
from server.configuration import StartFailed
from server.domain.keys import digest
from tests.rpc.test_dataplane import OWNER, Proxy, new_instance, new_key, revoke
from tests.support.calls import Failure, eventually, failure
from tests.support.postgres import Postgres
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

QUICK = {
    "confirm_timeout": 15,
    "database_connect_timeout": 1,
    "database_statement_timeout": 1,
    "database_lock_timeout": 1,
    "database_pool_timeout": 2,
    "database_pool_size": 4,
    "database_pool_overflow": 0,
}


@pytest.fixture(scope="module")
def database_kind() -> str:
    return "postgres, and one of its own that may be ended"


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def postgres(own_postgres: Postgres) -> Postgres:
    own_postgres.start()
    return own_postgres


@pytest.fixture
def address(postgres: Postgres) -> str:
    return postgres.url(postgres.create())


@pytest.fixture
async def app(tmp_path: Path, address: str) -> AsyncIterator[App]:
    chosen = settings(tmp_path, database_url=address, **QUICK)
    async with running(chosen, MemoryRuntime()) as app:
        yield app


@pytest.fixture
async def channel(app: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(app.address)) as channel:
        yield channel


def listed(channel: grpc.aio.Channel) -> Any:
    stub: Any = ApiKeysServiceStub(channel)
    return stub.ListApiKeys(api_keys_pb2.ListApiKeysRequest(), metadata=OWNER)


async def answers(channel: grpc.aio.Channel) -> bool:
    try:
        await listed(channel)
    except grpc.aio.AioRpcError:
        return False
    return True


class Beating(Proxy):
    """A proxy that acknowledges what it hears."""

    async def beat(self, number: int, seconds: float = 1) -> bool:
        """Asks for more time. False: it is not given."""
        await self.call.write(pb.WatchRequest(heartbeat=number))
        try:
            while (message := await asyncio.wait_for(asyncio.shield(self._next()), seconds)).heartbeat != number:
                if message.HasField("change"):
                    await self.ack(message.change.version)
        except TimeoutError:
            return False
        return True

    def _next(self) -> "asyncio.Future[pb.WatchResponse]":
        # A read that is given up ends the call: the next one takes it over.
        pending: asyncio.Future[pb.WatchResponse] | None = getattr(self, "_pending", None)
        if pending is None or pending.done():
            self._pending = pending = asyncio.ensure_future(self.call.read())
        return pending


Loss = tuple[Callable[[Postgres], None], Callable[[Postgres], None]]
LOSSES: dict[str, Loss] = {
    "killed": (lambda postgres: postgres.stop(signal.SIGQUIT), lambda postgres: postgres.start()),
    "stopped": (lambda postgres: postgres.stop(signal.SIGINT), lambda postgres: postgres.start()),
    "hung": (lambda postgres: postgres.halt(), lambda postgres: postgres.go_on()),
}


def assert_unavailable(failed: Failure) -> None:
    assert (failed.http, failed.reason) == (503, "DATABASE_UNAVAILABLE")
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert int(failed.trailers["retry-after"]) > 0
    assert "postgres" not in failed.message.lower()


@pytest.mark.parametrize("kind", LOSSES)
async def test_calls_answer_503_and_everything_goes_on_when_the_database_is_back(
    app: App, channel: grpc.aio.Channel, postgres: Postgres, kind: str
) -> None:
    lose, find = LOSSES[kind]
    made = await new_key(channel)
    proxy = Beating(channel, "p", stale_ms=60_000)
    await proxy.hello()
    numbers = count(1)
    assert await proxy.beat(next(numbers))
    lose(postgres)
    try:
        calls = (failure(listed(channel)), failure(revoke(channel, made.id)), failure(new_key(channel)))
        for failed in await asyncio.gather(*calls):
            assert_unavailable(failed)

        async def no_time_is_given() -> bool:
            return not await proxy.beat(next(numbers))

        await eventually(no_time_is_given, 30)
    finally:
        find(postgres)
    await eventually(lambda: answers(channel), 30)

    async def time_is_given() -> bool:
        return await proxy.beat(next(numbers))

    await eventually(time_is_given, 30)
    # The same stream hears of changes, the reconciler works, and a revocation is confirmed.
    going_on = asyncio.create_task(keep_beating(proxy, numbers))
    await new_instance(channel)
    await revoke(channel, made.id)
    going_on.cancel()


async def keep_beating(proxy: Beating, numbers: Iterator[int]) -> None:
    for number in numbers:
        await proxy.beat(number)
        await asyncio.sleep(0.02)


async def test_restart_between_two_calls_fails_none(channel: grpc.aio.Channel, app: App, postgres: Postgres) -> None:
    made = await new_key(channel)
    await asyncio.gather(*(listed(channel) for _ in range(8)))
    postgres.stop(signal.SIGINT)
    postgres.start()
    (found,) = (await listed(channel)).api_keys
    assert found.id == made.id
    await asyncio.gather(*(listed(channel) for _ in range(8)))


async def test_others_changes_are_heard_at_once_again_after_a_restart(
    channel: grpc.aio.Channel, app: App, postgres: Postgres, address: str, tmp_path: Path
) -> None:
    proxy = Proxy(channel, "p", stale_ms=60_000)
    await proxy.hello()
    postgres.stop(signal.SIGINT)
    postgres.start()
    chosen = settings(tmp_path, database_url=address, **QUICK)
    async with (
        running(chosen, MemoryRuntime()) as other,
        grpc.aio.insecure_channel(str(other.address)) as elsewhere,
    ):
        took = []
        for _ in range(7):
            made = await new_key(elsewhere)
            began = asyncio.get_running_loop().time()
            revocation = asyncio.ensure_future(revoke(elsewhere, made.id))
            heard = (await proxy.read()).change
            took.append(asyncio.get_running_loop().time() - began)
            assert heard.key_sha256 == digest(made.key)
            await proxy.ack(heard.version)
            await revocation
    assert min(took) < 0.2, "by a signal, not by the look of every second"


async def test_transaction_in_which_nothing_happens_does_not_hold_the_others_up(app: App, postgres: Postgres) -> None:
    """A halted server may have numbered a change, and all others wait for it."""
    session = postgres.run("SHOW idle_in_transaction_session_timeout")
    assert session == "0", "it is ours that is bounded, not the database's"
    async with app.database.read() as tx:
        assert await tx.changes.latest() == 0
    async with app.database.engine.connect() as connection:
        shown = [
            (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert shown == ["1s", "1s", "5s"]


async def test_start_without_a_database_is_one_sentence_without_the_password(
    tmp_path: Path, postgres: Postgres
) -> None:
    for address, why in (
        (f"postgresql://ana:pa55word@/postgres?host={tmp_path}", "does not answer"),
        (f"postgresql://postgres:pa55word@/nothing?host={postgres.folder}", 'database "nothing" does not exist'),
        (f"postgresql://nobody:pa55word@/postgres?host={postgres.folder}", 'role "nobody" does not exist'),
        ("postgresql://ana:pa55/word@127.0.0.1:1/x", "percent-encoded"),
        ("postgresql://ana:pa55word@127.0.0.1:1/x?sslmode=nonsense", "percent-encoded"),
    ):
        with pytest.raises(StartFailed, match="ORCH8_DATABASE_URL") as caught:
            async with open_database(settings(tmp_path, database_url=address, **QUICK)):
                pass
        assert why in str(caught.value)
        assert "pa55" not in str(caught.value)
        assert "\n" not in str(caught.value)
