"""Where SQLite and Postgres differ. Nothing else in the project asks which of the two it is."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import ColumnElement, Table, Text, cast, event, func, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.configuration import StartFailed
from server.errors import DatabaseUnavailable, FieldViolation, InvalidArgument
from server.store.types import UtcDateTime

READ_ONLY = "orch8_read_only"
# FULL: in WAL mode, NORMAL may lose the last commits with the power, and a revocation that has answered must stand.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON")
POSTGRES = ("postgresql://", "postgres://")
# What the database says when it cannot work now, and might later (Postgres, appendix A): connections (08), resources
# (53), an operator or a time-out (57), a deadlock, a lock that is not free, a standby that was promoted or is one.
PASSING = ("08", "53", "57", "40P01", "55P03", "25P03", "25006")
NO_SUCH_CHARACTER = "22021"
SQLITE_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN")
CHANNEL = "orch8"
# A connection on which nothing was heard for this long is asked whether it is alive.
PROBE_S = 5.0
# A server that is halted does not keep its own time-outs; ours come a little later.
GRACE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How many connections to Postgres there are, and how long anything there may take, in seconds."""

    pool_size: int = 10
    pool_overflow: int = 10
    pool_timeout: float = 5
    connect_timeout: float = 5
    statement_timeout: float = 10
    lock_timeout: float = 5
    idle_timeout: float = 5

    def patient(self) -> "Limits":
        """The same for migrations, which may take long and wait for each other."""
        return replace(self, statement_timeout=1800, lock_timeout=1800, idle_timeout=1800)


class DatabaseRefused(StartFailed):
    """Postgres lets nobody in with this address: there is no such database, user or password, or it makes no sense."""


class Turn(IntEnum):
    """What transactions on Postgres take turns at: the first key of its advisory locks."""

    MIGRATION = 1
    CHANGES = 2
    HOUSEKEEPING = 3
    NAMED = 4
    SERVER = 5
    EVENTS = 20


class Signal(StrEnum):
    """What servers tell each other, over Postgres, of a transaction that is committed."""

    CHANGES = "changes"
    PROXIES = "proxies"
    EVENTS = "events"


def create_engine(url: str, limits: Limits | None = None) -> AsyncEngine:
    """An engine for the address, set up so that transactions mean the same on either database.

    The address is sqlite:///PATH, or what libpq takes: postgresql://USER:PASSWORD@HOST/NAME?sslmode=…
    """
    if url.startswith(POSTGRES):
        engine = _postgres(url, limits or Limits())
    else:
        engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://", 1))
    event.listen(engine.sync_engine, "handle_error", _explain)
    if not is_shared(engine):
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def is_shared(engine: AsyncEngine) -> bool:
    """Whether several servers may work on this database at once."""
    return engine.dialect.name != "sqlite"


def reader(engine: AsyncEngine) -> AsyncEngine:
    """The same engine for transactions that only read, from one snapshot."""
    if is_shared(engine):
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.execution_options(**{READ_ONLY: True})


def insert(session: AsyncSession, table: Any) -> "sqlite.Insert | postgresql.Insert":
    """An INSERT that can say what happens to rows that are there already (ON CONFLICT), which standard SQL cannot."""
    return postgresql.insert(table) if _on_postgres(session) else sqlite.insert(table)


def one_of(session: AsyncSession, column: Any, values: Sequence[str]) -> ColumnElement[bool]:
    """Whether a column is one of many texts, in a statement that is the same however many they are."""
    wanted: ColumnElement[bool]
    if _on_postgres(session):
        wanted = column == func.any(cast(list(values), postgresql.ARRAY(Text)))
    else:
        wanted = column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))
    return wanted


