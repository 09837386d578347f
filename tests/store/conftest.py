"""All of it holds on either database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store import migrate
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.organizations import Organization
from server.store.sealing import Sealer
from tests.store.rows import NOW
from tests.support.databases import databases


@pytest.fixture
async def database(tmp_path: Path, database_kind: str) -> AsyncIterator[Database]:
    async with Database(create_engine(databases.url(tmp_path)), Sealer(bytes(32))) as database:
        await migrate.upgrade(database.engine)
        async with database.write() as tx:
            await tx.organizations.add(Organization(id="org_one", name="One", plan="free", created_at=NOW))
            await tx.commit()
        yield database
