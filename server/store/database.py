"""The database and its unit of work: whoever wants rows opens one, and only what it commits stays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.errors import DatabaseUnavailable
from server.store.api_keys import ApiKeys
from server.store.changes import Changes
from server.store.decisions import Decisions
from server.store.deployments import Deployments
from server.store.dialects import (
    PoolUse,
    Signal,
    Turn,
    is_shared,
    now,
    pool_use,
    reader,
    signals,
    take_turn,
    try_turn,
    writers_turn,
)
from server.store.events import Events
from server.store.idempotency import IdempotencyKeys
from server.store.instances import Instances
from server.store.metrics import Metrics
from server.store.organizations import Organizations
from server.store.policies import Policies
from server.store.proxies import Proxies
from server.store.runs import Runs
from server.store.sealing import Sealer
from server.store.traffic import Traffic
from server.store.usage import Quotas, Usage


class UnitOfWork:
    """One transaction, with every repository on it. Leaving without commit() takes everything back."""

    def __init__(
        self,
        session: AsyncSession,
        sealer: Sealer,
        quotas: Quotas | None = None,
        published: Callable[[], None] | None = None,
    ) -> None:
        self._session = session
        self._published = published
        self.organizations = Organizations(session)
        self.instances = Instances(session, sealer)
        self.policies = Policies(session, sealer)
        self.deployments = Deployments(session, sealer)
        self.api_keys = ApiKeys(session)
        self.changes = Changes(session)
        self.proxies = Proxies(session)
        self.decisions = Decisions(session)
        self.traffic = Traffic(session)
        self.metrics = Metrics(session)
        self.events = Events(session)
        self.idempotency = IdempotencyKeys(session, sealer)
        self.runs = Runs(session)
        self.usage = Usage(session, quotas, instances=self.instances, events=self.events, changes=self.changes)

    async def now(self, here: datetime) -> datetime:
        """The moment by the clock that all servers share: where this one is alone its own, `here`."""
        return await now(self._session, here)

    async def try_turn(self, turn: Turn) -> bool:
        """Whether no other transaction is at this. If so, none is until this one ends."""
        return await try_turn(self._session, turn)

    async def commit(self) -> None:
        """Makes what was done lasting. Events are numbered last of all, and told of once they are there."""
        events = await self.events.write()
        await self._session.commit()
        if events and self._published is not None:
            self._published()


class Database:
    """Opens units of work. `quotas`: what is done about quotas that are used up; None: nothing, runs are counted."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer, quotas: Quotas | None = None) -> None:
        self.engine = engine
        self._sealer = sealer
        self._quotas = quotas
        self._turn = writers_turn(engine)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reader = reader(engine)
        # Called when events were committed here; those of other servers come as Signal.EVENTS.
        self.published: Callable[[], None] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on it too."""
        return is_shared(self.engine)

    @asynccontextmanager
    async def write(self, turn: str | None = None) -> AsyncIterator[UnitOfWork]:
        """A transaction that may write. Raises DatabaseUnavailable.

        On SQLite writers wait for each other, first come, first served. On Postgres those with the same `turn` do: the
        id of what they look at before they write, as a rule an organization's.
        """
        # Those of this process queue up here: else they would hold the connections that others need to go on.
        queue = self._turn if turn is None else self._turns.setdefault(turn, self._turn or asyncio.Lock())
        async with queue or nullcontext(), self._session(self.engine) as session:
            if turn is not None:
                await take_turn(session, Turn.NAMED, turn)
            yield UnitOfWork(session, self._sealer, self._quotas, self.published)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads, from one snapshot, and waits for nobody. Raises DatabaseUnavailable."""
        async with self._session(self._reader) as session:
            yield UnitOfWork(session, self._sealer, self._quotas)

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                yield session
        except PoolExhausted as error:
            raise DatabaseUnavailable from error

    def signals(self) -> AbstractAsyncContextManager[AsyncIterator[set[Signal]]]:
        """Listens to what the servers tell each other. Raises DatabaseUnavailable."""
        return signals(self.engine)

    async def ping(self) -> None:
        """Raises DatabaseUnavailable if the database does not answer."""
        async with self._session(self._reader) as session:
            await session.exec(select(1))

    def pool_use(self) -> PoolUse:
        """How many connections are open."""
        return pool_use(self.engine)

    async def close(self) -> None:
        """Closes all connections."""
        await self.engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.close()
