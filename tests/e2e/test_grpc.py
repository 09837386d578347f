"""Native gRPC and gRPC-Web on the same port as everything else."""

import base64
import struct
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orch8cloud.dataplane.v1 import dataplane_pb2
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import instances_pb2
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from tests.support.calls import failure
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


def metadata(headers: dict[str, str]) -> Any:
    return tuple((name.lower(), value) for name, value in headers.items())


async def test_stubs_call_the_public_services(stack: Stack, key: dict[str, str]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        stub: Any = InstancesServiceStub(channel)
        found = await stub.ListInstances(instances_pb2.ListInstancesRequest(), metadata=metadata(key))
        assert stack.ready["instance_id"] in [one.id for one in found.instances]
        missing = instances_pb2.GetInstanceRequest(instance_id="inst_nothing")
        failed = await failure(stub.GetInstance(missing, metadata=metadata(key)))
        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="orch8cloud.v1.InstancesService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_internal_service_is_not_reachable(stack: Stack, key: dict[str, str]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        stub: Any = DataPlaneServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetRoute(dataplane_pb2.GetRouteRequest(instance_id="x"), metadata=metadata(key))
        assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)


async def test_grpc_web(http: httpx.AsyncClient, key: dict[str, str]) -> None:
    message = instances_pb2.ListInstancesRequest().SerializeToString()
    frame = b"\0" + struct.pack(">I", len(message)) + message
    headers = key | {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
    answer = await http.post(
        "/orch8cloud.v1.InstancesService/ListInstances", content=base64.b64encode(frame), headers=headers
    )
    assert answer.status_code == 200
    assert b"inst_" in base64.b64decode(answer.content)
