from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from orch8cloud.v1 import api_keys_pb2
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from server.providers.runtime.base import EngineSpec
from tests.support.calls import eventually, failure
from tests.support.runtime import MemoryRuntime

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return InstancesServiceStub


async def create(stub: Any, who: Any, name: str = "production") -> str:
    made = await stub.CreateInstance(pb.CreateInstanceRequest(name=name, region="iad"), metadata=who)
    return str(made.id)


async def settled(stub: Any, who: Any, instance_id: str, status: str = "running") -> Any:
    async def check() -> Any:
        found = await stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), metadata=who)
        return found if found.status == status else None

    return await eventually(check)


async def test_created_instance_answers_provisioning_and_becomes_running(grpc_stub: Any, owner: Any) -> None:
    made = await grpc_stub.CreateInstance(pb.CreateInstanceRequest(name="production", region="fra"), metadata=owner)
    assert made.status == "provisioning"
    assert MessageToDict(made)["error"] is None

    found = await settled(grpc_stub, owner, made.id)
    assert (found.name, found.region) == ("production", "fra")
    assert found.connection_url == f"https://cloud.example.com/api/tunnel/{made.id}"
    listed = await grpc_stub.ListInstances(pb.ListInstancesRequest(), metadata=owner)
    assert [one.id for one in listed.instances] == [made.id]


@pytest.mark.parametrize(
    ("name", "region", "fields"),
    [
        ("", "iad", ("name",)),
        ("a", "iad", ("name",)),
        ("-ab", "iad", ("name",)),
        ("Abc", "iad", ("name",)),
        ("a_b", "iad", ("name",)),
        ("a" * 33, "iad", ("name",)),
        ("ab\n", "iad", ("name",)),
        ("ab", "", ("region",)),
        ("ab", "lhr", ("region",)),
        ("", "", ("name", "region")),
    ],
)
async def test_bad_name_or_region_is_named(
    grpc_stub: Any, owner: Any, name: str, region: str, fields: tuple[str, ...]
) -> None:
    request = pb.CreateInstanceRequest(name=name, region=region)
    failed = await failure(grpc_stub.CreateInstance(request, metadata=owner))
    assert (failed.http, failed.reason, failed.fields) == (400, "INVALID_ARGUMENT", fields)


async def test_taken_name_is_409_even_at_the_plan_limit_and_free_again_after_delete(grpc_stub: Any, owner: Any) -> None:
    first = await create(grpc_stub, owner)
    taken = await failure(create(grpc_stub, owner))
    assert (taken.http, taken.reason) == (409, "NAME_TAKEN")
    limit = await failure(create(grpc_stub, owner, "other"))
    assert (limit.http, limit.reason, limit.metadata) == (402, "PLAN_LIMIT_REACHED", {"plan": "free", "limit": "1"})

    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=first), metadata=owner)
    assert await create(grpc_stub, owner) != first


async def test_suspend_and_resume(grpc_stub: Any, owner: Any, runtime: MemoryRuntime) -> None:
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        early = await failure(act(grpc_stub, owner, instance_id, "suspend"))
    assert (early.http, early.reason) == (409, "STATE_CONFLICT")
    await settled(grpc_stub, owner, instance_id)

    call = act(grpc_stub, owner, instance_id, "suspend")
    assert (await call).status == "suspended"
    assert int(dict(await call.initial_metadata())["x-orch8-version"]) > 0
    assert runtime.states[instance_id] == "stopped"
    again = await failure(act(grpc_stub, owner, instance_id, "suspend"))
    assert (again.http, again.metadata["status"]) == (409, "suspended")

    assert (await act(grpc_stub, owner, instance_id, "resume")).status == "running"
    assert runtime.states[instance_id] == "running"
    assert (await failure(act(grpc_stub, owner, instance_id, "resume"))).reason == "STATE_CONFLICT"


def act(stub: Any, who: Any, instance_id: str, action: str) -> Any:
    return stub.ActOnInstance(pb.ActOnInstanceRequest(instance_id=instance_id, action=action), metadata=who)


async def test_suspended_instance_does_not_count_and_cannot_resume_over_the_limit(grpc_stub: Any, owner: Any) -> None:
    first = await create(grpc_stub, owner, "first")
    await settled(grpc_stub, owner, first)
    await act(grpc_stub, owner, first, "suspend")
    await create(grpc_stub, owner, "second")
    failed = await failure(act(grpc_stub, owner, first, "resume"))
    assert (failed.http, failed.reason) == (402, "PLAN_LIMIT_REACHED")


