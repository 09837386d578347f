"""The decision: what holds for every combination of policies and callers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from server.domain.decisions import (
    DEFAULT_GUARD,
    Credential,
    Decision,
    Guard,
    KeyCredential,
    NoCredential,
    Target,
    UnknownKey,
    decide,
    guards_for,
)

NOW = datetime(2026, 1, 15, tzinfo=UTC)
TARGET = Target(instance_id="inst_a", org_id="org_a")
SUBJECTS = ["orc8_live_aaaaaaaa", "orc8_live_bbbbbbbb", "anon"]
ORGS = ["org_a", "org_b"]

RULES = st.dictionaries(st.sampled_from(["sub", "org_id"]), st.sampled_from([*SUBJECTS, *ORGS]), min_size=1)
GUARDS = st.lists(
    st.builds(
        Guard,
        policy_id=st.just("pol"),
        provider=st.sampled_from(["api-key", "anonymous", "github"]),
        slug=st.sampled_from([None, "hook"]),
        allow=st.lists(RULES, max_size=2).map(tuple),
    ),
    max_size=4,
)
KEYS = st.builds(
    KeyCredential,
    key_id=st.just("key"),
    org_id=st.sampled_from(ORGS),
    prefix=st.sampled_from(SUBJECTS[:2]),
    instance_id=st.sampled_from([None, "inst_a", "inst_b"]),
)
CALLERS = st.one_of(st.just(NoCredential()), st.just(UnknownKey()), KEYS)


def decided(guards: list[Guard], credential: Credential, slug: str | None = None) -> Decision:
    return decide(target=TARGET, guards=guards_for(guards, slug), credential=credential, now=NOW)


def fits(guard: Guard, claims: dict[str, str]) -> bool:
    return not guard.allow or any(all(claims.get(k) == v for k, v in rule.items()) for rule in guard.allow)


@given(guards=GUARDS, caller=KEYS, slug=st.sampled_from([None, "hook"]))
def test_a_key_passes_where_a_policy_for_keys_takes_it(
    guards: list[Guard], caller: KeyCredential, slug: str | None
) -> None:
    applicable = [guard for guard in guards_for(guards, slug) if guard.provider == "api-key"]
    if not applicable:
        return
    claims = {"sub": caller.prefix, "org_id": caller.org_id}
    at_home = caller.org_id == TARGET.org_id
    fitting = [guard for guard in applicable if fits(guard, claims)]
    invited = any(
        all(claims[k] == v for k, v in rule.items()) and "org_id" in rule for g in applicable for rule in g.allow
    )
    expected = caller.instance_id in (None, "inst_a") and bool(fitting if at_home else invited)
    decision = decided(guards, caller, slug)
    assert decision.allowed == expected
    assert decision.allowed or decision.reason == "RULE_MISMATCH"


@given(guards=GUARDS)
def test_nobody_in_particular_passes_where_an_anonymous_policy_takes_them(guards: list[Guard]) -> None:
    applicable = [guard for guard in guards_for(guards, None) if guard.provider == "anonymous"]
    decision = decided(guards, NoCredential())
    assert decision.allowed == any(fits(guard, {"sub": "anon"}) for guard in applicable)
    assert decision.allowed or decision.reason == ("RULE_MISMATCH" if applicable else "UNAUTHENTICATED")


@given(guards=GUARDS, caller=KEYS)
def test_a_bad_key_passes_nowhere(guards: list[Guard], caller: KeyCredential) -> None:
    revoked = replace(caller, revoked_at=NOW + timedelta(days=1))
    expired = replace(caller, expires_at=NOW)
    assert decided(guards, revoked).reason == "KEY_REVOKED"
    assert decided(guards, expired).reason == "KEY_EXPIRED"
    assert decided(guards, UnknownKey()).reason == "UNAUTHENTICATED"


@given(guards=GUARDS, caller=CALLERS, slug=st.sampled_from([None, "hook"]))
def test_what_is_allowed_is_explained(guards: list[Guard], caller: Credential, slug: str | None) -> None:
    decision = decided(guards, caller, slug)
    if decision.allowed:
        assert decision.reason is None
        assert decision.guard in guards_for(guards, slug)
        assert decision.attempts[-1].matched
        assert not any(attempt.matched for attempt in decision.attempts[:-1])
    else:
        assert decision.guard is None
        assert not any(attempt.matched for attempt in decision.attempts)


def test_without_a_catch_all_policy_the_tunnel_takes_keys_and_the_gateway_nothing() -> None:
    hook = Guard(policy_id="pol", provider="anonymous", slug="hook")
    assert guards_for([hook], None) == (DEFAULT_GUARD,)
    assert guards_for([hook], "other") == ()
    assert guards_for([Guard(policy_id="pol", provider="anonymous")], "hook") == ()


def test_a_secret_is_not_printed() -> None:
    assert "s3cret" not in repr(Guard(policy_id="pol", provider="api-key", trigger_secret="s3cret"))
