"""What a decision means for the owner of the policies: the rule that came closest, and what it lacked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.domain.decisions import (
    Attempt,
    BadTokenCredential,
    Credential,
    Decision,
    KeyCredential,
    NoCredential,
    TokenCredential,
    UnknownKey,
)
from server.domain.rules import JSON, ConditionResult

MAX_WORDS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestMiss:
    """The policy, and the rule of it (None: no rule was reached), that came closest, and the conditions that failed."""

    policy_id: str | None
    rule: int | None
    message: str
    conditions: tuple[ConditionResult, ...] = ()


def nearest_miss(decision: Decision, credential: Credential) -> NearestMiss | None:
    """None where the request passes, or there is no policy."""
    if decision.allowed:
        return None
    if bad := _bad_in_itself(decision, credential):
        return NearestMiss(policy_id=None, rule=None, message=bad)
    closest = min(_misses(decision.attempts), key=lambda miss: len(miss[2]), default=None)
    if closest is not None:
        attempt, rule, failed = closest
        message = "; ".join(map(_words, failed)) + "."
        return NearestMiss(policy_id=attempt.policy_id, rule=rule, message=message, conditions=failed)
    near = next((attempt for attempt in decision.attempts if attempt.applicable), None)
    if near is not None:
        return NearestMiss(policy_id=near.policy_id, rule=None, message=f"{near.why}.")
    taken = ", ".join(dict.fromkeys(attempt.provider for attempt in decision.attempts))
    message = f"{_not_taken(credential)}; what is taken here: {taken}."
    return NearestMiss(policy_id=None, rule=None, message=message) if taken else None


def _not_taken(credential: Credential) -> str:
    """Why no policy is for a credential with which nothing is wrong."""
    if isinstance(credential, NoCredential):
        return credential.why
    if isinstance(credential, TokenCredential):
        return f"no policy takes tokens of {_brief(credential.issuer)}"
    return "no policy takes API keys"


def _bad_in_itself(decision: Decision, credential: Credential) -> str | None:
    """What is wrong with a credential for which no policy was asked."""
    if isinstance(credential, BadTokenCredential):
        return f"The token of {credential.issuer} is not good: {credential.why}."
    if isinstance(credential, UnknownKey):
        return "There is no such API key."
    if isinstance(credential, KeyCredential):
        ended = {
            "KEY_REVOKED": ("was revoked", credential.revoked_at),
            "KEY_EXPIRED": ("expired", credential.expires_at),
        }
        what, at = ended.get(decision.reason or "", ("", None))
        return None if at is None else f"The API key {credential.prefix}… {what} at {at:%Y-%m-%dT%H:%M:%SZ}."
    return None


def _misses(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, int, tuple[ConditionResult, ...]]]:
    """Every rule that was reached and did not match: its policy, its place, and its conditions that failed."""
    for attempt in attempts:
        for index, rule in enumerate(attempt.rules if attempt.accepted else ()):
            if failed := tuple(one for one in rule.conditions if not one.matched):
                yield attempt, index, failed


def _words(condition: ConditionResult) -> str:
    if condition.actual is None:
        return f"the claim {condition.claim} is missing"
    return f"{condition.claim} is {_brief(condition.actual)}, and the rule wants {_brief(condition.expected)}"


def _brief(value: JSON) -> str:
    """A value in a sentence: whoever wants the whole of a long one looks at the condition."""
    text = repr(value)
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}…"
