"""SystemService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import system_pb2 as pb
from orch8cloud.v1.system_pb2_grpc import SystemServiceServicer

from server.services.system import SystemService

Context = grpc.aio.ServicerContext[Any, Any]


class SystemServicer(SystemServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: SystemService) -> None:
        self._service = service

    async def GetReadiness(self, request: pb.GetReadinessRequest, context: Context) -> pb.GetReadinessResponse:
        """See system.proto."""
        return pb.GetReadinessResponse(status="ready", proxies=await self._service.readiness())
