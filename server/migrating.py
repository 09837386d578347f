"""`orch8-cloud migrate`: moves a data folder into Postgres, and says how far it is."""

import sys
import time
from pathlib import Path

from server.configuration import StartFailed
from server.store.transfer import transfer

DATABASE = "orch8.db"


class Progress:
    """A line for each table; on a terminal it counts."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, table: str, moved: int, total: int) -> None:
        """Takes news of a table."""
        if moved < total:
            if sys.stdout.isatty():
                sys.stdout.write(f"\r  {table:<16}{moved:>10} of {total}")
                sys.stdout.flush()
            return
        back = "\r" if sys.stdout.isatty() else ""
        sys.stdout.write(f"{back}✓ {table:<16}{total:>10} rows {time.monotonic() - self._began:8.1f} s\n")
        sys.stdout.flush()


def _database(source: Path) -> Path:
    return source if source.is_file() else source / DATABASE


async def run_migrate(source: Path, url: str) -> int:
    """Moves everything. Raises StartFailed, and then nothing was moved."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise StartFailed("--to must be postgresql://USER:PASSWORD@HOST/NAME")
    await transfer(_database(source), url, Progress().tell)
    sys.stdout.write(
        "Everything is moved. Start with ORCH8_DATABASE_URL set to this database, and the same ORCH8_SECRET_KEY.\n"
    )
    return 0
