"""What arrives at the server of the decisions that a proxy makes, and that nothing secret is in it."""

import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from orch8cloud.v1 import decisions_pb2

from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import CASES, Case, Instance
from tests.rest_bridge.proxy.conftest import Running, World, route_message
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.support.issuer import Issuer, running_issuer

SECRETS = [*cases.KEYS, cases.UNKNOWN_KEY, cases.TYPO, cases.ENGINE_KEY, cases.SECRET]


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


def arrived(world: World) -> dict[str, decisions_pb2.Decision]:
    """Every record by its id; each must have arrived once."""
    found = [one for report in world.service.decisions for one in report.decisions]
    by_id = {one.id: one for one in found}
    assert len(by_id) == len(found)
    return by_id


def shown(found: decisions_pb2.Decision) -> dict[str, Any]:
    return MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "decide"])
async def test_every_decision_about_an_instance_arrives_and_no_secret(
    world: World, start_proxy: Callable[..., Any], *, direct: bool
) -> None:
    answers: dict[str, tuple[Case, bool]] = {}
    async with start_proxy(direct=direct, decision_sample=1) as running:
        for case in CASES:
            if direct or not case.needs_edge:
                decision_id, about_instance = await ask(running, case, "" if direct else "/decide")
                answers[decision_id] = case, about_instance
    found = arrived(world)
    assert set(found) == {decision_id for decision_id, (_, about) in answers.items() if about}
    for decision_id, one in found.items():
        case, _ = answers[decision_id]
        assert (case.name, one.method) == (case.name, case.method)
        assert case.needs_edge or (case.name, one.path) == (case.name, plain_path(case))
        # Nothing is known here of what becomes of it at the engine.
        passed = case.reason is None or case.status in (502, 504)
        assert (case.name, one.status) == (case.name, 200 if passed else case.status)
        assert (case.name, shown(one)["reason"]) == (case.name, None if passed else case.reason)
        assert one.allowed == (passed or case.status in (409, 503)), case.name
    sent = b"".join(report.SerializeToString() for report in world.service.decisions)
    assert cases.PREFIX.encode() in sent
    for secret in SECRETS:
        assert secret.encode() not in sent


def plain_path(case: Case) -> str:
    """What was asked for, without the query; an instance's root may come with or without its slash."""
    path = case.path.partition("?")[0]
    return f"{path}/" if path == cases.PLAIN else path


async def ask(running: Running, case: Case, prefix: str) -> tuple[str, bool]:
    """The id of the decision, and whether one was made about an instance that exists."""
    body = io.BytesIO(case.body) if case.body else None
    async with running.client.request(case.method, prefix + case.path, headers=case.headers, data=body) as answer:
        decision_id = answer.headers["x-orch8-decision-id"]
        if case.reason is None or case.status not in (400, 404, 413):
            return decision_id, True
        info = (await answer.json())["details"][0]["metadata"]
        return decision_id, info.get("resource") == "gateway endpoint"


async def test_claims_of_a_token_arrive_and_the_token_does_not(
    world: World, engine: FakeEngine, start_proxy: Callable[..., Any], issuer: Issuer
) -> None:
    policy = {"provider": "oidc", "issuer": issuer.name, "allow": [{"sub": "me"}]}
    world.service.routes["inst_oidc"] = route_message("inst_oidc", Instance(policies=[policy]), engine_port=engine.port)
    tokens = {
        "good": issuer.sign(sub="me", team="a"),
        "other": issuer.sign(sub="you", team="b"),
        "expired": issuer.sign(sub="me", exp=1),
        "odd": issuer.sign(sub="you", deep=[[[[{"a": [1.5, None, True]}]]]], big=10**40),
    }
    ids = {}
    async with start_proxy(direct=False, dev_allow_loopback=True, public_url="http://localhost:8080") as running:
        for name, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            path = f"/decide/api/tunnel/inst_oidc/info?access_token={token}"
            async with running.client.request("GET", path, headers=headers) as answer:
                ids[name] = answer.headers["x-orch8-decision-id"]
    found = arrived(world)
    good, other, expired, odd = (shown(found[ids[name]]) for name in tokens)
    assert (good["allowed"], good["subject"], good["claims"]["team"]) == (True, "me", "a")
    assert (other["status"], other["subject"], other["claims"]["team"]) == (403, "you", "b")
    assert other["nearest_miss"]["message"] == "sub is 'you', and the rule wants 'me'."
    assert (expired["status"], expired["claims"], expired["subject"]) == (401, None, None)
    assert "expired" in expired["nearest_miss"]["message"]
    assert odd["claims"]["deep"] == [[[[{"a": [1.5, None, True]}]]]]
    assert odd["claims"]["big"] == str(10**40)
    sent = b"".join(report.SerializeToString() for report in world.service.decisions)
    for token in tokens.values():
        assert token.encode() not in sent
        assert token.rpartition(".")[2].encode() not in sent, "nor its signature"


async def test_an_issuer_that_is_down_is_said_to_the_owner(
    world: World, engine: FakeEngine, start_proxy: Callable[..., Any]
) -> None:
    policy = {"provider": "oidc", "issuer": "http://127.0.0.1:9"}
    world.service.routes["inst_oidc"] = route_message("inst_oidc", Instance(policies=[policy]), engine_port=engine.port)
    issuer = Issuer()
    issuer.name = "http://127.0.0.1:9"
    async with start_proxy(direct=False, dev_allow_loopback=True, public_url="http://localhost:8080") as running:
        headers = {"Authorization": f"Bearer {issuer.sign()}"}
        async with running.client.request("GET", "/decide/api/tunnel/inst_oidc/x", headers=headers) as answer:
            assert answer.status == 503
    (one,) = arrived(world).values()
    assert (one.status, one.allowed, shown(one)["reason"]) == (503, False, "DATA_PLANE_NOT_READY")
    assert "127.0.0.1:9" in shown(one)["nearest_miss"]["message"]


async def test_records_of_a_time_without_the_server_arrive_later(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        assert await running.client.status("/decide/api/tunnel/inst_plain/x", None) == (401, "UNAUTHENTICATED")
        world.service.refuses = True
        await running.client.status("/decide/api/tunnel/inst_plain/y", None)
        await running.proxy.records.flush()
        world.service.refuses = False
        await world.service.until(lambda: len(arrived(world)) == 2)
    assert {one.path[-1] for one in arrived(world).values()} == {"x", "y"}


async def test_a_proxy_of_no_sample_records_one_pass_of_a_caller(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False, decision_sample=0) as running:
        await running.proxy.records.flush()
        for _ in range(20):
            assert await running.client.status("/decide/api/tunnel/inst_plain/x") == (200, None)
    # Two where a minute ended meanwhile.
    assert len(arrived(world)) in (1, 2)
