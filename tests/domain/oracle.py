"""The contract on policies, providers and allow rules, once more and as plainly as can be.

It shares no code with what it judges, and reads policies and callers as JSON.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Policy = Mapping[str, Any]


def verdict(policies: Sequence[Policy], caller: Mapping[str, Any], *, slug: str | None, org: str, instance: str) -> str:
    """ "allowed as <provider>", or the reason of the refusal.

    A caller is {"kind": "none" | "key" | "unknown key" | "token" | "bad token", …}: see the strategies of the tests.
    """
    applying = [policy for policy in policies if policy.get("slug") == slug]
    if slug is None and not applying:
        applying = [{"provider": "api-key", "allow": []}]
    if not applying:
        return "NOT_FOUND"
    bad = {
        "unknown key": "UNAUTHENTICATED",
        "bad token": "TOKEN_INVALID",
        "revoked": "KEY_REVOKED",
        "expired": "KEY_EXPIRED",
    }
    if caller["kind"] in bad:
        return bad[caller["kind"]]
    if caller["kind"] == "key" and any(policy["provider"] == "api-key" for policy in applying):
        return _by_key(applying, caller, org, instance)
    if caller["kind"] == "token" and any(policy.get("issuer") == caller["claims"]["iss"] for policy in applying):
        return _by_token(applying, caller["claims"])
    anonymous = [policy for policy in applying if policy["provider"] == "anonymous"]
    if not anonymous:
        return "UNAUTHENTICATED"
    return _first(anonymous, {"sub": "anon"}) or "RULE_MISMATCH"


def _by_key(policies: Sequence[Policy], caller: Mapping[str, Any], org: str, instance: str) -> str:
    if caller["scope"] not in (None, instance):
        return "RULE_MISMATCH"
    claims = {"sub": caller["sub"], "org_id": caller["org_id"]}
    mine = [policy for policy in policies if policy["provider"] == "api-key"]
    if caller["org_id"] == org:
        return _first(mine, claims) or "RULE_MISMATCH"
    for policy in mine:
        for rule in policy["allow"]:
            named = rule.get("org_id", [])
            if rule_fits(rule, claims) and caller["org_id"] in (named if isinstance(named, list) else [named]):
                return "allowed as api-key"
    return "RULE_MISMATCH"


def _by_token(policies: Sequence[Policy], claims: Mapping[str, Any]) -> str:
    heard = claims.get("aud")
    heard = heard if isinstance(heard, list) else [heard]
    mine = [policy for policy in policies if policy.get("issuer") == claims["iss"]]
    mine = [policy for policy in mine if policy.get("audience") is None or policy["audience"] in heard]
    if not mine:
        return "TOKEN_INVALID"
    return _first(mine, claims) or "RULE_MISMATCH"


def _first(policies: Sequence[Policy], claims: Mapping[str, Any]) -> str | None:
    for policy in policies:
        if policy["allow"] == [] or any(rule_fits(rule, claims) for rule in policy["allow"]):
            return f"allowed as {policy['provider']}"
    return None


def rule_fits(rule: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
    """Whether every condition holds."""
    for name, wanted in rule.items():
        found, value = _claim(claims, name)
        values = value if isinstance(value, list) else [value]
        accepted = wanted if isinstance(wanted, list) else [wanted]
        if not found or not any(_same(one, other) for one in accepted for other in values):
            return False
    return True


def _claim(claims: Any, name: str) -> tuple[bool, Any]:
    if name in claims:
        return True, claims[name]
    head, dot, rest = name.partition(".")
    # The tests nest by one name at a time, so the shortest first part is the only one.
    if dot and isinstance(claims.get(head), dict):
        inner = claims[head]
        return (True, inner[rest]) if "." not in rest and rest in inner else _inner(inner, rest)
    return False, None


def _inner(claims: Any, name: str) -> tuple[bool, Any]:
    head, dot, rest = name.partition(".")
    if head not in claims:
        return False, None
    if not dot:
        return True, claims[head]
    return _inner(claims[head], rest) if isinstance(claims[head], dict) else (False, None)


def _same(wanted: Any, actual: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(actual, str) and _glob(wanted["glob"], actual)
    if isinstance(wanted, bool) or isinstance(actual, bool):
        return wanted is actual
    if isinstance(wanted, str) or isinstance(actual, str):
        return isinstance(wanted, str) and isinstance(actual, str) and wanted == actual
    return isinstance(actual, int | float) and float(wanted) == float(actual)


def _glob(pattern: str, text: str) -> bool:
    if pattern == "":
        return text == ""
    if pattern[0] == "*":
        return _glob(pattern[1:], text) or (text != "" and _glob(pattern, text[1:]))
    return text != "" and pattern[0] in ("?", text[0]) and _glob(pattern[1:], text[1:])
