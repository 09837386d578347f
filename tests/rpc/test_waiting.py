"""?wait= of an instance: the answer comes when the state settles, or after the time, and waiting is bounded."""

import asyncio
import time
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from server.app import App
from server.domain.instances import Phase
from server.errors import RateLimited
from server.services.settling import Settling
from server.services.waiting import Waiters
from tests.support.calls import eventually, failure
from tests.support.runtime import MemoryRuntime

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return InstancesServiceStub


async def create(stub: Any, who: Any) -> str:
    made = await stub.CreateInstance(pb.CreateInstanceRequest(name="production", region="iad"), metadata=who)
    return str(made.id)


def get(stub: Any, who: Any, instance_id: str, wait: str) -> Any:
    return stub.GetInstance(
        ParseDict({"instance_id": instance_id, "wait": wait}, pb.GetInstanceRequest()), metadata=who
    )


async def waits(app: App, instance_id: str) -> None:
    """Returns when a call waits for the instance."""

    async def check() -> bool:
        return instance_id in app.jobs.waiters.names

    await eventually(check)


async def test_answer_comes_when_the_engine_is_ready(
    grpc_stub: Any, grpc_server: App, owner: Any, runtime: MemoryRuntime
) -> None:
    began = time.monotonic()
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        answer = asyncio.ensure_future(get(grpc_stub, owner, instance_id, "60s"))
        await waits(grpc_server, instance_id)
        assert not answer.done()
    assert (await answer).status == "running"
    assert time.monotonic() - began < 30
    assert instance_id not in grpc_server.jobs.waiters.names


async def test_settled_instance_is_answered_at_once(grpc_stub: Any, owner: Any) -> None:
    instance_id = await create(grpc_stub, owner)
    assert (await get(grpc_stub, owner, instance_id, "60s")).status == "running"
    assert (await get(grpc_stub, owner, instance_id, "60s")).status == "running"


async def test_after_the_time_it_is_shown_as_it_is(grpc_stub: Any, owner: Any, runtime: MemoryRuntime) -> None:
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        began = time.monotonic()
        assert (await get(grpc_stub, owner, instance_id, "0.2s")).status == "provisioning"
        assert time.monotonic() - began >= 0.2


async def test_failure_and_delete_end_the_wait(
    grpc_stub: Any, grpc_server: App, owner: Any, runtime: MemoryRuntime
) -> None:
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        answer = asyncio.ensure_future(get(grpc_stub, owner, instance_id, "60s"))
        await waits(grpc_server, instance_id)
        await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=instance_id), metadata=owner)
        assert (await failure(answer)).reason == "NOT_FOUND"
    runtime.failing = "no"
    try:
        instance_id = await create(grpc_stub, owner)
        assert (await get(grpc_stub, owner, instance_id, "60s")).status == "failed"
    finally:
        runtime.failing = None


@pytest.mark.parametrize("wait", ["0s", "-1s", "60.001s", "61s", "315576000000s"])
async def test_time_must_be_more_than_nothing_and_at_most_a_minute(grpc_stub: Any, owner: Any, wait: str) -> None:
    failed = await failure(get(grpc_stub, owner, "inst_unknown", wait))
    assert (failed.http, failed.fields) == (400, ("wait",))


async def test_work_of_another_server_is_noticed_by_looking(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str, runtime: MemoryRuntime
) -> None:
    """A second server on the same database: its reconciler is not the one that works."""
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        waiters = Waiters()
        other = Settling(grpc_server.database, waiters)
        await other.look()
        waiting = asyncio.create_task(other.wait(org, instance_id, 60))

        async def begun() -> bool:
            return waiters.names == [instance_id]

        await eventually(begun)
        await other.look()
    await get(grpc_stub, owner, instance_id, "60s")
    await other.look()
    settled = await waiting
    assert settled is not None
    assert settled.phase is Phase.RUNNING


async def test_waiters_are_bounded_for_each_organization_and_in_all() -> None:
    waiters = Waiters(most=3, most_of_one=2)
    with waiters.waiting("a", "x", 60), waiters.waiting("a", "y", 60):
        with pytest.raises(RateLimited) as caught, waiters.waiting("a", "z", 60):
            pass
        assert (caught.value.metadata["scope"], caught.value.retry_after) == ("waiting calls", 1)
        with waiters.waiting("b", "x", 60):
            with pytest.raises(RateLimited), waiters.waiting("c", "x", 60):
                pass
            assert sorted(waiters.names) == ["x", "y"]
    with waiters.waiting("a", "x", 60), waiters.waiting("a", "x", 60):
        pass
    assert waiters.names == []


async def test_who_waits_looks_once_more_and_goes_when_the_server_stops() -> None:
    waiters = Waiters()
    with waiters.waiting("a", "x", 60) as waiter:
        ended = asyncio.create_task(waiter.again())
        await asyncio.sleep(0)
        waiters.close()
        assert await ended
        assert not await waiter.again()
    with waiters.waiting("a", "x", 60) as late:
        assert not await late.again()


async def test_resume_answers_too_where_nobody_may_wait(
    grpc_stub: Any, grpc_server: App, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = await create(grpc_stub, owner)
    await get(grpc_stub, owner, instance_id, "60s")
    monkeypatch.setattr(grpc_server.jobs.waiters, "_most", 0)
    request = pb.ActOnInstanceRequest(instance_id=instance_id, action="suspend")
    assert (await grpc_stub.ActOnInstance(request, metadata=owner)).status == "suspended"
