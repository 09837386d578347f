"""What all tests share: a Postgres, which starts when a test wants one."""

from collections.abc import Iterator

import pytest

from tests.support.databases import KINDS, databases


@pytest.fixture(scope="session", autouse=True)
def _end_of_postgres() -> Iterator[None]:
    yield
    databases.close()


@pytest.fixture(scope="module", params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs what uses it once on each kind of database, with databases of its own."""
    with databases.of(request.param) as kind:
        yield kind