@pytest.mark.parametrize("action", ["", "stop", "SUSPEND"])
async def test_unknown_action_is_400(grpc_stub: Any, owner: Any, action: str) -> None:
    instance_id = await create(grpc_stub, owner)
    failed = await failure(act(grpc_stub, owner, instance_id, action))
    assert (failed.http, failed.fields) == (400, ("action",))


async def test_failed_provisioning_shows_its_error_and_does_not_count(
    grpc_stub: Any, owner: Any, runtime: MemoryRuntime
) -> None:
    runtime.failing = "the image does not start"
    try:
        failed = await settled(grpc_stub, owner, await create(grpc_stub, owner), "failed")
    finally:
        runtime.failing = None
    assert MessageToDict(failed)["error"] == "the image does not start"
    await create(grpc_stub, owner, "second")
    assert (await failure(act(grpc_stub, owner, failed.id, "resume"))).reason == "STATE_CONFLICT"


async def test_runtime_that_is_away_delays_and_does_not_fail(
    grpc_stub: Any, owner: Any, runtime: MemoryRuntime
) -> None:
    runtime.unavailable = 2
    await settled(grpc_stub, owner, await create(grpc_stub, owner))


async def test_crashed_engine_is_started_again(grpc_stub: Any, owner: Any, runtime: MemoryRuntime) -> None:
    instance_id = await create(grpc_stub, owner)
    await settled(grpc_stub, owner, instance_id)
    runtime.crash(instance_id)

    async def restarted() -> bool:
        return len(starts_of(runtime, instance_id)) > 1 and runtime.states[instance_id] == "running"

    await eventually(restarted)
    first, *later = starts_of(runtime, instance_id)
    assert later == [first], "the keys are those of the first start"


def starts_of(runtime: MemoryRuntime, instance_id: str) -> list[EngineSpec]:
    return [spec for spec in runtime.started if spec.instance_id == instance_id]


async def test_deleted_instance_is_gone_everywhere(grpc_stub: Any, owner: Any, runtime: MemoryRuntime) -> None:
    instance_id = await create(grpc_stub, owner)
    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=instance_id), metadata=owner)
    for call in (
        grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), metadata=owner),
        grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=instance_id), metadata=owner),
        act(grpc_stub, owner, instance_id, "resume"),
    ):
        assert (await failure(call)).reason == "NOT_FOUND"
    assert not (await grpc_stub.ListInstances(pb.ListInstancesRequest(), metadata=owner)).instances

    async def destroyed() -> bool:
        return instance_id not in runtime.states

    await eventually(destroyed)


async def test_health_of_an_engine_that_is_not_running_or_does_not_answer(
    grpc_stub: Any, owner: Any, runtime: MemoryRuntime
) -> None:
    with runtime.hold():
        instance_id = await create(grpc_stub, owner)
        health = pb.GetInstanceHealthRequest(instance_id=instance_id)
        failed = await failure(grpc_stub.GetInstanceHealth(health, metadata=owner))
    assert (failed.http, failed.reason) == (400, "NO_RUNNING_INSTANCE")
    await settled(grpc_stub, owner, instance_id)
    failed = await failure(grpc_stub.GetInstanceHealth(health, metadata=owner))
    assert (failed.http, failed.reason) == (502, "ENGINE_ERROR")


async def test_other_organizations_instances_do_not_exist(grpc_stub: Any, owner: Any, signed_in: Any) -> None:
    instance_id = await create(grpc_stub, owner)
    stranger = signed_in("org_strangers")
    for call in (
        grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=instance_id), metadata=stranger),
        grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=instance_id), metadata=stranger),
        grpc_stub.GetInstanceHealth(pb.GetInstanceHealthRequest(instance_id=instance_id), metadata=stranger),
        act(grpc_stub, stranger, instance_id, "suspend"),
    ):
        failed = await failure(call)
        assert (failed.http, failed.reason, failed.code) == (404, "NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_key_of_one_instance_reaches_only_that_one(
    grpc_stub: Any, grpc_channel: grpc.aio.Channel, owner: Any
) -> None:
    first = await create(grpc_stub, owner, "first")
    await settled(grpc_stub, owner, first)
    await act(grpc_stub, owner, first, "suspend")
    second = await create(grpc_stub, owner, "second")
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="test", instance_id=first)
    made = await ApiKeysServiceStub(grpc_channel).CreateApiKey(request, metadata=owner)
    key = (("authorization", f"Bearer {made.key}"),)

    listed = await grpc_stub.ListInstances(pb.ListInstancesRequest(), metadata=key)
    assert [one.id for one in listed.instances] == [first]
    assert (await grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=first), metadata=key)).id == first
    assert (await failure(grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=second), metadata=key))).http == 404
    assert (await failure(create(grpc_stub, key, "third"))).reason == "PERMISSION_DENIED"
