"""Moves what a SQLite database holds into an empty Postgres: everything, in one transaction, or nothing."""

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from server.configuration import StartFailed
from server.errors import DatabaseUnavailable
from server.store import migrate
from server.store.dialects import Limits, Turn, create_engine, take_turn
from server.store.tables import metadata

ROWS = 500

# Told of a table's name, how many of its rows are there, and how many there will be.
Tell = Callable[[str, int, int], None]


class TransferFailed(StartFailed):
    """Nothing was moved, and why."""


async def transfer(database: Path, url: str, tell: Tell, limits: Limits | None = None) -> None:
    """Moves all rows. Raises StartFailed; the target is then as it was. The rows of the source are never changed.

    Sealed secrets move as they are: they open with the same key. Nobody else may use the source meanwhile.
    """
    patient = (limits or Limits()).patient()
    target = create_engine(url, patient)
    try:
        with _snapshot(database) as copy:
            async with _newest(copy) as source:
                await migrate.upgrade(target)
                await _move(source, target, tell)
    except DatabaseUnavailable as error:
        raise TransferFailed(f"a database does not answer; nothing was moved: {error.__cause__}") from error
    finally:
        await target.dispose()


@contextmanager
def _snapshot(database: Path) -> Iterator[Path]:
    """A copy to read from. The original is locked until the end: a server on it would go on without us."""
    if not database.is_file():
        raise TransferFailed(f"there is no database at {database}")
    with tempfile.TemporaryDirectory(prefix="orch8-") as folder:
        copy = Path(folder) / "orch8.db"
        original = sqlite3.connect(database, isolation_level=None, timeout=1)
        try:
            # Leaving WAL mode needs the file for itself; whoever opens it next as a server enters it again. In this
            # locking mode the lock outlives the transaction: a backup cannot be made from within one.
            if original.execute("PRAGMA journal_mode=DELETE").fetchone() != ("delete",):
                raise sqlite3.OperationalError("it stays in WAL mode")
            original.execute("PRAGMA locking_mode=EXCLUSIVE")
            original.execute("BEGIN EXCLUSIVE")
            original.execute("COMMIT")
            with closing(sqlite3.connect(copy)) as second:
                original.backup(second)
            yield copy
        except sqlite3.DatabaseError as error:
            what = f"{database} is in use, or is no database; stop the server first: {error}"
            raise TransferFailed(what) from None
        finally:
            original.close()


@asynccontextmanager
async def _newest(copy: Path) -> AsyncIterator[AsyncConnection]:
    """The copy in its newest shape."""
    engine = create_engine(f"sqlite:///{copy}")
    try:
        await migrate.upgrade(engine)
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _move(source: AsyncConnection, target: AsyncEngine, tell: Tell) -> None:
    async with AsyncSession(target) as session, session.begin():
        await take_turn(session, Turn.MIGRATION)
        connection = await session.connection()
        tables = metadata.sorted_tables
        # Nobody else writes until this ends, and nobody has before.
        names = ", ".join(table.name for table in tables)
        await connection.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))
        for table in tables:
            if found := await _count(connection, table):
                raise TransferFailed(
                    f"the target is not empty: its table {table.name} has {found} rows; nothing was moved. "
                    "Has it been moved to before? Else name an empty database."
                )
        for table in tables:
            await _move_table(source, connection, table, tell)
            await _restart_numbers(source, connection, table)


async def _move_table(source: AsyncConnection, target: AsyncConnection, table: Table, tell: Tell) -> None:
    total, moved = await _count(source, table), 0
    async with source.stream(select(table).order_by(*table.primary_key)) as rows:
        async for part in rows.mappings().partitions(ROWS):
            await target.execute(insert(table), [_checked(table, row) for row in part])
            moved += len(part)
            tell(table.name, moved, total)
    there = await _count(target, table)
    if not total == moved == there:
        raise TransferFailed(
            f"table {table.name}: {total} rows were to be moved, and {there} are there; none was moved"
        )
    if total == 0:
        tell(table.name, 0, 0)


def _checked(table: Table, row: Mapping[Any, Any]) -> dict[str, Any]:
    for name, value in row.items():
        if isinstance(value, str) and "\0" in value:
            key = [row[column.name] for column in table.primary_key]
            raise TransferFailed(
                f"table {table.name}: {name} of {key} holds a NUL character, which Postgres cannot store; "
                "nothing was moved"
            )
    return dict(row)


async def _count(connection: AsyncConnection, table: Table) -> int:
    return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def _restart_numbers(source: AsyncConnection, target: AsyncConnection, table: Table) -> None:
    """What Postgres numbers by itself goes on where SQLite ended, after numbers that were given and taken back, too."""
    column = table.autoincrement_column
    if column is None:
        return
    last = await source.execute(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
    highest = (await target.execute(select(func.max(column)))).scalar() or 0
    if number := max(last.scalar() or 0, highest):
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        await target.execute(select(func.setval(sequence, number)))
