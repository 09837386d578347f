"""UsageService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import usage_pb2 as pb
from orch8cloud.v1.usage_pb2_grpc import UsageServiceServicer

from server.rpc.convert import usage
from server.rpc.interceptors.authentication import caller
from server.services.usage import UsageService

Context = grpc.aio.ServicerContext[Any, Any]


class UsageServicer(UsageServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: UsageService) -> None:
        self._service = service

    async def GetCurrentUsage(self, request: pb.GetCurrentUsageRequest, context: Context) -> pb.Usage:
        """See usage.proto."""
        return usage(*await self._service.current(caller=caller()))
