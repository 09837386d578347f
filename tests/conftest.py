"""What all tests share: a Postgres, which starts when a test wants one, and the order in which files are begun."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import KINDS, databases

ROOT = Path(__file__).parent
# Files that take longest: begun last, they would keep one process busy while the others have nothing left to do.
LONG = (
    "workers/test_deploy.py",
    "chaos",
    "replicas",
    "deploy",
    "e2e",
    "rest_bridge/data_path",
    "workers",
    "rpc",
    "bench",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest."""
    items.sort(key=lambda item: _turn(item.path.relative_to(ROOT).as_posix()))


def _turn(path: str) -> int:
    return next((turn for turn, name in enumerate(LONG) if path.startswith(name)), len(LONG))


@pytest.fixture(scope="session", autouse=True)
def _end_of_postgres() -> Iterator[None]:
    yield
    databases.close()


@pytest.fixture(scope="module", params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs what uses it once on each kind of database, with databases of its own."""
    with databases.of(request.param) as kind:
        yield kind
