"""API keys: what is known of one, when it is refused, and which new ones are valid."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.domain.keys import ENVIRONMENTS
from server.errors import CloudError, FieldViolation, InvalidArgument, KeyExpired, KeyRevoked

MAX_NAME = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """An API key as it is stored: never the key, only its SHA-256."""

    id: str
    org_id: str
    name: str
    environment: str
    prefix: str
    sha256: bytes
    created_at: datetime
    instance_id: str | None = None
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revision: int = 1

    def refusal(self, now: datetime) -> CloudError | None:
        """Why the key is refused, or None where it is good."""
        if self.revoked_at is not None:
            return KeyRevoked(self.prefix)
        if self.expires_at is not None and self.expires_at <= now:
            return KeyExpired(self.prefix)
        return None


def check_new(name: str, environment: str, expires_at: datetime | None, now: datetime) -> None:
    """Raises InvalidArgument where a field of a new key breaks a rule."""
    violations = list(_violations(name, environment, expires_at, now))
    if violations:
        raise InvalidArgument(violations)


def _violations(name: str, environment: str, expires_at: datetime | None, now: datetime) -> Iterator[FieldViolation]:
    if not 1 <= len(name.strip()) <= MAX_NAME or not name.isprintable():
        what = "is required" if not name else "is not a valid name"
        yield FieldViolation(field="name", description=f"{what}: 1 to {MAX_NAME} printable characters")
    if environment not in ENVIRONMENTS:
        what = "is required" if not environment else "is unknown"
        yield FieldViolation(field="environment", description=f'{what}: "live" or "test"')
    if expires_at is not None and expires_at <= now:
        yield FieldViolation(field="expires_at", description="must be in the future")
