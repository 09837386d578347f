"""A world of instances and keys. Every instance belongs to org_a; `running` ones share one engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.domain import keys

ENGINE_KEY = "engine-key-of-the-tests"
SECRET = "trigger-secret-example"
SESSION_COOKIE = "sb-orch8-auth-token"
PAST = "2001-01-01T00:00:00Z"
FUTURE = "2999-01-01T00:00:00Z"

KEY, OTHER_ORG_KEY, SCOPED_KEY, REVOKED_KEY, EXPIRED_KEY, UNKNOWN_KEY, ENDING_KEY = (
    keys.new_key("live", bytes([number]) * 32) for number in range(1, 8)
)
TYPO = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
PREFIX = keys.public_prefix(KEY)

KEYS: Mapping[str, Mapping[str, Any]] = {
    KEY: {"org_id": "org_a"},
    OTHER_ORG_KEY: {"org_id": "org_b"},
    SCOPED_KEY: {"org_id": "org_a", "instance_id": "inst_scoped"},
    REVOKED_KEY: {"org_id": "org_a", "revoked_at": PAST},
    EXPIRED_KEY: {"org_id": "org_a", "expires_at": PAST},
    ENDING_KEY: {"org_id": "org_a", "expires_at": FUTURE},
}

API_KEY: Mapping[str, Any] = {"provider": "api-key"}
ANONYMOUS: Mapping[str, Any] = {"provider": "anonymous"}


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance. `engine`: "up", "refusing" (nobody listens there) or None (never started)."""

    status: str = "running"
    engine: str | None = "up"
    policies: Sequence[Mapping[str, Any]] = ()
    org_id: str = "org_a"
    limits: Mapping[str, Any] = field(default_factory=dict)
    start_cap: Mapping[str, Any] | None = None


INSTANCES: Mapping[str, Instance] = {
    "inst_plain": Instance(),
    "inst_scoped": Instance(),
    "inst_anonymous": Instance(policies=[ANONYMOUS]),
    "inst_both": Instance(policies=[ANONYMOUS, API_KEY]),
    "inst_ruled": Instance(policies=[{**API_KEY, "allow": [{"sub": "nobody"}, {"sub": PREFIX, "org_id": "org_a"}]}]),
    "inst_closed": Instance(policies=[{**API_KEY, "allow": [{"sub": "nobody"}]}]),
    "inst_shared": Instance(policies=[{**API_KEY, "allow": [{"org_id": ["org_c", "org_b"]}]}]),
    "inst_globbed": Instance(policies=[{**API_KEY, "allow": [{"org_id": {"glob": "org_*"}}]}]),
    "inst_oidc": Instance(policies=[{"provider": "github-oidc"}]),
    "inst_hooks": Instance(
        policies=[
            {**API_KEY, "slug": "signed", "trigger_secret": SECRET},
            {**ANONYMOUS, "slug": "plain"},
            {**ANONYMOUS, "slug": "elsewhere"},
            {**API_KEY, "slug": "elsewhere", "trigger_secret": SECRET},
        ]
    ),
    "inst_refusing": Instance(engine="refusing"),
    "inst_suspended": Instance(status="suspended"),
    "inst_provisioning": Instance(status="provisioning", engine=None),
    "inst_resuming": Instance(status="resuming"),
    "inst_failed": Instance(status="failed", engine=None),
    "inst_lost": Instance(engine=None),
}


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")
