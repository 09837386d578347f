"""What is in the database of a row: so many API keys, and as many policies."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import cycle

from bench.issuer import AUDIENCE, SUBJECTS
from server.domain.api_keys import ApiKey
from server.domain.instances import Desired, Instance, Phase, Region
from server.domain.keys import RANDOM_BYTES, digest, new_ingest_key, new_key, public_prefix
from server.domain.policies import Policy, PolicyFields
from server.providers.runtime.base import Upstream
from server.store.database import Database, UnitOfWork
from server.store.instances import EngineKeys
from server.store.organizations import Organization

ORG = "org_bench"
PLAN = "bench"
OIDC_INSTANCE = "inst_oidc"
# Policies are spread over instances, as an instance's policies are limited together.
MAX_INSTANCES = 1_000
# How many keys, and instances, a row's requests rotate over.
MAX_SAMPLE = 1_000
_FAR = timedelta(days=1)
_OWNER = "bench"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that must pass."""

    path: str
    token: str


def tunnel(instance_id: str) -> str:
    """A path behind an instance's tunnel."""
    return f"/api/tunnel/{instance_id}/sequences"


async def seed(database: Database, *, keys: int, upstream: Upstream, issuer: str, now: datetime) -> list[Call]:
    """Fills an empty database, and says what to call: a random sample of the keys, each on another instance.

    Besides them there is always one instance with a policy for the tokens of `issuer`. All of them run, at `upstream`.
    """
    instances = [f"inst_bench{number:04}" for number in range(min(keys, MAX_INSTANCES))]
    tokens = [new_key("live", secrets.token_bytes(RANDOM_BYTES)) for _ in range(keys)]
    async with database.write() as tx:
        await tx.organizations.add(Organization(id=ORG, name="Bench", plan=PLAN, created_at=now))
        for instance_id in (*instances, OIDC_INSTANCE):
            await _add_instance(tx, instance_id, now)
        await _find_running(tx, upstream, len(instances) + 1, now)
        await tx.policies.add_all([_oidc_policy(issuer, now), *_key_policies(instances, keys, now)])
        await tx.api_keys.add_all([_api_key(number, token, now) for number, token in enumerate(tokens)])
        await tx.commit()
    sample = random.Random(keys).sample(tokens, min(keys, MAX_SAMPLE))  # noqa: S311 - which ones are called is no secret
    return [Call(tunnel(instance_id), token) for instance_id, token in zip(cycle(instances), sample, strict=False)]


async def ingest_keys(database: Database) -> list[str]:
    """With which the engines of all instances report, each its own."""
    async with database.read() as tx:
        found = [await tx.instances.keys(instance.id) for instance in await tx.instances.of_org(ORG)]
    return [keys.ingest_key for keys in found if keys.ingest_key is not None]


async def _add_instance(tx: UnitOfWork, instance_id: str, now: datetime) -> None:
    instance = Instance(
        id=instance_id,
        org_id=ORG,
        name=instance_id.replace("_", "-"),
        region=Region.FRANKFURT,
        desired=Desired.RUNNING,
        phase=Phase.RUNNING,
        created_at=now,
        updated_at=now,
    )
    keys = EngineKeys(
        engine_key=secrets.token_urlsafe(32),
        encryption_key=secrets.token_urlsafe(32),
        ingest_key=new_ingest_key(secrets.token_bytes(RANDOM_BYTES)),
    )
    await tx.instances.add(instance, keys, due_at=now, deadline_at=now + _FAR)


async def _find_running(tx: UnitOfWork, upstream: Upstream, count: int, now: datetime) -> None:
    """Notes where the engines are, as the reconciler does: it then has nothing to write when it looks at them."""
    for claim in await tx.instances.claim_due(_OWNER, now, _FAR, count):
        await tx.instances.record(claim, _OWNER, replace(claim.instance, host=upstream.host, port=upstream.port))
        await tx.instances.release(claim.instance.id, _OWNER, due_at=now, attempts=0)


def _key_policies(instances: Sequence[str], count: int, now: datetime) -> list[Policy]:
    """One for the tunnel of each instance, and all others for slugs."""
    return [
        _policy(number, instance_id, _key_fields(number, None if number < len(instances) else f"hook-{number}"), now)
        for number, instance_id in zip(range(count), cycle(instances), strict=False)
    ]


def _key_fields(number: int, slug: str | None) -> PolicyFields:
    return PolicyFields(provider="api-key", slug=slug, allow=({"org_id": ORG},))


def _oidc_policy(issuer: str, now: datetime) -> Policy:
    fields = PolicyFields(provider="oidc", issuer=issuer, audience=AUDIENCE, allow=({"sub": {"glob": SUBJECTS}},))
    return Policy(id="pol_oidc", instance_id=OIDC_INSTANCE, fields=fields, created_at=now, updated_at=now)


def _policy(number: int, instance_id: str, fields: PolicyFields, now: datetime) -> Policy:
    return Policy(id=f"pol_{number:08}", instance_id=instance_id, fields=fields, created_at=now, updated_at=now)


def _api_key(number: int, token: str, now: datetime) -> ApiKey:
    return ApiKey(
        id=f"key_{number:08}",
        org_id=ORG,
        name=f"bench {number}",
        environment="live",
        prefix=public_prefix(token),
        sha256=digest(token),
        created_at=now,
    )
