"""Use cases of API keys."""

import secrets
from datetime import datetime

from server.domain.access import Member
from server.domain.api_keys import ApiKey, check_new
from server.domain.keys import RANDOM_BYTES, digest, new_key, public_prefix
from server.domain.preconditions import ANY, IfMatch
from server.errors import NotFound
from server.services.idempotency import Keep
from server.services.identifiers import Clock, NewId
from server.services.instances import visible
from server.services.propagation import Propagation
from server.store.database import Database


class ApiKeysService:
    """Makes, lists and revokes keys."""

    def __init__(self, *, database: Database, propagation: Propagation, clock: Clock, new_id: NewId) -> None:
        self._database = database
        self._propagation = propagation
        self._clock = clock
        self._new_id = new_id

    async def list(self, *, caller: Member) -> list[ApiKey]:
        """All keys of the organization, newest first."""
        async with self._database.read() as tx:
            return await tx.api_keys.of_org(caller.org_id)

    async def create(
        self,
        *,
        caller: Member,
        name: str,
        environment: str,
        instance_id: str | None,
        expires_at: datetime | None,
        keep: Keep[tuple[ApiKey, str]],
    ) -> tuple[ApiKey, str]:
        """A new key, and the key itself, which nobody can read again."""
        now = self._clock()
        check_new(name, environment, expires_at, now)
        text = new_key(environment, secrets.token_bytes(RANDOM_BYTES))
        key = ApiKey(
            id=self._new_id("key"),
            org_id=caller.org_id,
            name=name,
            environment=environment,
            prefix=public_prefix(text),
            sha256=digest(text),
            created_at=now,
            instance_id=instance_id,
            expires_at=expires_at,
        )
        async with self._database.write(caller.org_id) as tx:
            if instance_id is not None:
                await visible(tx, caller, instance_id)
            await tx.api_keys.add(key)
            await keep(tx, (key, text))
            await tx.commit()
        return key, text

    async def revoke(self, *, caller: Member, key_id: str, if_match: IfMatch = ANY) -> int:
        """Kills a key everywhere. Answers with the version from which every proxy knows it."""
        async with self._database.write(caller.org_id) as tx:
            key = await tx.api_keys.get(caller.org_id, key_id)
            if key is None:
                raise NotFound("API key", key_id)
            if_match.check("API key", key.revision)
            now = self._clock()
            if key.revoked_at is None:
                await tx.api_keys.revoke(key_id, now)
            # A second revocation is published again: the first may have ended unconfirmed.
            change = await tx.changes.append(now, key_sha256=key.sha256)
            await tx.commit()
        await self._propagation.confirm(change.version)
        return change.version
