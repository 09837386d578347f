"""ApiKeysService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import api_keys_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceServicer

from server.domain.api_keys import ApiKey
from server.rpc.answers import Answer
from server.rpc.convert import api_key, moment, new_api_key
from server.rpc.interceptors.authentication import member
from server.rpc.interceptors.idempotency import keeping
from server.rpc.preconditions import if_match
from server.services.api_keys import ApiKeysService

Context = grpc.aio.ServicerContext[Any, Any]


class ApiKeysServicer(ApiKeysServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: ApiKeysService) -> None:
        self._service = service

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        """See api_keys.proto."""
        found = await self._service.list(caller=member())
        return pb.ListApiKeysResponse(api_keys=[api_key(key) for key in found])

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        """See api_keys.proto."""
        made = await self._service.create(
            caller=member(),
            name=request.name,
            environment=request.environment,
            instance_id=request.instance_id if request.HasField("instance_id") else None,
            expires_at=moment(request.expires_at) if request.HasField("expires_at") else None,
            keep=keeping(_new),
        )
        return await _new(made).send(context)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        """See api_keys.proto."""
        version = await self._service.revoke(caller=member(), key_id=request.api_key_id, if_match=if_match(context))
        return await Answer(message=pb.RevokeApiKeyResponse(), version=version).send(context)


def _new(made: tuple[ApiKey, str], _version: int | None = None) -> Answer[pb.CreateApiKeyResponse]:
    key, text = made
    return Answer(message=new_api_key(key, text), revision=key.revision)
