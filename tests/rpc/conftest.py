"""The whole server behind a real channel. pytest-grpc gives the stub; server and channel are ours, for grpc.aio."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio

from server.app import App, running
from tests.support import sessions
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings


@pytest.fixture(scope="module", autouse=True)
def _either_database(database_kind: str) -> None:
    """Everything here runs on SQLite and on Postgres."""


@pytest.fixture(scope="module")
def runtime() -> MemoryRuntime:
    return MemoryRuntime()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_server(
    tmp_path_factory: pytest.TempPathFactory, runtime: MemoryRuntime, data_dir: Path
) -> AsyncIterator[App]:
    async with running(settings(data_dir), runtime) as app:
        yield app


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, database_kind: str) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_channel(grpc_server: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(grpc_server.address)) as channel:
        yield channel


@pytest.fixture
def org() -> str:
    """An organization of its own for each test: they share one server."""
    return f"org_{uuid4().hex}"


@pytest.fixture
def signed_in() -> Callable[..., Any]:
    """Call metadata of a member of an organization."""

    def make(org_id: str | None, **changes: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {sessions.token(org_id=org_id, **changes)}"),)

    return make


@pytest.fixture
def owner(org: str, signed_in: Callable[..., Any]) -> Any:
    """Call metadata of the owner of this test's organization."""
    return signed_in(org)
