"""What a database is like before a server opens it: nothing is made or changed."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from server.configuration import StartFailed
from server.errors import CloudError
from server.store import migrate
from server.store.dialects import about, create_engine, file_of


class DatabaseProblem(Exception):
    """The database cannot be used. The message says why, and holds no secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What answers, the moment by its clock (None: it runs on this machine), and its step of `newest` migrations.

    A step of None: it is empty.
    """

    product: str
    now: datetime | None
    step: str | None
    newest: str


async def inspect(url: str) -> Inspection | None:
    """Looks at the database of an address; None where it is a file that would be made. Raises DatabaseProblem."""
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise DatabaseProblem(f"the address cannot be used: {_words(error)}") from None
    try:
        file = file_of(engine)
        if file is not None and not _check_file(file):
            return None
        return await _look(engine)
    except (SQLAlchemyError, OSError, StartFailed, CloudError) as error:
        raise DatabaseProblem(_words(error)) from None
    finally:
        await engine.dispose()


async def _look(engine: AsyncEngine) -> Inspection:
    async with engine.connect() as connection:
        product, now = await about(connection)
        return Inspection(product=product, now=now, step=await _step(connection), newest=migrate.newest())


async def _step(connection: AsyncConnection) -> str | None:
    return await connection.run_sync(migrate.current)


def _check_file(file: Path) -> bool:
    """Whether the file is there; it, or the folder that would hold it, must be open to us. Raises DatabaseProblem."""
    nearest = next((folder for folder in file.absolute().parents if folder.exists()), None)
    folder = file.absolute().parent
    if nearest is None or not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise DatabaseProblem(f"the folder {folder} cannot be written to")
    if not file.exists():
        return False
    if not file.is_file() or not os.access(file, os.R_OK | os.W_OK):
        raise DatabaseProblem(f"the file {file} cannot be read and written")
    return True


def _words(error: BaseException) -> str:
    """The first line of what the driver says: more would be statements."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    lines = str(cause).splitlines()
    return lines[0] if lines else type(cause).__name__
