"""What exists at Fly: apps, machines, volumes, and how they look from outside."""

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# docs: machine states. Those of a volume of which its owner is rid already are Fly's client's list.
PERSISTENT = ("created", "started", "stopped", "suspended", "failed")
GONE = ("destroyed", "migrated", "replaced")
VOLUME_GONE = ("scheduling_destroy", "pending_destroy", "destroying", "destroyed")
DETAILS = ("config", "checks", "events", "image_ref", "host_status")
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Problem(Exception):
    """An error, as Fly answers it."""

    def __init__(
        self, status: int, error: str, code: str | None = None, *, body: Any = None, retry_after: int | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.body = body or {"error": error, **({} if code is None else {"status": code})}
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


@dataclass
class Lease:
    """Who alone may change a machine, and until when."""

    nonce: str
    owner: str
    description: str
    expires_at: float

    def shown(self, version: str) -> dict[str, Any]:
        return {
            "nonce": self.nonce,
            "owner": self.owner,
            "description": self.description,
            "expires_at": int(self.expires_at),
            "version": version,
        }


@dataclass
class Machine:
    """A machine. `goal` is the state that it is on its way to."""

    name: str
    region: str
    config: dict[str, Any]
    private_ip: str
    id: str = field(default_factory=lambda: secrets.token_hex(7))
    instance_id: str = ""
    state: str = "created"
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    events: list[dict[str, Any]] = field(default_factory=list)
    lease: Lease | None = None
    cordoned: bool = False
    crashes: int = 0

    def __post_init__(self) -> None:
        self.new_version()
        self.event("launch", "created")

    def new_version(self) -> None:
        """Each update makes one."""
        self.instance_id = "01" + "".join(secrets.choice(CROCKFORD) for _ in range(24))

    def to(self, state: str) -> None:
        """Changes its state, and notes it."""
        self.state = state
        self.updated_at = datetime.now(UTC)

    def event(self, kind: str, status: str, source: str = "user", **request: Any) -> None:
        row = {
            "id": "01" + "".join(secrets.choice(CROCKFORD) for _ in range(24)),
            "type": kind,
            "status": status,
            "source": source,
            "timestamp": int(time.time() * 1000),
        }
        self.events.insert(0, row | ({"request": request} if request else {}))
        del self.events[20:]

    @property
    def held_by(self) -> Lease | None:
        """The lease, unless it is over."""
        return self.lease if self.lease is not None and self.lease.expires_at > time.time() else None

    def shown(self, *, summary: bool = False) -> dict[str, Any]:
        repository, _, tag = self.config["image"].partition(":")
        made = {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "instance_id": self.instance_id,
            "private_ip": self.private_ip,
            "created_at": _stamp(self.created_at),
            "updated_at": _stamp(self.updated_at),
            "config": self.config,
            "checks": [],
            "events": self.events,
            "image_ref": {"registry": "ghcr.io", "repository": repository, "tag": tag or "latest", "labels": {}},
            "host_status": "ok",
        }
        return {name: value for name, value in made.items() if not (summary and name in DETAILS)}


@dataclass
class Volume:
    """A volume: a folder. It stays bound to its machine for a while after that is gone."""

    name: str
    region: str
    size_gb: int
    folder: Path
    id: str = field(default_factory=lambda: "vol_" + secrets.token_hex(8))
    state: str = "created"
    attached_to: str | None = None
    busy_until: float = 0.0
    encrypted: bool = True
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_busy(self) -> bool:
        return time.monotonic() < self.busy_until

    def shown(self) -> dict[str, Any]:
        attached = {} if self.attached_to is None else {"attached_machine_id": self.attached_to}
        return attached | {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "zone": "a1b2",
            "size_gb": self.size_gb,
            "encrypted": self.encrypted,
            "fstype": "ext4",
            "auto_backup_enabled": True,
            "snapshot_retention": 5,
            "host_status": "ok",
            "created_at": _stamp(self.created_at),
        }


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
