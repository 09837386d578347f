"""One running product for all tests of this folder that do not harm it; each test has an organization of its own."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.support import sessions
from tests.support.stack import Stack, running_stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A stranger: no credential."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        yield client


@pytest.fixture
def bearer(stack: Stack) -> Callable[..., dict[str, str]]:
    """Headers of a member of an organization, by minted session."""

    def make(org_id: str, role: str = "owner") -> dict[str, str]:
        token = sessions.token(stack.ready["supabase_jwt_secret"], org_id=org_id, role=role)
        return {"Authorization": f"Bearer {token}"}

    return make


@pytest.fixture
def owner(bearer: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Headers of the owner of an organization that only this test has."""
    return bearer(f"org_{uuid4().hex[:20]}")


@pytest.fixture
def key(stack: Stack) -> dict[str, str]:
    """Headers with the printed API key."""
    return {"Authorization": f"Bearer {stack.ready['api_key']}"}


@pytest.fixture
def tunnel(stack: Stack) -> str:
    """The path of the tunnel to the printed instance."""
    return f"/api/tunnel/{stack.ready['instance_id']}"


def check_error(answer: httpx.Response, status: int, reason: str, *, named: bool = True) -> dict[str, Any]:
    """The error of an answer, whose shape must be the contract's. Only one that was never routed has no request id."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert isinstance(body["code"], int)
    assert len(body["message"]) > 10
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "cloud.orch8.io")
    assert "x-request-id" in answer.headers or not named
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
    return body
