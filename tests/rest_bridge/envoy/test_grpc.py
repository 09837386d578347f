import asyncio
import struct
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from orch8cloud.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from orch8cloud.v1 import instances_pb2, instances_pb2_grpc

from tests.rest_bridge.envoy.conftest import Edge
from tests.rest_bridge.envoy.fakes import answering, failing

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIST = "/orch8cloud.v1.InstancesService/ListInstances"


@pytest_asyncio.fixture(loop_scope="session")
async def channel(edge: Edge) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(edge.address)) as opened:
        yield opened


async def test_native_grpc_is_served_on_the_same_port(edge: Edge, channel: grpc.aio.Channel) -> None:
    answer = instances_pb2.ListInstancesResponse(instances=[instances_pb2.Instance(id="inst_1")])
    edge.server.answers["ListInstances"] = answering(answer)
    stub = instances_pb2_grpc.InstancesServiceStub(channel)
    assert await stub.ListInstances(instances_pb2.ListInstancesRequest()) == answer
    assert edge.server.seen[-1][2]["x-orch8-host"] == str(edge.address)


async def test_a_grpc_call_brings_no_path(edge: Edge, channel: grpc.aio.Channel) -> None:
    edge.server.answers["ListInstances"] = answering(instances_pb2.ListInstancesResponse())
    stub = instances_pb2_grpc.InstancesServiceStub(channel)
    forged = (("x-orch8-path", "evil"), ("x_orch8_path", "evil"))
    await stub.ListInstances(instances_pb2.ListInstancesRequest(), metadata=forged)
    assert not {"x-orch8-path", "x_orch8_path"} & set(edge.server.seen[-1][2])


async def test_an_error_stays_a_grpc_error(edge: Edge, channel: grpc.aio.Channel) -> None:
    edge.server.answers["ListInstances"] = failing("PLAN_LIMIT_REACHED", "Too many.", ("x-http-status", "402"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await instances_pb2_grpc.InstancesServiceStub(channel).ListInstances(instances_pb2.ListInstancesRequest())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many.")
    assert b"PLAN_LIMIT_REACHED" in dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_health_passes(channel: grpc.aio.Channel) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # the types leave it out
    answer = await check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_server_and_proxy_say_to_each_other_is_out_of_reach(channel: grpc.aio.Channel) -> None:
    stub = dataplane_pb2_grpc.DataPlaneServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetRoute(dataplane_pb2.GetRouteRequest())
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "DataPlaneService/GetRoute" in (caught.value.details() or "")


@pytest.mark.parametrize("content_type", ["application/grpc-web+proto", "application/grpc-web"])
async def test_grpc_web(edge: Edge, content_type: str) -> None:
    answer = instances_pb2.ListInstancesResponse(instances=[instances_pb2.Instance(id="inst_1")])
    edge.server.answers["ListInstances"] = answering(answer)
    headers = {"content-type": content_type, "x-grpc-web": "1"}
    got = await edge.http.post(LIST, content=b"\0\0\0\0\0", headers=headers)
    assert got.headers["content-type"].startswith("application/grpc-web")
    flag, length = struct.unpack(">BI", got.content[:5])
    assert (flag, instances_pb2.ListInstancesResponse.FromString(got.content[5 : 5 + length])) == (0, answer)
    assert b"grpc-status:0" in got.content[5 + length :]


async def test_http2_without_tls_serves_rest_too(edge: Edge) -> None:
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-s", "--http2-prior-knowledge", "-w", "%{http_version}", f"http://{edge.address}/healthz"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await curl.communicate()
    assert said == b'{"status":"ok"}2'
