"""Where SQLite and Postgres differ. Nothing else in the project asks which of the two it is."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlmodel.ext.asyncio.session import AsyncSession

READ_ONLY = "orch8_read_only"
# FULL: in WAL mode, NORMAL may lose the last commits with the power, and a revocation that has answered must stand.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON")


def create_engine(url: str) -> AsyncEngine:
    """An engine for the address, set up so that transactions mean the same on either database."""
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def insert(session: AsyncSession, table: Any) -> "sqlite.Insert | postgresql.Insert":
    """An INSERT that can say what happens to rows that are there already (ON CONFLICT), which standard SQL cannot."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def writers_turn(engine: AsyncEngine) -> AbstractAsyncContextManager[object]:
    """What one who writes enters first. To be entered again and again.

    SQLite has one writer at a time, and those who wait look again now and then: under load one of many waits for too
    long and fails. In this process, which is the only one, they queue up instead. Postgres needs none of it.
    """
    return asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()


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
