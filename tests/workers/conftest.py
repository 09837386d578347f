"""All of it holds on either database."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _either_database(database_kind: str) -> None:
    """Everything here runs on SQLite and on Postgres."""
