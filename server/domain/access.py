"""Who calls, and what a caller of that kind may do."""

from dataclasses import dataclass
from enum import StrEnum

from server.errors import NotFound, PermissionDenied, RoleRequired, Unauthenticated


class Role(StrEnum):
    """A member's role, from the session. Each includes those before it."""

    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A signed-in user, in one organization."""

    org_id: str
    user_id: str
    role: Role
    email: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyHolder:
    """A program with an API key, perhaps of one instance only."""

    org_id: str
    key_id: str
    instance_id: str | None = None

    def reaches(self, instance_id: str) -> bool:
        """Whether the key is for this instance."""
        return self.instance_id in (None, instance_id)


Caller = Member | KeyHolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """The engine of an instance, by its ingest key. It is no caller: it reports, and may do nothing else."""

    org_id: str
    instance_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessRule:
    """Who may call a method, as its proto says. Whatever is not named is refused."""

    public: bool = False
    role: Role | None = None
    api_key: bool = False
    engine: bool = False


def authorize(rule: AccessRule, caller: Caller | None) -> None:
    """Raises Unauthenticated, RoleRequired or PermissionDenied unless the rule lets the caller in."""
    if rule.public:
        return
    if caller is None:
        raise Unauthenticated("Sign in, or send an API key as 'Authorization: Bearer orc8_…'.")
    if isinstance(caller, KeyHolder):
        if not rule.api_key:
            raise PermissionDenied("An API key may not do this. Sign in as a member of the organization.")
    elif rule.role is None:
        raise PermissionDenied("Members may not do this.")
    elif not caller.role.includes(rule.role):
        raise RoleRequired(caller.role, rule.role)


def check_reach(caller: Caller, instance_id: str) -> None:
    """Raises NotFound where the caller's key is for another instance: to it, this one does not exist."""
    if isinstance(caller, KeyHolder) and not caller.reaches(instance_id):
        raise NotFound("instance", instance_id)
