"""resource_version and If-Match, and what holds when many change the same things at once."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from orch8cloud.v1 import api_keys_pb2, policies_pb2
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from tests.support.calls import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return InstancesServiceStub


def create(stub: Any, who: Any, name: str = "production") -> Any:
    return stub.CreateInstance(pb.CreateInstanceRequest(name=name, region="iad"), metadata=who)


async def running(stub: Any, who: Any) -> Any:
    made = await create(stub, who)
    request = ParseDict({"instance_id": made.id, "wait": "60s"}, pb.GetInstanceRequest())
    found = await stub.GetInstance(request, metadata=who)
    assert found.status == "running"
    return found


def act(stub: Any, who: Any, instance_id: str, action: str) -> Any:
    return stub.ActOnInstance(pb.ActOnInstanceRequest(instance_id=instance_id, action=action), metadata=who)


async def outcome(call: Any) -> str:
    """The name of the status with which a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def matching(who: Any, tag: str) -> Any:
    return (*who, ("if-match", tag))


async def test_every_change_of_an_instance_makes_another_version(grpc_stub: Any, owner: Any) -> None:
    found = await running(grpc_stub, owner)
    seen = [found.resource_version]
    for action in ("suspend", "resume"):
        await act(grpc_stub, owner, found.id, action)
        call = grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=found.id), metadata=owner)
        seen.append((await call).resource_version)
        assert dict(await call.initial_metadata())["etag"] == f'"{seen[-1]}"'
    assert len(set(seen)) == 3
    again = await grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=found.id), metadata=owner)
    assert again.resource_version == seen[-1], "looking changes nothing"


async def test_instance_changes_only_if_it_is_as_it_was_read(grpc_stub: Any, owner: Any) -> None:
    found = await running(grpc_stub, owner)
    await act(grpc_stub, matching(owner, f'"{found.resource_version}"'), found.id, "suspend")
    stale = await failure(act(grpc_stub, matching(owner, f'"{found.resource_version}"'), found.id, "resume"))
    assert (stale.code, stale.http, stale.reason) == (grpc.StatusCode.ABORTED, 412, "VERSION_MISMATCH")
    now = await grpc_stub.GetInstance(pb.GetInstanceRequest(instance_id=found.id), metadata=owner)
    assert stale.metadata == {"resource": "instance", "resource_version": now.resource_version}
    delete = pb.DeleteInstanceRequest(instance_id=found.id)
    weak = matching(owner, f'W/"{now.resource_version}"')
    assert (await failure(grpc_stub.DeleteInstance(delete, metadata=weak))).http == 412
    assert (await failure(grpc_stub.DeleteInstance(delete, metadata=matching(owner, "7")))).fields == ("if-match",)
    # Two headers are one list.
    both = matching(matching(owner, '"0"'), f'"{now.resource_version}"')
    await grpc_stub.DeleteInstance(delete, metadata=both)


async def test_policy_and_key_change_only_if_they_are_as_they_were_read(
    grpc_stub: Any, grpc_channel: Any, owner: Any
) -> None:
    policies: Any = PoliciesServiceStub(grpc_channel)
    keys: Any = ApiKeysServiceStub(grpc_channel)
    found = await running(grpc_stub, owner)
    make = ParseDict({"instance_id": found.id, "provider": "api-key"}, policies_pb2.CreatePolicyRequest())
    policy = await policies.CreatePolicy(make, metadata=owner)
    update = ParseDict(
        {"instance_id": found.id, "policy_id": policy.id, "enabled": False}, policies_pb2.UpdatePolicyRequest()
    )
    first = matching(owner, f'"{policy.resource_version}"')
    changed = await policies.UpdatePolicy(update, metadata=first)
    assert changed.resource_version != policy.resource_version
    assert (await failure(policies.UpdatePolicy(update, metadata=first))).http == 412
    delete = policies_pb2.DeletePolicyRequest(instance_id=found.id, policy_id=policy.id)
    assert (await failure(policies.DeletePolicy(delete, metadata=first))).http == 412
    await policies.DeletePolicy(delete, metadata=matching(owner, f'"{changed.resource_version}"'))

    key = await keys.CreateApiKey(api_keys_pb2.CreateApiKeyRequest(name="ci", environment="live"), metadata=owner)
    revoke = api_keys_pb2.RevokeApiKeyRequest(api_key_id=key.id)
    assert (await failure(keys.RevokeApiKey(revoke, metadata=matching(owner, '"99"')))).http == 412
    await keys.RevokeApiKey(revoke, metadata=matching(owner, f'"{key.resource_version}"'))
    (revoked,) = (await keys.ListApiKeys(api_keys_pb2.ListApiKeysRequest(), metadata=owner)).api_keys
    assert revoked.resource_version != key.resource_version


async def test_of_many_who_have_read_the_same_one_changes_it(grpc_stub: Any, grpc_channel: Any, owner: Any) -> None:
    policies: Any = PoliciesServiceStub(grpc_channel)
    found = await running(grpc_stub, owner)
    make = ParseDict({"instance_id": found.id, "provider": "api-key"}, policies_pb2.CreatePolicyRequest())
    policy = await policies.CreatePolicy(make, metadata=owner)

    async def change(number: int) -> str:
        request = ParseDict(
            {"instance_id": found.id, "policy_id": policy.id, "allow": [{"sub": f"sub-{number}"}]},
            policies_pb2.UpdatePolicyRequest(),
        )
        return await outcome(policies.UpdatePolicy(request, metadata=matching(owner, f'"{policy.resource_version}"')))

    assert sorted(await asyncio.gather(*(change(number) for number in range(8)))) == ["ABORTED"] * 7 + ["OK"]


async def test_plan_limit_and_names_hold_when_many_ask_at_once(grpc_stub: Any, owner: Any) -> None:
    """The free plan has one running instance: whoever comes first."""
    found = await asyncio.gather(*(outcome(create(grpc_stub, owner, f"name-{number}")) for number in range(8)))
    assert sorted(found) == ["OK"] + ["RESOURCE_EXHAUSTED"] * 7
    (one,) = (await grpc_stub.ListInstances(pb.ListInstancesRequest(), metadata=owner)).instances
    taken = await asyncio.gather(*(outcome(create(grpc_stub, owner, one.name)) for _ in range(4)))
    assert taken == ["ALREADY_EXISTS"] * 4


async def test_resumes_at_once_stay_within_the_plan(grpc_stub: Any, owner: Any) -> None:
    first = await running(grpc_stub, owner)
    await act(grpc_stub, owner, first.id, "suspend")
    second = await create(grpc_stub, owner, "second")
    request = ParseDict({"instance_id": second.id, "wait": "60s"}, pb.GetInstanceRequest())
    await grpc_stub.GetInstance(request, metadata=owner)
    await act(grpc_stub, owner, second.id, "suspend")

    resumes = [outcome(act(grpc_stub, owner, one.id, "resume")) for one in (first, second)]
    assert sorted(await asyncio.gather(*resumes)) == ["OK", "RESOURCE_EXHAUSTED"]
