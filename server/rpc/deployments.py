"""DeploymentsService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import deployments_pb2 as pb
from orch8cloud.v1.deployments_pb2_grpc import DeploymentsServiceServicer

from server.domain.deployments import Deployment
from server.rpc.answers import Answer
from server.rpc.convert import given_json, nullable, struct, timestamp
from server.rpc.interceptors.authentication import caller
from server.rpc.interceptors.idempotency import keeping, retract
from server.rpc.preconditions import if_match
from server.services.deployments import DeploymentsService, NewDeployment

Context = grpc.aio.ServicerContext[Any, Any]


class DeploymentsServicer(DeploymentsServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: DeploymentsService, public_url: str) -> None:
        self._service = service
        self._public_url = public_url

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        """See deployments.proto."""
        found = await self._service.list(caller=caller())
        return pb.ListDeploymentsResponse(deployments=[self._deployment(one) for one in found])

    async def CreateDeployment(
        self, request: pb.CreateDeploymentRequest, context: Context
    ) -> pb.CreateDeploymentResponse:
        """See deployments.proto."""
        made = await self._service.create(
            caller=caller(), wanted=_wanted(request), keep=keeping(self._created), retract=retract
        )
        return await self._created(made).send(context)

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.Deployment:
        """See deployments.proto."""
        wait = request.wait.seconds + request.wait.nanos / 1e9 if request.HasField("wait") else None
        found = await self._service.get(caller=caller(), deployment_id=request.deployment_id, wait=wait)
        return await Answer(message=self._deployment(found), revision=found.revision).send(context)

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        """See deployments.proto."""
        version = await self._service.delete(
            caller=caller(), deployment_id=request.deployment_id, if_match=if_match(context)
        )
        return await Answer(message=pb.DeleteDeploymentResponse(), version=version).send(context)

    def _created(self, made: Deployment, _version: int | None = None) -> Answer[pb.CreateDeploymentResponse]:
        message = pb.CreateDeploymentResponse(
            id=made.id,
            status=made.status,
            engine_instance_id=made.instance_id,
            webhook_url=self._webhook_url(made),
            name=made.name,
        )
        return Answer(message=message, revision=made.revision)

    def _deployment(self, found: Deployment) -> pb.Deployment:
        return pb.Deployment(
            id=found.id,
            name=found.name,
            status=found.status,
            engine_instance_id=found.instance_id,
            webhook_url=self._webhook_url(found),
            template_id=found.template_id,
            config=struct(found.config),
            error=nullable(found.error),
            created_at=timestamp(found.created_at),
            updated_at=timestamp(found.updated_at),
            resource_version=str(found.revision),
        )

    def _webhook_url(self, found: Deployment) -> str:
        return f"{self._public_url}/api/gateway/{found.instance_id}/{found.slug}"


def _wanted(request: pb.CreateDeploymentRequest) -> NewDeployment:
    return NewDeployment(
        template_id=request.template_id,
        name=request.name if request.HasField("name") else None,
        config=given_json(request.config),
        secrets=given_json(request.secrets),
        instance_id=request.instance_id if request.HasField("instance_id") else None,
    )
