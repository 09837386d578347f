"""The decision about a tunnel or gateway request: one pure function, which enforces and explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

from server.domain.rules import JSON, Rule, RuleResult, evaluate

API_KEY = "api-key"
ANONYMOUS = "anonymous"
ANONYMOUS_SUBJECT = "anon"
# Not a provider: any of those that take tokens.
TOKEN = "token"  # noqa: S105


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """A policy in force, as far as a decision needs it."""

    policy_id: str
    provider: str
    slug: str | None = None
    issuer: str | None = None
    audience: str | None = None
    allow: tuple[Rule, ...] = ()
    trigger_secret: str | None = field(default=None, repr=False)


# The tunnel of an instance without catch-all policies behaves as if it had this one (contract, "Tunnel and gateway").
DEFAULT_GUARD = Guard(policy_id="default", provider=API_KEY)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoCredential:
    """The request brought nothing that names a caller. `why` is for the policy's owner: what it brought instead."""

    why: str = "the request brings no credential"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyCredential:
    """An API key that is known. An unknown one is UnknownKey. `digest` is its SHA-256, where a real one was sent."""

    key_id: str
    org_id: str
    prefix: str
    instance_id: str | None = None
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    digest: bytes | None = field(default=None, repr=False)

    @property
    def claims(self) -> Mapping[str, JSON]:
        """What allow rules see of an API key (seed, "Allow Rules")."""
        return {"sub": self.prefix, "org_id": self.org_id}


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownKey:
    """A bearer that looks like an API key and is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCredential:
    """A token whose signature, times and issuer are good. Its audience is each policy's own business."""

    issuer: str
    claims: Mapping[str, JSON]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadTokenCredential:
    """A token of an issuer that a policy names, which is not good. `why` is for the policy's owner, not the caller."""

    issuer: str
    why: str = ""


