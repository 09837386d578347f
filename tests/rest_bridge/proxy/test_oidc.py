"""Tokens of OIDC issuers at the proxy: who passes, as whom, and that nobody passes by mixing issuers up."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import Instance
from tests.rest_bridge.proxy.conftest import Running, World, route_message
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.support.issuer import EC, Issuer, running_issuer

GITHUB = "https://token.actions.githubusercontent.com"
INSTANCE = "inst_oidc"
PATH = f"/decide/api/tunnel/{INSTANCE}/info"


@pytest.fixture
async def github() -> AsyncIterator[Issuer]:
    async with running_issuer(GITHUB) as issuer:
        yield issuer


@pytest.fixture
async def other() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


@pytest.fixture
async def proxy(github: Issuer, other: Issuer, start_proxy: Callable[..., Any]) -> AsyncIterator[Running]:
    async with start_proxy(direct=False, dev_allow_loopback=True, dev_discovery={GITHUB: github.url}) as running:
        yield running


@pytest.fixture
def policies(world: World, engine: FakeEngine) -> Callable[..., None]:
    """Puts policies in force on the instance."""

    def put(*rows: dict[str, Any]) -> None:
        instance = Instance(policies=list(rows))
        world.service.routes[INSTANCE] = route_message(INSTANCE, instance, engine_port=engine.port)

    return put


async def ask(proxy: Running, token: str, path: str = PATH) -> tuple[int, str | None, Any]:
    """Status, reason of a refusal, and the answer's headers."""
    async with proxy.client.request("GET", path, headers={"Authorization": f"Bearer {token}"}) as answer:
        body = await answer.json(content_type=None) if answer.status != 200 else None
        return answer.status, body["details"][0]["reason"] if body else None, answer.headers


async def test_token_passes_as_its_subject(proxy: Running, github: Issuer, policies: Callable[..., None]) -> None:
    policies({"provider": "github-oidc", "audience": "orch8", "allow": [{"repository_id": ["1", "2"]}]})
    for _ in range(3):
        status, _, headers = await ask(proxy, github.sign(repository_id="2"))
        assert status == 200
        assert headers["x-gateway-provider"] == "github-oidc"
        assert headers["x-gateway-subject"] == "repo:acme/shop:ref:refs/heads/main"
    assert len(github.fetches) == 2


async def test_subject_cannot_break_out_of_its_header(
    proxy: Running, github: Issuer, policies: Callable[..., None]
) -> None:
    policies({"provider": "github-oidc"})
    status, _, headers = await ask(proxy, github.sign(sub="a\r\nx-api-key: mine é 100%"))
    assert status == 200
    assert headers["x-gateway-subject"] == "a%0D%0Ax-api-key:%20mine%20%C3%A9%20100%25"


async def test_rules_and_audience_decide(proxy: Running, github: Issuer, policies: Callable[..., None]) -> None:
    policies({"provider": "github-oidc", "audience": "orch8", "allow": [{"repository_id": "1"}]})
    assert (await ask(proxy, github.sign(repository_id="2")))[:2] == (403, "RULE_MISMATCH")
    assert (await ask(proxy, github.sign()))[:2] == (403, "RULE_MISMATCH")
    assert (await ask(proxy, github.sign(repository_id="1", aud="sts.amazonaws.com")))[:2] == (401, "TOKEN_INVALID")
    assert (await ask(proxy, github.sign(repository_id="1", exp=1)))[:2] == (401, "TOKEN_INVALID")
    assert (await ask(proxy, github.sign(repository_id="1", aud=["x", "orch8"])))[0] == 200


async def test_issuers_cannot_stand_in_for_each_other(
    proxy: Running, github: Issuer, other: Issuer, policies: Callable[..., None]
) -> None:
    policies({"provider": "github-oidc"}, {"provider": "oidc", "issuer": other.name, "allow": [{"sub": "me"}]})
    assert (await ask(proxy, other.sign(sub="me")))[0] == 200
    assert (await ask(proxy, other.sign(sub="you")))[:2] == (403, "RULE_MISMATCH")
    other.keys = [row | {"kid": "evil"} for row in other.keys]
    forged = other.sign(key=EC, algorithm="ES256", kid="evil", iss=GITHUB)
    assert (await ask(proxy, forged))[:2] == (401, "TOKEN_INVALID")
    assert (await ask(proxy, other.sign(iss="https://unknown.example")))[:2] == (401, "UNAUTHENTICATED")


async def test_bad_token_is_refused_even_where_anybody_may_come(
    proxy: Running, github: Issuer, policies: Callable[..., None]
) -> None:
    policies({"provider": "github-oidc"}, {"provider": "anonymous"})
    assert (await ask(proxy, github.sign(exp=1)))[:2] == (401, "TOKEN_INVALID")
    status, _, headers = await ask(proxy, github.sign(iss="https://unknown.example"))
    assert (status, headers["x-gateway-provider"]) == (200, "anonymous")


async def test_issuer_that_is_down_is_503_for_strangers_and_nobody_is_let_in(
    proxy: Running, policies: Callable[..., None]
) -> None:
    policies({"provider": "oidc", "issuer": "http://127.0.0.1:9"}, {"provider": "anonymous"})
    issuer = Issuer()
    issuer.name = "http://127.0.0.1:9"
    assert (await ask(proxy, issuer.sign()))[:2] == (503, "DATA_PLANE_NOT_READY")


async def test_issuer_whose_document_names_another_authenticates_nobody(
    proxy: Running, other: Issuer, policies: Callable[..., None]
) -> None:
    policies({"provider": "oidc", "issuer": other.name}, {"provider": "anonymous"})
    other.document = {"issuer": GITHUB}
    assert (await ask(proxy, other.sign()))[:2] == (401, "TOKEN_INVALID")


async def test_keys_go_on_working_beside_tokens(proxy: Running, github: Issuer, policies: Callable[..., None]) -> None:
    policies({"provider": "github-oidc"}, {"provider": "api-key"})
    assert (await ask(proxy, cases.KEY))[0] == 200
    assert (await ask(proxy, github.sign()))[0] == 200
