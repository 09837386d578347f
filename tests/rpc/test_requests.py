"""What is checked of every request, whichever method it is for."""

from typing import Any

import grpc
import pytest
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from tests.support.calls import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return InstancesServiceStub


def asked(path: str) -> tuple[tuple[str, str], ...]:
    """The path as Envoy passes it on."""
    return (("x-orch8-path", path),)


@pytest.mark.parametrize("path", ["/api/instances/inst_a", "/api/instances/inst%5Fa"])
async def test_path_that_agrees_with_the_request_passes(grpc_stub: Any, owner: Any, path: str) -> None:
    request = instances_pb2.GetInstanceRequest(instance_id="inst_a")
    failed = await failure(grpc_stub.GetInstance(request, metadata=(*owner, *asked(path))))
    assert failed.reason == "NOT_FOUND"


@pytest.mark.parametrize("path", ["/api/instances/inst_b", "/api/instances", "/api/other/inst_a", ""])
async def test_path_names_the_resource_and_nothing_else_can(grpc_stub: Any, owner: Any, path: str) -> None:
    request = instances_pb2.GetInstanceRequest(instance_id="inst_a")
    failed = await failure(grpc_stub.GetInstance(request, metadata=(*owner, *asked(path))))
    assert (failed.http, failed.reason) == (400, "INVALID_ARGUMENT")


async def test_field_that_is_no_path_variable_is_free(grpc_channel: Any, owner: Any) -> None:
    stub: Any = ApiKeysServiceStub(grpc_channel)
    request = api_keys_pb2.CreateApiKeyRequest(name="k", environment="live", instance_id="inst_nothing")
    failed = await failure(stub.CreateApiKey(request, metadata=(*owner, *asked("/api/api-keys"))))
    assert failed.reason == "NOT_FOUND"


@pytest.mark.parametrize("data", [b"\x0a\x01\xff", b"\xff\xff\xff", b"\x0a\x7f"])
async def test_bytes_that_are_no_message_are_400_and_only_for_callers_who_may(
    grpc_channel: grpc.aio.Channel, owner: Any, data: bytes
) -> None:
    call: Any = grpc_channel.unary_unary("/orch8cloud.v1.InstancesService/GetInstance")
    failed = await failure(call(data, metadata=owner))
    assert (failed.http, failed.reason, failed.fields) == (400, "INVALID_ARGUMENT", ("request",))
    assert (await failure(call(data))).reason == "UNAUTHENTICATED"


async def test_two_credentials_are_none(grpc_stub: Any, owner: Any) -> None:
    call = grpc_stub.ListInstances(instances_pb2.ListInstancesRequest(), metadata=(*owner, *owner))
    assert (await failure(call)).http == 401
