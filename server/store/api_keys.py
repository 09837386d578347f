"""Queries about API keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Table, bindparam, insert, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.api_keys import ApiKey
from server.store.tables import ApiKeyRow

_KEYS: Table = ApiKeyRow.__table__  # type: ignore[attr-defined]  # sqlmodel has no type for it


class ApiKeys:
    """The keys' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def of_org(self, org_id: str) -> list[ApiKey]:
        """All keys of an organization, newest first."""
        query = select(ApiKeyRow).where(col(ApiKeyRow.org_id) == org_id)
        found = await self._session.exec(query.order_by(col(ApiKeyRow.created_at).desc(), col(ApiKeyRow.id).desc()))
        return [_key(row) for row in found]

    async def get(self, org_id: str, key_id: str) -> ApiKey | None:
        """One key of an organization."""
        row = await self._session.get(ApiKeyRow, key_id)
        return _key(row) if row and row.org_id == org_id else None

    async def by_digest(self, sha256: bytes) -> ApiKey | None:
        """The key with this SHA-256, of whichever organization."""
        found = await self._session.exec(select(ApiKeyRow).where(col(ApiKeyRow.sha256) == sha256))
        row = found.first()
        return _key(row) if row else None

    async def by_ids(self, key_ids: Sequence[str]) -> list[ApiKey]:
        """The keys with these ids, of whichever organizations, as far as there are any."""
        return [_key(row) for row in await self._session.exec(select(ApiKeyRow).where(col(ApiKeyRow.id).in_(key_ids)))]

    async def add(self, key: ApiKey) -> None:
        """Stores a new key."""
        await self.add_all([key])

    async def add_all(self, keys: Sequence[ApiKey]) -> None:
        """Stores new keys, at least one, in one step."""
        await self._session.exec(insert(ApiKeyRow), params=[_values(key) for key in keys])

    async def revoke(self, key_id: str, now: datetime) -> None:
        """Marks a key as revoked."""
        changed = {"revoked_at": now, "revision": col(ApiKeyRow.revision) + 1}
        await self._session.exec(update(ApiKeyRow).where(col(ApiKeyRow.id) == key_id).values(**changed))

    async def touch(self, used: Mapping[str, datetime]) -> None:
        """Notes when keys were last used; a moment that is older than the one known changes nothing.

        It goes round the ORM, which takes longer over a row than the database: a report of the proxies is of many keys.
        """
        at = bindparam("at", type_=_KEYS.c.last_used_at.type)
        older = or_(_KEYS.c.last_used_at.is_(None), _KEYS.c.last_used_at < at)
        noting = update(_KEYS).where(_KEYS.c.id == bindparam("key_id"), older).values(last_used_at=at)
        # In one order: two reports of the same keys must not wait for each other in a circle.
        rows = [{"key_id": key_id, "at": moment} for key_id, moment in sorted(used.items())]
        if rows:
            await (await self._session.connection()).execute(noting, rows)


def _values(key: ApiKey) -> dict[str, Any]:
    """The row of a new key."""
    return {
        "id": key.id,
        "org_id": key.org_id,
        "instance_id": key.instance_id,
        "name": key.name,
        "environment": key.environment,
        "prefix": key.prefix,
        "sha256": key.sha256,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        org_id=row.org_id,
        instance_id=row.instance_id,
        name=row.name,
        environment=row.environment,
        prefix=row.prefix,
        sha256=row.sha256,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revision=row.revision,
    )
