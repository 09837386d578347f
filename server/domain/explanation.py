"""What a decision means for the owner of the policies: the rule that came closest, and what it lacked."""

from dataclasses import dataclass

from server.domain.decisions import Attempt, BadTokenCredential, Credential, Decision
from server.domain.rules import ConditionResult


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestMiss:
    """The policy, and the rule of it (None: no rule was reached), that came closest, and the conditions that failed."""

    policy_id: str | None
    rule: int | None
    message: str
    conditions: tuple[ConditionResult, ...] = ()


def nearest_miss(decision: Decision, credential: Credential) -> NearestMiss | None:
    """None where the request passes, or no policy is near."""
    if decision.allowed:
        return None
    if isinstance(credential, BadTokenCredential):
        message = f"The token of {credential.issuer} is not good: {credential.why}."
        return NearestMiss(policy_id=None, rule=None, message=message)
    misses = [miss for attempt in decision.attempts for miss in _misses(attempt)]
    if misses:
        return min(misses, key=lambda miss: len(miss.conditions))
    near = next((attempt for attempt in decision.attempts if attempt.applicable), None)
    return None if near is None else NearestMiss(policy_id=near.policy_id, rule=None, message=f"{near.why}.")


def _misses(attempt: Attempt) -> list[NearestMiss]:
    if not attempt.accepted:
        return []
    return [
        NearestMiss(
            policy_id=attempt.policy_id,
            rule=index,
            conditions=(failed := tuple(one for one in rule.conditions if not one.matched)),
            message="; ".join(_words(one) for one in failed) + ".",
        )
        for index, rule in enumerate(attempt.rules)
        if not rule.matched
    ]


def _words(condition: ConditionResult) -> str:
    if condition.actual is None:
        return f"the claim {condition.claim} is missing"
    return f"{condition.claim} is {condition.actual!r}, and the rule wants {condition.expected!r}"