async def put(session: AsyncSession, table: Any, rows: Sequence[tuple[Any, ...]], *, update: Sequence[str]) -> None:
    """Inserts rows of all columns of a table, in one go; of one that is there already the columns of `update` change.

    Postgres takes a list for each column in one statement, at a third of what a statement for each row costs.
    """
    if _on_postgres(session):
        connection = await session.connection()
        await connection.exec_driver_sql(_put_lists(table.__table__, tuple(update)), tuple(zip(*rows, strict=True)))
        return
    columns = [one.name for one in table.__table__.columns]
    inserting = sqlite.insert(table.__table__)
    found = {name: inserting.excluded[name] for name in update}
    key = [one.name for one in table.__table__.primary_key]
    params: Any = [dict(zip(columns, row, strict=True)) for row in rows]
    await session.exec(inserting.on_conflict_do_update(index_elements=key, set_=found), params=params)


@cache
def _put_lists(table: Table, update: tuple[str, ...]) -> str:
    """In the driver's own words: SQLAlchemy would look at each value of each list."""
    made: Any = postgresql.dialect
    dialect = made()
    kinds = [one.type.compile(dialect) for one in table.columns]
    lists = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(kinds, 1))
    found = ", ".join(f"{name} = excluded.{name}" for name in update)
    key = ", ".join(one.name for one in table.primary_key)
    # Names of tables and columns are ours; all values are parameters.
    return (
        f"INSERT INTO {table.name} ({', '.join(table.columns.keys())}) "  # noqa: S608
        f"SELECT * FROM unnest({lists}) ON CONFLICT ({key}) DO UPDATE SET {found}"
    )


def writers_turn(engine: AsyncEngine) -> asyncio.Lock | None:
    """What one who writes enters first.

    SQLite has one writer at a time, and those who wait look again now and then: under load one of many waits for too
    long and fails. In this process, which is the only one, they queue up instead. Postgres needs none of it.
    """
    return None if is_shared(engine) else asyncio.Lock()


async def take_turn(session: AsyncSession, turn: Turn, name: str = "", *, tell: Signal | None = None) -> None:
    """Waits until no other transaction has this turn, and has it until this one ends. SQLite's one writer has it.

    `tell`: the same as signal(), at no more cost.
    """
    if _on_postgres(session):
        lock = func.pg_advisory_xact_lock(int(turn), func.hashtext(name))
        await session.exec(select(lock) if tell is None else select(lock, func.pg_notify(CHANNEL, tell.value)))


async def try_turn(session: AsyncSession, turn: Turn) -> bool:
    """The same without waiting. False: another transaction has it."""
    if not _on_postgres(session):
        return True
    return bool((await session.exec(select(func.pg_try_advisory_xact_lock(int(turn), func.hashtext(""))))).one())


async def now(session: AsyncSession, here: datetime) -> datetime:
    """The moment by the one clock that all servers share: Postgres's own, or that of the one server (`here`)."""
    if not _on_postgres(session):
        return here
    return (await session.exec(select(func.clock_timestamp(type_=UtcDateTime)))).one()


def minute_of(session: AsyncSession, column: Any) -> Any:
    """The minute that a moment is in, by its beginning, as an expression."""
    if _on_postgres(session):
        return func.date_trunc("minute", column, type_=UtcDateTime)
    return func.strftime("%Y-%m-%d %H:%M:00", column, type_=UtcDateTime)


async def signal(session: AsyncSession, what: Signal) -> None:
    """Tells every server once this transaction is committed. Nobody needs telling on SQLite."""
    if _on_postgres(session):
        await session.exec(select(func.pg_notify(CHANNEL, what.value)))


@asynccontextmanager
async def signals(engine: AsyncEngine) -> AsyncIterator[AsyncIterator[set[Signal]]]:
    """Listens to what servers tell each other, this one included; never heard on SQLite. Raises DatabaseUnavailable.

    What was told before, or while nobody listened, is lost. Signals that come together are heard once.
    """
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        heard = _Heard(driver)
        try:
            await driver.add_listener(CHANNEL, heard.hear)
            yield heard.signals()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable from error
        finally:
            # It must not go back to the pool with a listener on it.
            await connection.invalidate()


