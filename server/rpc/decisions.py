"""DecisionsService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import decisions_pb2 as pb
from orch8cloud.v1.decisions_pb2_grpc import DecisionsServiceServicer

from server.rpc.interceptors.authentication import caller
from server.services.decisions import DecisionsService

Context = grpc.aio.ServicerContext[Any, Any]


class DecisionsServicer(DecisionsServiceServicer):
    """Leaves all to the service. A record is stored as the message that is answered."""

    def __init__(self, service: DecisionsService) -> None:
        self._service = service

    async def GetDecision(self, request: pb.GetDecisionRequest, context: Context) -> pb.Decision:
        """See decisions.proto."""
        return pb.Decision.FromString(await self._service.get(caller=caller(), decision_id=request.decision_id))
