"""Use cases of organizations: which one a session belongs to, and what it may."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from server.domain.access import Member, Role
from server.domain.plans import FREE, Plan, Plans
from server.errors import NotFound, PermissionDenied
from server.providers.sessions.supabase import Session
from server.services.identifiers import Clock, NewId
from server.store.database import Database, UnitOfWork
from server.store.organizations import Organization

# 9999-01-01, the last year that a datetime has.
END_OF_TIME = 253_370_764_800
ORG_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class OrganizationsService:
    """Finds a member's organization, and makes it where it is new (architecture, decision 9)."""

    def __init__(
        self,
        *,
        database: Database,
        plans: Plans,
        clock: Clock,
        new_id: NewId,
        org_claim: str,
        role_claim: str,
        plan: str = FREE,
    ) -> None:
        self._database = database
        self._plans = plans
        self._clock = clock
        self._new_id = new_id
        self._org_claim = org_claim
        self._role_claim = role_claim
        self._plan = plan

    async def get(self, *, caller: Member) -> tuple[Organization, Plan]:
        """The caller's organization and its plan."""
        async with self._database.read() as tx:
            organization = await tx.organizations.get(caller.org_id)
        if organization is None:
            raise NotFound("organization", caller.org_id)
        return organization, self._plans[organization.plan]

    async def member(self, session: Session) -> Member:
        """The member that a session stands for. Raises PermissionDenied where its claims make no sense."""
        org_id = _claim(session.claims, self._org_claim)
        if org_id is None:
            organization = await self._personal(session)
            return _member(session, organization.id, Role.OWNER)
        role = _claim(session.claims, self._role_claim)
        if not isinstance(org_id, str) or ORG_ID.fullmatch(org_id) is None:
            raise PermissionDenied(f"The session's {self._org_claim} is no organization id. Ask your administrator.")
        if role is not None and role not in set(Role):
            raise PermissionDenied(f"The session's {self._role_claim} is no role. Ask your administrator.")
        await self._ensure(org_id)
        return _member(session, org_id, Role(role) if role is not None else Role.MEMBER)

    async def _ensure(self, org_id: str) -> None:
        async with self._database.read() as tx:
            if await tx.organizations.get(org_id) is not None:
                return
        async with self._database.write(org_id) as tx:
            if await tx.organizations.get(org_id) is None:
                await self._add(tx, org_id, name=org_id)

    async def _personal(self, session: Session) -> Organization:
        async with self._database.read() as tx:
            if found := await tx.organizations.personal_of(session.user_id):
                return found
        async with self._database.write(session.user_id) as tx:
            if found := await tx.organizations.personal_of(session.user_id):
                return found
            name = session.email or "Personal"
            return await self._add(tx, self._new_id("org"), name=name, personal_for=session.user_id)

    async def _add(self, tx: UnitOfWork, org_id: str, *, name: str, personal_for: str | None = None) -> Organization:
        organization = Organization(
            id=org_id, name=name, plan=self._plan, created_at=self._clock(), personal_for=personal_for
        )
        await tx.organizations.add(organization)
        await tx.commit()
        return organization


def _member(session: Session, org_id: str, role: Role) -> Member:
    ends = datetime.fromtimestamp(min(session.claims["exp"], END_OF_TIME), UTC)
    return Member(org_id=org_id, user_id=session.user_id, role=role, email=session.email, session_ends=ends)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by dotted path; None where it is missing, empty or null."""
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value or None
