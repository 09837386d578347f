"""InstancesService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceServicer

from server.domain.instances import Instance
from server.rpc.answers import Answer
from server.rpc.convert import instance, nullable
from server.rpc.interceptors.authentication import caller
from server.rpc.interceptors.idempotency import keeping
from server.rpc.preconditions import if_match
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
        made = await self._service.create(
            caller=caller(), name=request.name, region=request.region, keep=keeping(_created)
        )
        return await _created(made).send(context)

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Context) -> pb.Instance:
        """See instances.proto."""
        wait = request.wait.seconds + request.wait.nanos / 1e9 if request.HasField("wait") else None
        found = await self._service.get(caller=caller(), instance_id=request.instance_id, wait=wait)
        return await Answer(message=instance(found, self._public_url), revision=found.revision).send(context)

    async def ActOnInstance(self, request: pb.ActOnInstanceRequest, context: Context) -> pb.ActOnInstanceResponse:
        """See instances.proto."""
        wanted, version = await self._service.act(
            caller=caller(),
            instance_id=request.instance_id,
            action=request.action,
            keep=keeping(_acted),
            if_match=if_match(context),
        )
        return await _acted(wanted, version).send(context)

    async def DeleteInstance(self, request: pb.DeleteInstanceRequest, context: Context) -> pb.DeleteInstanceResponse:
        """See instances.proto."""
        version = await self._service.delete(
            caller=caller(), instance_id=request.instance_id, if_match=if_match(context)
        )
        return await Answer(message=pb.DeleteInstanceResponse(), version=version).send(context)

    async def GetInstanceHealth(
        self, request: pb.GetInstanceHealthRequest, context: Context
    ) -> pb.GetInstanceHealthResponse:
        """See instances.proto."""
        health = await self._service.health(caller=caller(), instance_id=request.instance_id)
        return pb.GetInstanceHealthResponse(status="ok" if health.ready else "unavailable", version=health.version)


def _created(made: Instance, _version: int | None = None) -> Answer[pb.CreateInstanceResponse]:
    message = pb.CreateInstanceResponse(id=made.id, status=made.status, error=nullable(made.error))
    return Answer(message=message, revision=made.revision)


def _acted(wanted: Instance, version: int | None) -> Answer[pb.ActOnInstanceResponse]:
    return Answer(message=pb.ActOnInstanceResponse(status=wanted.status), version=version)
