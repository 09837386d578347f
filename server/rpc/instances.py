"""InstancesService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceServicer

from server.rpc.answers import send_version
from server.rpc.convert import instance, nullable
from server.rpc.interceptors.authentication import caller
from server.services.instances import InstancesService

Context = grpc.aio.ServicerContext[Any, Any]


class InstancesServicer(InstancesServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: InstancesService, public_url: str) -> None:
        self._service = service
        self._public_url = public_url

    async def ListInstances(self, request: pb.ListInstancesRequest, context: Context) -> pb.ListInstancesResponse:
        """See instances.proto."""
        found = await self._service.list(caller=caller())
        return pb.ListInstancesResponse(instances=[instance(one, self._public_url) for one in found])

    async def CreateInstance(self, request: pb.CreateInstanceRequest, context: Context) -> pb.CreateInstanceResponse:
        """See instances.proto."""
        made = await self._service.create(caller=caller(), name=request.name, region=request.region)
        return pb.CreateInstanceResponse(id=made.id, status=made.status, error=nullable(made.error))

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Context) -> pb.Instance:
        """See instances.proto."""
        found = await self._service.get(caller=caller(), instance_id=request.instance_id)
        return instance(found, self._public_url)

    async def ActOnInstance(self, request: pb.ActOnInstanceRequest, context: Context) -> pb.ActOnInstanceResponse:
        """See instances.proto."""
        status, version = await self._service.act(
            caller=caller(), instance_id=request.instance_id, action=request.action
        )
        await send_version(context, version)
        return pb.ActOnInstanceResponse(status=status)

    async def DeleteInstance(self, request: pb.DeleteInstanceRequest, context: Context) -> pb.DeleteInstanceResponse:
        """See instances.proto."""
        await send_version(context, await self._service.delete(caller=caller(), instance_id=request.instance_id))
        return pb.DeleteInstanceResponse()

    async def GetInstanceHealth(
        self, request: pb.GetInstanceHealthRequest, context: Context
    ) -> pb.GetInstanceHealthResponse:
        """See instances.proto."""
        health = await self._service.health(caller=caller(), instance_id=request.instance_id)
        return pb.GetInstanceHealthResponse(status="ok" if health.ready else "unavailable", version=health.version)