Credential: TypeAlias = NoCredential | KeyCredential | UnknownKey | TokenCredential | BadTokenCredential


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """How one policy came out: whether it takes this kind of credential, accepted it, and its rules let it in."""

    policy_id: str
    provider: str
    applicable: bool
    accepted: bool
    matched: bool
    why: str
    rules: tuple[RuleResult, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether a request passes, as whom, and why. `reason` is an ErrorReason where it does not pass."""

    allowed: bool
    reason: str | None = None
    provider: str | None = None
    subject: str | None = None
    guard: Guard | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The instance that is called."""

    instance_id: str
    org_id: str


def guards_for(guards: Sequence[Guard], slug: str | None) -> tuple[Guard, ...]:
    """The policies that protect a slug, or the tunnel where slug is None. Empty: no such gateway endpoint."""
    found = tuple(guard for guard in guards if guard.slug == slug)
    return found or ((DEFAULT_GUARD,) if slug is None else ())


def decide(*, target: Target, guards: Sequence[Guard], credential: Credential, now: datetime) -> Decision:
    """Decides with the policies that guards_for chose. The first one that lets the caller in wins."""
    reason = refused(credential, now)
    if reason is not None:
        return Decision(allowed=False, reason=reason)
    kind = _kind(guards, credential)
    attempts = []
    for guard in guards:
        attempt = _attempt(target, guard, credential, kind)
        attempts.append(attempt)
        if attempt.matched:
            subject = _subject(credential, kind)
            return Decision(
                allowed=True, provider=guard.provider, subject=subject, guard=guard, attempts=tuple(attempts)
            )
    return _against(attempts, kind)


def _against(attempts: Sequence[Attempt], kind: str) -> Decision:
    """403 where a policy accepted the credential, 401 where none did (contract, "Which policies apply")."""
    accepting = next((attempt for attempt in attempts if attempt.accepted), None)
    if accepting is not None:
        return Decision(allowed=False, reason="RULE_MISMATCH", provider=accepting.provider, attempts=tuple(attempts))
    reason = "TOKEN_INVALID" if kind == TOKEN else "UNAUTHENTICATED"
    return Decision(allowed=False, reason=reason, attempts=tuple(attempts))


def refused(credential: Credential, now: datetime) -> str | None:
    """Why a credential is bad in itself: then no policy is asked, not even an anonymous one."""
    if isinstance(credential, UnknownKey):
        return "UNAUTHENTICATED"
    if isinstance(credential, BadTokenCredential):
        return "TOKEN_INVALID"
    if isinstance(credential, KeyCredential):
        if credential.revoked_at is not None:
            return "KEY_REVOKED"
        if credential.expires_at is not None and credential.expires_at <= now:
            return "KEY_EXPIRED"
    return None


def _kind(guards: Sequence[Guard], credential: Credential) -> str:
    """As what the request is tried. A good credential falls back to anonymous only where no policy takes its kind."""
    if isinstance(credential, KeyCredential) and any(guard.provider == API_KEY for guard in guards):
        return API_KEY
    if isinstance(credential, TokenCredential) and any(guard.issuer == credential.issuer for guard in guards):
        return TOKEN
    return ANONYMOUS


def _subject(credential: Credential, kind: str) -> str:
    if kind == API_KEY and isinstance(credential, KeyCredential):
        return credential.prefix
    if kind == TOKEN and isinstance(credential, TokenCredential):
        return str(credential.claims["sub"])
    return ANONYMOUS_SUBJECT


def _attempt(target: Target, guard: Guard, credential: Credential, kind: str) -> Attempt:
    if kind == API_KEY and guard.provider == API_KEY and isinstance(credential, KeyCredential):
        return _try_key(target, guard, credential)
    if kind == TOKEN and isinstance(credential, TokenCredential) and guard.issuer == credential.issuer:
        return _try_token(guard, credential)
    if kind == ANONYMOUS and guard.provider == ANONYMOUS:
        return _try_rules(guard, {"sub": ANONYMOUS_SUBJECT})
    what = guard.provider if guard.issuer is None else f"tokens of {guard.issuer}"
    why = f"takes {what}, and the request is tried as {kind}"
    if kind == TOKEN and guard.issuer is not None and isinstance(credential, TokenCredential):
        why = f"takes tokens of {guard.issuer}, and this one is of {credential.issuer}"
    return _attempted(guard, why, applicable=False)


def _attempted(guard: Guard, why: str, *, applicable: bool = True, accepted: bool = False) -> Attempt:
    return Attempt(
        policy_id=guard.policy_id,
        provider=guard.provider,
        applicable=applicable,
        accepted=accepted,
        matched=False,
        why=why,
    )


def _try_token(guard: Guard, token: TokenCredential) -> Attempt:
    given = token.claims.get("aud")
    if guard.audience is not None and guard.audience not in (given if isinstance(given, list | tuple) else (given,)):
        return _attempted(guard, f"the token is not for the audience {guard.audience}")
    return _try_rules(guard, token.claims)


def _try_key(target: Target, guard: Guard, key: KeyCredential) -> Attempt:
    if key.instance_id not in (None, target.instance_id):
        return _attempted(guard, "the key is scoped to another instance", accepted=True)
    attempt = _try_rules(guard, key.claims)
    if key.org_id == target.org_id or any(_names(rule, key.org_id) for rule in attempt.rules if rule.matched):
        return attempt
    why = "the key belongs to another organization, and no matching rule names that organization"
    return replace(attempt, matched=False, why=why)


def _names(rule: RuleResult, org_id: str) -> bool:
    """Whether a rule names the organization literally: a glob that happens to fit is no invitation."""
    wanted = [condition.expected for condition in rule.conditions if condition.claim == "org_id"]
    return any(org_id in value if isinstance(value, list | tuple) else org_id == value for value in wanted)


def _try_rules(guard: Guard, claims: Mapping[str, JSON]) -> Attempt:
    rules = tuple(evaluate(rule, claims) for rule in guard.allow)
    matched = not rules or any(rule.matched for rule in rules)
    why = "no rule is needed" if not rules else "a rule matches" if matched else "no rule matches"
    return Attempt(
        policy_id=guard.policy_id,
        provider=guard.provider,
        applicable=True,
        accepted=True,
        matched=matched,
        why=why,
        rules=rules,
    )
