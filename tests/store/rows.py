"""Rows to store, and the moment of all these tests."""

from datetime import UTC, datetime, timedelta

from server.domain.instances import Desired, Instance, Phase, Region
from server.store.database import Database
from server.store.instances import EngineKeys

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KEYS = EngineKeys(engine_key="engine-secret", encryption_key="ab" * 32)


def instance(number: int = 1, **changes: object) -> Instance:
    values: dict[str, object] = {
        "id": f"inst_{number}",
        "org_id": "org_one",
        "name": f"name-{number}",
        "region": Region.WASHINGTON,
        "desired": Desired.RUNNING,
        "phase": Phase.PROVISIONING,
        "created_at": NOW + timedelta(seconds=number),
        "updated_at": NOW,
    }
    return Instance(**(values | changes))  # type: ignore[arg-type]


async def add(database: Database, *found: Instance) -> None:
    async with database.write() as tx:
        for one in found:
            await tx.instances.add(one, KEYS, due_at=NOW, deadline_at=NOW + timedelta(minutes=5))
        await tx.commit()
