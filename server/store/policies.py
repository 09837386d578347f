"""Queries about gateway policies."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.policies import Policy, PolicyFields
from server.store.sealing import Sealer
from server.store.tables import PolicyRow


class Policies:
    """The policies' repository. It seals and opens their trigger secrets."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def of_instance(self, instance_id: str) -> list[Policy]:
        """All policies of an instance, newest first."""
        query = select(PolicyRow).where(col(PolicyRow.instance_id) == instance_id)
        found = await self._session.exec(query.order_by(col(PolicyRow.created_at).desc(), col(PolicyRow.id).desc()))
        return [self._policy(row) for row in found]

    async def get(self, instance_id: str, policy_id: str) -> Policy | None:
        """One policy of an instance."""
        row = await self._session.get(PolicyRow, policy_id)
        return self._policy(row) if row and row.instance_id == instance_id else None

    async def save(self, policy: Policy) -> None:
        """Stores a policy, new or changed."""
        await self._session.merge(PolicyRow(**self._values(policy)))
        await self._session.flush()

    async def add_all(self, policies: Sequence[Policy]) -> None:
        """Stores new policies, at least one, in one step."""
        await self._session.exec(insert(PolicyRow), params=[self._values(policy) for policy in policies])

    async def delete(self, policy_id: str) -> None:
        """Removes a policy."""
        await self._session.exec(delete(PolicyRow).where(col(PolicyRow.id) == policy_id))

    def _values(self, policy: Policy) -> dict[str, Any]:
        fields = policy.fields
        secret = fields.trigger_secret
        return {
            "id": policy.id,
            "instance_id": policy.instance_id,
            "slug": fields.slug,
            "provider": fields.provider,
            "audience": fields.audience,
            "issuer": fields.issuer,
            "allow": [dict(rule) for rule in fields.allow],
            "config": dict(fields.config),
            "trigger_secret": None if secret is None else self._sealer.seal(secret, _place(policy.id)),
            "enabled": fields.enabled,
            "created_at": policy.created_at,
            "updated_at": policy.updated_at,
            "revision": policy.revision,
        }

    def _policy(self, row: PolicyRow) -> Policy:
        secret = None if row.trigger_secret is None else self._sealer.open(row.trigger_secret, _place(row.id))
        return Policy(
            id=row.id,
            instance_id=row.instance_id,
            created_at=row.created_at,
            updated_at=row.updated_at,
            revision=row.revision,
            fields=PolicyFields(
                provider=row.provider,
                slug=row.slug,
                audience=row.audience,
                issuer=row.issuer,
                allow=tuple(row.allow),
                config=row.config,
                trigger_secret=secret,
                enabled=row.enabled,
            ),
        )


def _place(policy_id: str) -> str:
    return f"policies/{policy_id}/trigger_secret"
