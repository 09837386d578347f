import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jose import jwt

from server.up.account import Account, UpFailed
from server.up.credentials import sign_in
from server.up.options import Options
from server.up.report import Ready, Report

SECRET = "a-secret-of-thirty-two-characters"
SESSION = sign_in(secret=SECRET, issuer="http://localhost:1/auth/v1", user_id="u", org_id="org_x")
KEY = "orc8_live_" + "a" * 49


class Product:
    """Answers as the product does; `answers` are taken first, one after the other."""

    def __init__(self) -> None:
        self.instances: list[dict[str, Any]] = []
        self.keys: list[dict[str, Any]] = []
        self.taken: set[str] = set()
        self.answers: list[httpx.Response | Exception] = []
        self.created: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.method == "POST":
            return self._create(request.url.path, json.loads(request.content))
        if request.url.path == "/api/organization":
            assert request.headers["Cookie"] == SESSION.cookie
            return httpx.Response(200, json={"id": "org_x"})
        if request.url.path.startswith("/api/tunnel/"):
            assert request.headers["Authorization"] == f"Bearer {KEY}"
            return httpx.Response(200, json={"version": "0.7.1"})
        return httpx.Response(200, json=self.instances if request.url.path == "/api/instances" else self.keys)

    def _create(self, path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "/api/api-keys":
            return httpx.Response(201, json={"key": KEY})
        if body["name"] in self.taken:
            return httpx.Response(409, json={"message": "taken"})
        self.created.append(body)
        return httpx.Response(201, json={"id": "inst_new"})


def instance(name: str, status: str, error: str | None = None) -> dict[str, Any]:
    return {"id": f"inst_{name}", "name": name, "status": status, "error": error}


def key(prefix: str = KEY[:18], **changes: Any) -> dict[str, Any]:
    return {"prefix": prefix, "revoked_at": None, "expires_at": None} | changes


@pytest.fixture
def product() -> Product:
    return Product()


@pytest.fixture
async def account(product: Product) -> AsyncIterator[Account]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(product), base_url="http://up") as http:
        yield Account(http, SESSION, patience=0.3)


async def test_waits_out_what_passes(product: Product, account: Account) -> None:
    product.answers = [httpx.ConnectError("refused"), httpx.Response(503, json={"message": "no proxy"})]
    await account.wait_ready()
    assert product.answers == []


async def test_gives_up_with_the_last_answer(product: Product, account: Account) -> None:
    product.answers = [httpx.Response(503, json={"message": "No proxy is connected."})] * 1000
    with pytest.raises(UpFailed, match=r"not ready: 503 No proxy is connected\. \(after 0\.3 s\)"):
        await account.wait_ready()


async def test_refusal_is_an_error_at_once(product: Product, account: Account) -> None:
    product.answers = [httpx.Response(401, json={"message": "Sign in again."})]
    with pytest.raises(UpFailed, match="session is not accepted: 401 Sign in again"):
        await account.organization()


async def test_asks_for_the_organization_with_the_cookie(account: Account) -> None:
    assert await account.organization() == "org_x"


@pytest.mark.parametrize(
    ("kept", "listed", "expected"),
    [
        ("", [], KEY),
        ("orc8_live_bbbbbbbbccc", [key("orc8_live_bbbbbbbb")], "orc8_live_bbbbbbbbccc"),
        ("orc8_live_bbbbbbbbccc", [key("orc8_live_bbbbbbbb", revoked_at="2026-01-01T00:00:00Z")], KEY),
        ("orc8_live_bbbbbbbbccc", [key("orc8_live_dddddddd")], KEY),
    ],
    ids=["none yet", "good", "revoked", "unknown"],
)
async def test_keeps_a_good_key(
    product: Product, account: Account, kept: str, listed: list[dict[str, Any]], expected: str
) -> None:
    product.keys = listed
    assert await account.api_key(kept) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([instance("b", "provisioning"), instance("a", "running")], "inst_a"),
        ([instance("b", "running"), instance("a", "running")], "inst_b"),
        ([instance("b", "failed"), instance("a", "provisioning")], "inst_a"),
        ([instance("b", "failed"), instance("a", "suspended")], "inst_new"),
    ],
)
async def test_prefers_the_newest_that_runs(
    product: Product, account: Account, found: list[dict[str, Any]], expected: str
) -> None:
    product.instances = found
    assert (await account.instance()).id == expected


async def test_creates_one_under_a_free_name(product: Product, account: Account) -> None:
    product.instances, product.taken = [instance("dev", "failed")], {"dev-2"}
    await account.instance()
    assert product.created == [{"name": "dev-3", "region": "iad"}]


async def test_failed_instance_is_told_with_its_error(product: Product, account: Account) -> None:
    product.instances = [instance("dev", "failed", "the wheels came off")]
    with pytest.raises(UpFailed, match=r"dev .*the wheels came off"):
        await account.wait_running("inst_dev")


async def test_asks_the_engine_through_the_tunnel(account: Account) -> None:
    assert await account.engine_version("inst_dev", KEY) == "0.7.1"


def test_session_has_the_form_of_supabase() -> None:
    name, _, value = SESSION.cookie.partition("=")
    packed = value.removeprefix("base64-")
    session = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    assert name == "sb-orch8-auth-token"
    assert "=" not in value
    assert len(value) <= 3180
    assert session["access_token"] == SESSION.access_token
    claims = jwt.decode(SESSION.access_token, SECRET, algorithms=["HS256"], audience="authenticated")
    assert claims["role"] == "authenticated"
    assert claims["exp"] - claims["iat"] >= 24 * 3600
    assert claims["app_metadata"]["org_id"] == "org_x"
    assert claims["app_metadata"]["org_role"] == "owner"


READY = Ready(
    url="http://localhost:8080",
    org_id="org_x",
    api_key=KEY,
    access_token=SESSION.access_token,
    session_cookie=SESSION.cookie,
    supabase_jwt_secret=SECRET,
    instance_id="inst_dev",
    engine="development engine 0.7.1+dev",
)


def test_ready_file_is_private_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    READY.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert set(json.loads(path.read_text())) == {
        "url",
        "org_id",
        "api_key",
        "access_token",
        "session_cookie",
        "supabase_jwt_secret",
        "instance_id",
        "engine",
    }


def test_printed_lines_can_be_pasted(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as output:
        Report(output).ready(READY, Options(port=8080, data_dir=tmp_path))
    lines = (tmp_path / "out").read_text().splitlines()
    assert f'curl http://localhost:8080/api/tunnel/inst_dev/sequences -H "Authorization: Bearer {KEY}"' in lines
    assert any(line.endswith(f"Cookie: {SESSION.cookie}") for line in lines)
