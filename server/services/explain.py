"""Explains what would happen to a request, with the code that decides about real ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.domain.access import Caller
from server.domain.api_keys import ApiKey
from server.domain.decisions import (
    Credential,
    Decision,
    Guard,
    KeyCredential,
    NoCredential,
    Target,
    TokenCredential,
    decide,
    guards_for,
)
from server.domain.explanation import NearestMiss, nearest_miss
from server.domain.instances import Instance, Status
from server.domain.policies import Policy
from server.domain.providers import issuer_of
from server.domain.rules import JSON
from server.errors import FieldViolation, InvalidArgument
from server.identity.credentials import Tokens, identify
from server.identity.issuers import IssuerUnreachable
from server.identity.turns import TooManyWaiting
from server.services.identifiers import Clock
from server.services.instances import visible
from server.store.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The request that might be sent."""

    instance_id: str
    token: str | None = None
    claims: JSON = None
    slug: str | None = None
    path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What would happen: the decision, the reason of the error (None: it reaches the engine), and what was near."""

    decision: Decision
    reason: str | None
    nearest: NearestMiss | None


class ExplainService:
    """Asks the policies as the proxy does."""

    def __init__(self, *, database: Database, tokens: Tokens, clock: Clock) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock

    async def explain(self, *, caller: Caller, question: Question) -> Explanation:
        """The outcome for a request that is not sent."""
        _check(question)
        async with self._database.read() as tx:
            instance = await visible(tx, caller, question.instance_id)
            policies = await tx.policies.of_instance(instance.id)
        guards = guards_for([_guard(policy) for policy in policies if policy.fields.enabled], question.slug)
        if not guards:
            return Explanation(decision=Decision(allowed=False), reason="NOT_FOUND", nearest=None)
        try:
            credential = await self._credential(question, guards)
        except IssuerUnreachable as error:
            nearest = NearestMiss(policy_id=None, rule=None, message=f"{error}.")
            return Explanation(decision=Decision(allowed=False), reason="DATA_PLANE_NOT_READY", nearest=nearest)
        except TooManyWaiting:
            nearest = NearestMiss(policy_id=None, rule=None, message="Too many tokens are being checked. Try again.")
            return Explanation(decision=Decision(allowed=False), reason="RATE_LIMITED", nearest=nearest)
        target = Target(instance_id=instance.id, org_id=instance.org_id)
        decision = decide(target=target, guards=guards, credential=credential, now=self._clock())
        reason = decision.reason if not decision.allowed else _not_running(instance)
        return Explanation(decision=decision, reason=reason, nearest=nearest_miss(decision, credential))

    async def _credential(self, question: Question, guards: tuple[Guard, ...]) -> Credential:
        if token := (question.token or "").strip():
            return await identify(token, guards, self._key, self._tokens, question.instance_id)
        if not isinstance(question.claims, Mapping):
            return NoCredential()
        claims = question.claims
        if isinstance(claims.get("iss"), str):
            return TokenCredential(issuer=str(claims["iss"]), claims={"sub": "", **claims})
        return KeyCredential(key_id="", org_id=str(claims.get("org_id", "")), prefix=str(claims.get("sub", "")))

    async def _key(self, sha256: bytes) -> KeyCredential | None:
        async with self._database.read() as tx:
            key = await tx.api_keys.by_digest(sha256)
        return None if key is None else _key_credential(key)


def _check(question: Question) -> None:
    found = []
    if question.token is not None and question.claims is not None:
        found.append(FieldViolation(field="claims", description="cannot be given together with a token"))
    if question.token is not None and "," in question.token:
        found.append(FieldViolation(field="token", description="holds a comma: behind Bearer that is two credentials"))
    if question.claims is not None and not isinstance(question.claims, Mapping):
        found.append(FieldViolation(field="claims", description="must be an object"))
    if question.slug is not None and question.path is not None:
        found.append(FieldViolation(field="path", description="is of the tunnel; leave it out beside a slug"))
    if found:
        raise InvalidArgument(found)


def _guard(policy: Policy) -> Guard:
    fields = policy.fields
    return Guard(
        policy_id=policy.id,
        provider=fields.provider,
        slug=fields.slug,
        issuer=issuer_of(fields.provider, fields.issuer, fields.config),
        audience=fields.audience,
        allow=fields.allow,
    )


def _key_credential(key: ApiKey) -> KeyCredential:
    return KeyCredential(
        key_id=key.id,
        org_id=key.org_id,
        prefix=key.prefix,
        instance_id=key.instance_id,
        revoked_at=key.revoked_at,
        expires_at=key.expires_at,
    )


def _not_running(instance: Instance) -> str | None:
    """Why an allowed request would not reach the engine now."""
    if instance.status is Status.SUSPENDED:
        return "STATE_CONFLICT"
    return None if instance.host is not None else "DATA_PLANE_NOT_READY"
