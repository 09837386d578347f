from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.v1 import api_keys_pb2 as pb
from orch8cloud.v1 import instances_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from server.domain.keys import well_formed
from tests.support.calls import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return ApiKeysServiceStub


def bearer(key: str) -> Any:
    return (("authorization", f"Bearer {key}"),)


async def create(stub: Any, who: Any, **fields: Any) -> Any:
    request = pb.CreateApiKeyRequest(**({"name": "ci", "environment": "live"} | fields))
    return await stub.CreateApiKey(request, metadata=who)


async def test_created_key_is_shown_once_and_works(grpc_stub: Any, grpc_channel: Any, owner: Any) -> None:
    made = await create(grpc_stub, owner, name="ci of Ana", environment="test")
    assert well_formed(made.key)
    assert made.key.startswith(made.prefix)
    assert len(made.prefix) == len("orc8_test_") + 8
    shown = MessageToDict(made, preserving_proto_field_name=True)
    nulls = {name: shown[name] for name in ("instance_id", "last_used_at", "expires_at", "revoked_at")}
    assert set(nulls.values()) == {None}

    await InstancesServiceStub(grpc_channel).ListInstances(
        instances_pb2.ListInstancesRequest(), metadata=bearer(made.key)
    )
    listed = await grpc_stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=owner)
    assert [key.id for key in listed.api_keys] == [made.id]
    assert made.key not in str(listed)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, ("name",)),
        ({"name": "x" * 65}, ("name",)),
        ({"name": "a\nb"}, ("name",)),
        ({"environment": ""}, ("environment",)),
        ({"environment": "prod"}, ("environment",)),
        ({"name": "", "environment": "LIVE"}, ("name", "environment")),
    ],
)
async def test_bad_fields_are_named(grpc_stub: Any, owner: Any, fields: Any, named: Any) -> None:
    failed = await failure(create(grpc_stub, owner, **fields))
    assert (failed.http, failed.fields) == (400, named)


async def test_expiry_must_be_in_the_future_and_is_kept(grpc_stub: Any, owner: Any) -> None:
    past, future = Timestamp(), Timestamp()
    past.FromDatetime(datetime.now(UTC) - timedelta(seconds=1))
    future.FromDatetime(datetime(2099, 1, 1, tzinfo=UTC))
    assert (await failure(create(grpc_stub, owner, expires_at=past))).fields == ("expires_at",)
    made = await create(grpc_stub, owner, expires_at=future)
    assert made.expires_at.string_value == "2099-01-01T00:00:00Z"


async def test_revoked_key_is_refused_everywhere_and_stays_listed(
    grpc_stub: Any, grpc_channel: Any, owner: Any
) -> None:
    made = await create(grpc_stub, owner)
    call = grpc_stub.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.id), metadata=owner)
    await call
    assert "x-orch8-version" in dict(await call.initial_metadata())
    instances = InstancesServiceStub(grpc_channel)
    refused = instances.ListInstances(instances_pb2.ListInstancesRequest(), metadata=bearer(made.key))
    failed = await failure(refused)
    assert (failed.http, failed.reason) == (401, "KEY_REVOKED")
    assert failed.trailers["www-authenticate"].startswith("Bearer")

    (listed,) = (await grpc_stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=owner)).api_keys
    first = listed.revoked_at.string_value
    assert first.endswith("Z")
    await grpc_stub.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.id), metadata=owner)
    (listed,) = (await grpc_stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=owner)).api_keys
    assert listed.revoked_at.string_value == first, "the first revocation counts"


async def test_key_of_an_unknown_or_foreign_instance_or_key_is_404(
    grpc_stub: Any, grpc_channel: Any, owner: Any, signed_in: Any
) -> None:
    stranger = signed_in("org_key_strangers")
    request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
    instance: Any = await InstancesServiceStub(grpc_channel).CreateInstance(request, metadata=owner)
    assert (await failure(create(grpc_stub, owner, instance_id="inst_nothing"))).reason == "NOT_FOUND"
    assert (await failure(create(grpc_stub, stranger, instance_id=instance.id))).reason == "NOT_FOUND"
    made = await create(grpc_stub, owner)
    for who, key_id in ((stranger, made.id), (owner, "key_nothing")):
        failed = await failure(grpc_stub.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id), metadata=who))
        assert (failed.http, failed.reason) == (404, "NOT_FOUND")


async def test_only_admins_and_owners_may_and_never_a_key(grpc_stub: Any, owner: Any, org: str, signed_in: Any) -> None:
    made = await create(grpc_stub, owner)
    assert (await create(grpc_stub, signed_in(org, role="admin"))).id
    member = await failure(create(grpc_stub, signed_in(org, role="member")))
    assert (member.http, member.reason, member.metadata) == (
        403,
        "ROLE_REQUIRED",
        {"role": "member", "required": "admin"},
    )
    for call in (
        create(grpc_stub, bearer(made.key)),
        grpc_stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=bearer(made.key)),
        grpc_stub.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=made.id), metadata=bearer(made.key)),
    ):
        failed = await failure(call)
        assert (failed.http, failed.reason) == (403, "PERMISSION_DENIED")
