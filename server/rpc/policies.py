"""PoliciesService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import policies_pb2 as pb
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceServicer

from server.domain.policies import Policy
from server.rpc.answers import Answer
from server.rpc.convert import policy, policy_patch
from server.rpc.explanations import explanation, question
from server.rpc.interceptors.authentication import caller
from server.rpc.interceptors.idempotency import keeping
from server.rpc.preconditions import if_match
from server.services.explain import ExplainService
from server.services.policies import PoliciesService

Context = grpc.aio.ServicerContext[Any, Any]


class PoliciesServicer(PoliciesServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: PoliciesService, explain: ExplainService) -> None:
        self._service = service
        self._explain = explain

    async def ExplainPolicies(self, request: pb.ExplainPoliciesRequest, context: Context) -> pb.ExplainPoliciesResponse:
        """See policies.proto."""
        return explanation(await self._explain.explain(caller=caller(), question=question(request)))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: Context) -> pb.ListPoliciesResponse:
        """See policies.proto."""
        found = await self._service.list(caller=caller(), instance_id=request.instance_id)
        return pb.ListPoliciesResponse(items=[policy(one) for one in found])

    async def CreatePolicy(self, request: pb.CreatePolicyRequest, context: Context) -> pb.Policy:
        """See policies.proto."""
        made, version = await self._service.create(
            caller=caller(), instance_id=request.instance_id, patch=policy_patch(request), keep=keeping(_answer)
        )
        return await _answer(made, version).send(context)

    async def UpdatePolicy(self, request: pb.UpdatePolicyRequest, context: Context) -> pb.Policy:
        """See policies.proto."""
        changed, version = await self._service.update(
            caller=caller(),
            instance_id=request.instance_id,
            policy_id=request.policy_id,
            patch=policy_patch(request),
            if_match=if_match(context),
        )
        return await _answer(changed, version).send(context)

    async def DeletePolicy(self, request: pb.DeletePolicyRequest, context: Context) -> pb.DeletePolicyResponse:
        """See policies.proto."""
        version = await self._service.delete(
            caller=caller(),
            instance_id=request.instance_id,
            policy_id=request.policy_id,
            if_match=if_match(context),
        )
        return await Answer(message=pb.DeletePolicyResponse(), version=version).send(context)


def _answer(found: Policy, version: int | None) -> Answer[pb.Policy]:
    return Answer(message=policy(found), version=version, revision=found.revision)
