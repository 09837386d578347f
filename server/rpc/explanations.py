"""Explanations to messages, and the question from one."""

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value
from orch8cloud.v1 import policies_pb2 as pb

from server.domain.decisions import Attempt
from server.domain.explanation import NearestMiss
from server.domain.rules import JSON, ConditionResult, RuleResult
from server.rpc.convert import nullable, plain
from server.rpc.status import row
from server.services.explain import Explanation, Question


def question(request: pb.ExplainPoliciesRequest) -> Question:
    """What is asked. A claims value of null is none."""
    return Question(
        instance_id=request.instance_id,
        token=request.token if request.HasField("token") else None,
        claims=MessageToDict(request.claims) if request.HasField("claims") else None,
        slug=request.slug if request.HasField("slug") else None,
        path=request.path if request.HasField("path") else None,
    )


def explanation(found: Explanation) -> pb.ExplainPoliciesResponse:
    """The answer."""
    return pb.ExplainPoliciesResponse(
        allowed=found.decision.allowed,
        status=200 if found.reason is None else row(found.reason).http_status,
        reason=nullable(found.reason),
        policies=[_attempt(attempt) for attempt in found.decision.attempts],
        nearest_miss=_value(None if found.nearest is None else _miss(found.nearest)),
    )


def _attempt(attempt: Attempt) -> pb.PolicyAttempt:
    return pb.PolicyAttempt(
        policy_id=attempt.policy_id,
        provider=attempt.provider,
        applicable=attempt.applicable,
        accepted=attempt.accepted,
        why=attempt.why,
        rules=[_rule(rule) for rule in attempt.rules],
    )


def _rule(rule: RuleResult) -> pb.RuleOutcome:
    conditions = [
        pb.ConditionOutcome(
            claim=one.claim, expected=_value(one.expected), actual=_value(one.actual), matched=one.matched
        )
        for one in rule.conditions
    ]
    return pb.RuleOutcome(matched=rule.matched, conditions=conditions)


def _miss(miss: NearestMiss) -> JSON:
    return {
        "policy_id": miss.policy_id,
        "rule": miss.rule,
        "message": miss.message,
        "conditions": [_condition(one) for one in miss.conditions],
    }


def _condition(one: ConditionResult) -> JSON:
    return {"claim": one.claim, "expected": one.expected, "actual": one.actual, "matched": one.matched}


def _value(value: JSON) -> Value:
    return ParseDict(plain(value), Value())
