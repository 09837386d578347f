"""Queries about organizations."""

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.tables import OrganizationRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Organization:
    """An organization as it is stored."""

    id: str
    name: str
    plan: str
    created_at: datetime
    personal_for: str | None = None


class Organizations:
    """The organizations' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, org_id: str) -> Organization | None:
        """The organization of this id."""
        row = await self._session.get(OrganizationRow, org_id)
        return _organization(row) if row else None

    async def personal_of(self, user_id: str) -> Organization | None:
        """The personal organization of a user."""
        found = await self._session.exec(select(OrganizationRow).where(col(OrganizationRow.personal_for) == user_id))
        row = found.first()
        return _organization(row) if row else None

    async def plans(self) -> list[str]:
        """The names of the plans that there are organizations of."""
        return list(await self._session.exec(select(OrganizationRow.plan).distinct()))

    async def add(self, organization: Organization) -> None:
        """Stores a new organization."""
        self._session.add(
            OrganizationRow(
                id=organization.id,
                name=organization.name,
                plan=organization.plan,
                personal_for=organization.personal_for,
                created_at=organization.created_at,
            )
        )
        await self._session.flush()


def _organization(row: OrganizationRow) -> Organization:
    return Organization(
        id=row.id, name=row.name, plan=row.plan, created_at=row.created_at, personal_for=row.personal_for
    )