class _Heard:
    """What one connection has heard and nobody has taken yet."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._signals: set[Signal] = set()
        self._news = asyncio.Event()
        driver.add_termination_listener(lambda _: self._news.set())

    def hear(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        # A newer server may say what this one does not know.
        if payload in set(Signal):
            self._signals.add(Signal(payload))
            self._news.set()

    async def signals(self) -> AsyncIterator[set[Signal]]:
        while True:
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._news.wait()
            except TimeoutError:
                await self._driver.execute("SELECT 1", timeout=PROBE_S)
                continue
            if self._driver.is_closed():
                raise DatabaseUnavailable
            self._news.clear()
            found, self._signals = self._signals, set()
            yield found


def _on_postgres(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _postgres(url: str, limits: Limits) -> AsyncEngine:
    engine = create_async_engine(
        # The address with its password stays in the closure: an engine's own address may be printed.
        "postgresql+asyncpg://",
        async_creator=_connector(url, limits),
        pool_size=limits.pool_size,
        max_overflow=limits.pool_overflow,
        pool_timeout=limits.pool_timeout,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _connector(url: str, limits: Limits) -> Callable[[], Any]:
    settings = {
        "application_name": "orch8-cloud",
        # A revocation that has answered must stand, whatever this database's default is.
        "synchronous_commit": "on",
        "statement_timeout": _milliseconds(limits.statement_timeout),
        "lock_timeout": _milliseconds(limits.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(limits.idle_timeout),
    }

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                url,
                timeout=limits.connect_timeout,
                command_timeout=limits.statement_timeout + GRACE_S,
                server_settings=settings,
            )
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.ConnectionDoesNotExistError) as error:
            raise DatabaseUnavailable from error
        except asyncpg.PostgresError as error:
            if _passes(error.sqlstate):
                raise DatabaseUnavailable from error
            raise DatabaseRefused(str(error)) from None
        except (asyncpg.InterfaceError, ValueError):
            # Their own words may hold parts of the password.
            raise DatabaseRefused("is no address that Postgres takes; is the password percent-encoded?") from None

    return connect


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """A restarted database has closed its connections: the pool makes a new one. Costs nothing, unlike a ping."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _explain(context: ExceptionContext) -> Exception | None:
    """What a failure of the driver means to callers; None: it is a fault of ours."""
    error = context.original_exception
    if not isinstance(error, Exception):
        # Cancelled: the connection is given up for that, and the cancellation goes on.
        return None
    state = getattr(error, "sqlstate", None)
    if isinstance(error, OSError):
        # Of a connection that did not answer in time nothing more is expected, not even a rollback.
        context.is_disconnect = True
        return DatabaseUnavailable()
    if context.is_disconnect or _passes(state) or _passes_in_sqlite(error):
        return DatabaseUnavailable()
    if state == NO_SUCH_CHARACTER:
        return InvalidArgument([FieldViolation(field="request", description="holds a character that cannot be stored")])
    return None


def _passes(sqlstate: str | None) -> bool:
    return sqlstate is not None and sqlstate.startswith(PASSING)


def _passes_in_sqlite(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(SQLITE_PASSING)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Connections that somebody uses, and that wait to be used."""

    in_use: int
    idle: int


def pool_use(engine: AsyncEngine) -> PoolUse:
    """How an engine's pool stands. The pool of a database in memory is one connection, and counts nothing."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return PoolUse(0, 0)
    return PoolUse(in_use=pool.checkedout(), idle=pool.checkedin())


def file_of(engine: AsyncEngine) -> Path | None:
    """The file of the database, where it is one."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return Path(engine.url.database)


async def about(connection: AsyncConnection) -> tuple[str, datetime | None]:
    """Product and version, and the moment by the database's own clock; None where that is this machine's."""
    if connection.dialect.name == "sqlite":
        return f"SQLite {(await connection.execute(text('SELECT sqlite_version()'))).scalar_one()}", None
    version, now = (await connection.execute(text("SELECT version(), clock_timestamp()"))).one()
    return " ".join(str(version).split()[:2]), now


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: it does so at the first write, and loses updates.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
