"""Brings a database to the newest shape. Alembic is imported only when there is something to do: it is slow to load."""

import asyncio
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from server.configuration import StartFailed
from server.store.dialects import Turn, create_engine, take_turn

MIGRATIONS = Path(__file__).parent / "migrations"
NUMBERED = re.compile(r"(\d{4})_\w+\.py")


class SchemaTooNew(StartFailed):
    """The database was written by a newer version of the program."""


def newest() -> str:
    """The number of the last migration that this program knows."""
    return max(match[1] for path in (MIGRATIONS / "versions").iterdir() if (match := NUMBERED.fullmatch(path.name)))


async def upgrade(engine: AsyncEngine) -> None:
    """Applies every migration that is missing, where servers start together once. Raises SchemaTooNew."""
    async with AsyncSession(engine) as session, session.begin():
        await take_turn(session, Turn.MIGRATION)
        connection = await session.connection()
        at = await connection.run_sync(current)
        if at == newest():
            return
        if at is not None and at > newest():
            raise SchemaTooNew(
                f"the database is at step {at}, this program knows {newest()}: install the newer version"
            )
        await connection.run_sync(_command, "upgrade", "head")


def current(connection: Connection) -> str | None:
    """The number of the last migration that the database has had; None where it has had none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _command(connection: Connection, name: str, *arguments: Any, **options: Any) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    run: Callable[..., object] = getattr(command, name)
    run(config, *arguments, **options)


async def write_next(name: str) -> None:
    """Writes the migration that leads from the last one to the tables as they are now."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/empty.db")
        number = f"{int(newest()) + 1:04d}" if any((MIGRATIONS / "versions").glob("0*.py")) else "0001"
        async with engine.begin() as connection:
            if number != "0001":
                await connection.run_sync(_command, "upgrade", "head")
            await connection.run_sync(_command, "revision", message=name, autogenerate=True, rev_id=number)
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(write_next(" ".join(sys.argv[1:])))
