"""The decision, held against the contract read once more (oracle.py)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.domain.decisions import (
    BadTokenCredential,
    Credential,
    Guard,
    KeyCredential,
    NoCredential,
    Target,
    TokenCredential,
    UnknownKey,
    decide,
    guards_for,
)
from server.domain.rules import evaluate, violations
from tests.domain import oracle
from tests.domain.policies import CLAIMS, ISSUERS, RULES, situations

NOW = datetime(2026, 1, 15, tzinfo=UTC)
TARGET = Target(instance_id="inst_a", org_id="org_a")
BOUNDED = settings(derandomize=True, deadline=None, max_examples=600)


def guard(number: int, policy: Any) -> Guard:
    return Guard(
        policy_id=f"pol_{number}",
        provider=policy["provider"],
        slug=policy["slug"],
        issuer=policy.get("issuer"),
        audience=policy.get("audience"),
        allow=tuple(policy["allow"]),
    )


def credential(caller: Any) -> Credential:
    kind = caller["kind"]
    if kind == "none":
        return NoCredential()
    if kind == "unknown key":
        return UnknownKey()
    if kind == "bad token":
        return BadTokenCredential(issuer=ISSUERS["oidc"])
    if kind == "token":
        return TokenCredential(issuer=caller["claims"]["iss"], claims=caller["claims"])
    return KeyCredential(
        key_id="key",
        org_id=caller["org_id"],
        prefix=caller["sub"],
        instance_id=caller["scope"],
        revoked_at=NOW if kind == "revoked" else None,
        expires_at=NOW if kind == "expired" else NOW + timedelta(seconds=1),
    )


def decided(policies: Any, caller: Any, slug: str | None) -> str:
    guards = guards_for([guard(number, policy) for number, policy in enumerate(policies)], slug)
    if not guards:
        return "NOT_FOUND"
    decision = decide(target=TARGET, guards=guards, credential=credential(caller), now=NOW)
    return f"allowed as {decision.provider}" if decision.allowed else str(decision.reason)


@BOUNDED
@given(situation=situations())
def test_the_decision_is_the_contracts(situation: Any) -> None:
    policies, caller, slug = situation
    expected = oracle.verdict(policies, caller, slug=slug, org=TARGET.org_id, instance=TARGET.instance_id)
    assert decided(policies, caller, slug) == expected


@BOUNDED
@given(rule=RULES, claims=CLAIMS)
def test_a_rule_is_the_contracts(rule: Any, claims: Any) -> None:
    assert list(violations([rule])) == []
    assert evaluate(rule, claims).matched == oracle.rule_fits(rule, claims)


@BOUNDED
@given(rule=RULES, claims=CLAIMS, data=st.data())
def test_a_condition_flipped_flips_the_verdict(rule: Any, claims: Any, data: Any) -> None:
    """Every condition of a rule is necessary: whichever is turned into what the claim is not, nobody gets in."""
    made = data.draw(st.sampled_from([rule, _fitting(claims)]))
    assume(made and evaluate(made, claims).matched)
    caller = {"kind": "token", "claims": {**claims, "iss": ISSUERS["oidc"]}}
    policy = {"provider": "oidc", "slug": None, "issuer": ISSUERS["oidc"], "allow": [made]}
    assert decided([policy], caller, None) == "allowed as oidc"
    flipped = data.draw(st.sampled_from(sorted(made)))
    other = data.draw(st.sampled_from(["never", 99, {"glob": "never*"}, ["never", 99]]))
    assert decided([{**policy, "allow": [{**made, flipped: other}]}], caller, None) == "RULE_MISMATCH"
    either = [{**made, flipped: other}, made]
    assert decided([{**policy, "allow": either}], caller, None) == "allowed as oidc"


def _fitting(claims: Any) -> Any:
    """A rule made of the claims, so that it lets them in."""
    return {name: value for name, value in claims.items() if not isinstance(value, dict) and value != []}
