"""Explanations to messages, and the question from one."""

from orch8cloud.v1 import policies_pb2 as pb

from server.explanations import Room, attempts, miss
from server.rpc.convert import given_json, nullable
from server.rpc.status import row
from server.services.explain import Explanation, Question


def question(request: pb.ExplainPoliciesRequest) -> Question:
    """What is asked. A claims value of null is none."""
    return Question(
        instance_id=request.instance_id,
        token=request.token if request.HasField("token") else None,
        claims=given_json(request.claims) if request.HasField("claims") else None,
        slug=request.slug if request.HasField("slug") else None,
        path=request.path if request.HasField("path") else None,
    )


def explanation(found: Explanation) -> pb.ExplainPoliciesResponse:
    """The answer, whole."""
    return pb.ExplainPoliciesResponse(
        allowed=found.decision.allowed,
        status=200 if found.reason is None else row(found.reason).http_status,
        reason=nullable(found.reason),
        policies=attempts(found.decision.attempts, Room()),
        nearest_miss=miss(found.nearest, Room()),
    )
