"""Random policies and callers, small enough that they often meet."""

from typing import Any

from hypothesis import strategies as st

ORGS = ("org_a", "org_b", "org_c")
SUBJECTS = ("orc8_live_aaaaaaaa", "orc8_live_bbbbbbbb", "anon", "repo:acme/shop")
ISSUERS = {
    "github-oidc": "https://token.actions.githubusercontent.com",
    "gitlab-oidc": "https://gitlab.com",
    "oidc": "https://issuer.example.com",
}
WORDS = ("a", "b", "ab", "org_a", "org_b", "true", "1", *SUBJECTS[:2], SUBJECTS[3])
CLAIM_NAMES = ("sub", "org_id", "team", "deep", "deep.er", "deep.er.est", "x.y/z")

SCALARS = st.one_of(st.sampled_from(WORDS), st.integers(0, 2), st.sampled_from([1.0, 0.5]), st.booleans())
GLOBS = st.builds(
    lambda text: {"glob": text}, st.sampled_from(["*", "a*", "?", "*b", "org_*", "repo:*/*", "[a]", "orc8_????_*"])
)
CONDITIONS = st.one_of(SCALARS, GLOBS, st.lists(st.one_of(SCALARS, GLOBS), min_size=1, max_size=3))
RULES = st.dictionaries(st.sampled_from(CLAIM_NAMES), CONDITIONS, min_size=1, max_size=3)
ALLOW = st.one_of(st.just([]), st.lists(RULES, max_size=2))
SLUGS = st.sampled_from([None, None, "hook"])

VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
NESTED = st.one_of(
    VALUES,
    st.dictionaries(st.just("er"), st.one_of(VALUES, st.dictionaries(st.just("est"), VALUES, max_size=1)), max_size=1),
)
CLAIMS = st.fixed_dictionaries(
    {"sub": st.sampled_from(SUBJECTS)},
    optional={"org_id": st.sampled_from(ORGS), "team": VALUES, "deep": NESTED, "deep.er": VALUES, "x.y/z": VALUES},
)
AUDIENCES = st.sampled_from(["one", "two", ["one", "two"], ["three"], None])

PLAIN_POLICIES = st.fixed_dictionaries(
    {"provider": st.sampled_from(["api-key", "anonymous"]), "slug": SLUGS, "allow": ALLOW}
)
TOKEN_POLICIES = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(sorted(ISSUERS)),
        "slug": SLUGS,
        "allow": ALLOW,
        "audience": st.sampled_from([None, None, "one", "two"]),
    }
).map(lambda policy: {**policy, "issuer": ISSUERS[str(policy["provider"])]})
POLICIES = st.lists(st.one_of(PLAIN_POLICIES, TOKEN_POLICIES, TOKEN_POLICIES), max_size=5)

KEYS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["key", "key", "key", "revoked", "expired"]),
        "sub": st.sampled_from(SUBJECTS[:2]),
        "org_id": st.sampled_from(ORGS[:2]),
        "scope": st.sampled_from([None, None, "inst_a", "inst_b"]),
    }
)
TOKENS = st.builds(
    lambda claims, issuer, audience: {
        "kind": "token",
        "claims": {**claims, "iss": issuer, **({} if audience is None else {"aud": audience})},
    },
    CLAIMS,
    st.sampled_from([*ISSUERS.values(), *ISSUERS.values(), "https://stranger.example.com"]),
    AUDIENCES,
)
BAD = st.sampled_from([{"kind": "none"}, {"kind": "unknown key"}, {"kind": "bad token"}])
CALLERS = st.one_of(BAD, KEYS, KEYS, TOKENS, TOKENS, TOKENS)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Any, Any, str | None]:
    """Policies, a caller whose issuer is mostly one of theirs, and a slug that is mostly one of theirs too."""
    policies = draw(POLICIES)
    caller = draw(CALLERS)
    slug = draw(st.sampled_from([policy["slug"] for policy in policies] or [None]))
    issuers = [policy["issuer"] for policy in policies if "issuer" in policy and policy["slug"] == slug]
    stays = draw(st.sampled_from([True, False, False, False]))
    if caller["kind"] == "token" and issuers and not stays:
        caller = {**caller, "claims": {**caller["claims"], "iss": draw(st.sampled_from(issuers))}}
    return policies, caller, draw(st.sampled_from([slug, slug, slug, None, "hook"]))
