"""The database and its unit of work: whoever wants rows opens one, and only what it commits stays."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.api_keys import ApiKeys
from server.store.changes import Changes
from server.store.decisions import Decisions
from server.store.dialects import READ_ONLY, writers_turn
from server.store.events import Events
from server.store.idempotency import IdempotencyKeys
from server.store.instances import Instances
from server.store.organizations import Organizations
from server.store.policies import Policies
from server.store.proxies import Proxies
from server.store.sealing import Sealer
from server.store.traffic import Traffic


class UnitOfWork:
    """One transaction, with every repository on it. Leaving without commit() takes everything back."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self.organizations = Organizations(session)
        self.instances = Instances(session, sealer)
        self.policies = Policies(session, sealer)
        self.api_keys = ApiKeys(session)
        self.changes = Changes(session)
        self.proxies = Proxies(session)
        self.decisions = Decisions(session)
        self.traffic = Traffic(session)
        self.events = Events(session)
        self.idempotency = IdempotencyKeys(session, sealer)

    async def commit(self) -> None:
        """Makes what was done lasting."""
        await self._session.commit()


class Database:
    """Opens units of work."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self.engine = engine
        self._sealer = sealer
        self._turn = writers_turn(engine)
        self._reader = engine.execution_options(**{READ_ONLY: True})

    @asynccontextmanager
    async def write(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that may write. On SQLite writers wait for each other, first come, first served."""
        async with self._turn, AsyncSession(self.engine, expire_on_commit=False) as session:
            yield UnitOfWork(session, self._sealer)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads, from one snapshot, and waits for nobody."""
        async with AsyncSession(self._reader, expire_on_commit=False) as session:
            yield UnitOfWork(session, self._sealer)

    async def ping(self) -> None:
        """Raises what the driver raises if the database does not answer."""
        async with self._reader.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()
