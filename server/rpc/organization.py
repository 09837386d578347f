"""OrganizationService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import organization_pb2 as pb
from orch8cloud.v1.organization_pb2_grpc import OrganizationServiceServicer

from server.rpc.convert import organization
from server.rpc.interceptors.authentication import member
from server.services.organizations import OrganizationsService

Context = grpc.aio.ServicerContext[Any, Any]


class OrganizationServicer(OrganizationServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: OrganizationsService) -> None:
        self._service = service

    async def GetOrganization(self, request: pb.GetOrganizationRequest, context: Context) -> pb.Organization:
        """See organization.proto."""
        who = member()
        found, plan = await self._service.get(caller=who)
        return organization(found, plan, who.role)
