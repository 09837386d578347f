"""Which database the servers of a test work on, and an empty one of it in its newest shape for each folder."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.store import migrate
from server.store.dialects import create_engine
from tests.support.postgres import Postgres

KINDS = ("sqlite", "postgres")


class Databases:
    """Gives every folder its database: a file in it, or a copy of a migrated template on a Postgres of the tests."""

    def __init__(self) -> None:
        self.kind = KINDS[0]
        self._postgres: Postgres | None = None
        self._template = ""
        self._names: dict[Path, str] = {}

    def url(self, folder: Path) -> str:
        """The address of the folder's database, the same one each time it is asked for."""
        if self.kind == KINDS[0]:
            return f"sqlite:///{folder.absolute()}/orch8.db"
        server = self.postgres()
        if folder not in self._names:
            self._names[folder] = server.create(self._template)
        return server.url(self._names[folder])

    def postgres(self) -> Postgres:
        """The tests' Postgres. It starts when it is needed first."""
        if self._postgres is None:
            self._postgres = Postgres()
            self._postgres.start()
            self._template = self._postgres.create()
            _migrate(self._postgres.url(self._template))
        return self._postgres

    @contextmanager
    def of(self, kind: str) -> Iterator[str]:
        """Gives out databases of this kind, and drops them at the end."""
        before, self.kind = self.kind, kind
        try:
            yield kind
        finally:
            for name in self._names.values():
                self.postgres().drop(name)
            self._names.clear()
            self.kind = before

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.close()


def _migrate(url: str) -> None:
    """In a thread of its own: whoever asks may be in a running loop."""

    async def upgrade() -> None:
        engine = create_engine(url)
        await migrate.upgrade(engine)
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(upgrade()))
    thread.start()
    thread.join()


databases = Databases()
