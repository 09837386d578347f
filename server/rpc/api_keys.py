"""ApiKeysService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import api_keys_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceServicer

from server.rpc.answers import send_version
from server.rpc.convert import api_key, moment, new_api_key
from server.rpc.interceptors.authentication import member
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
        key, text = await self._service.create(
            caller=member(),
            name=request.name,
            environment=request.environment,
            instance_id=request.instance_id if request.HasField("instance_id") else None,
            expires_at=moment(request.expires_at) if request.HasField("expires_at") else None,
        )
        return new_api_key(key, text)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        """See api_keys.proto."""
        await send_version(context, await self._service.revoke(caller=member(), key_id=request.api_key_id))
        return pb.RevokeApiKeyResponse()
