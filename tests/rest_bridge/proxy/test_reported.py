"""What arrives at the server of the decisions that a proxy makes, and that nothing secret is in it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from orch8cloud.dataplane.v1 import dataplane_pb2
from orch8cloud.v1 import decisions_pb2

from rest_bridge.answers import from_messages
from rest_bridge.proxy.decide_app import MAX_ANSWERS
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import Instance
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


@dataclass(frozen=True)
class Asked:
    """A request, and what its record must say; `recorded` False: it is about no instance."""

    path: str
    token: str | None = cases.KEY
    method: str = "GET"
    status: int = 200
    reason: str | None = None
    allowed: bool = False
    recorded: bool = True


ASKED = [
    Asked("/api/tunnel/inst_plain/x", allowed=True),
    Asked(f"/api/tunnel/inst_plain/y?key={cases.KEY}", method="DELETE", allowed=True),
    Asked(f"/api/tunnel/inst_plain/{cases.KEY}", allowed=True),
    Asked("/api/gateway/inst_hooks/signed", method="POST", allowed=True),
    Asked("/api/gateway/inst_hooks/plain", token=None, method="POST", allowed=True),
    Asked("/api/tunnel/inst_plain/x", token=None, status=401, reason="UNAUTHENTICATED"),
    Asked("/api/tunnel/inst_plain/x", token=cases.UNKNOWN_KEY, status=401, reason="UNAUTHENTICATED"),
    Asked("/api/tunnel/inst_plain/x", token=cases.TYPO, status=401, reason="UNAUTHENTICATED"),
    Asked("/api/tunnel/inst_closed/x", status=403, reason="RULE_MISMATCH"),
    Asked("/api/gateway/inst_hooks/nothing", method="POST", status=404, reason="NOT_FOUND"),
    Asked("/api/tunnel/inst_suspended/x", status=409, reason="STATE_CONFLICT", allowed=True),
    Asked("/api/tunnel/inst_failed/x", status=503, reason="DATA_PLANE_NOT_READY", allowed=True),
    Asked("/api/tunnel/inst_unknown/x", status=404, reason="NOT_FOUND", recorded=False),
    Asked("/api/nothing", status=404, reason="NOT_FOUND", recorded=False),
]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "decide"])
async def test_every_decision_about_an_instance_arrives_and_no_secret(
    world: World, start_proxy: Callable[..., Any], *, direct: bool
) -> None:
    ids: dict[str, Asked] = {}
    async with start_proxy(direct=direct, decision_sample=1) as running:
        for asked in ASKED:
            ids[await ask(running, asked, "" if direct else "/decide")] = asked
    found = arrived(world)
    assert set(found) == {decision_id for decision_id, asked in ids.items() if asked.recorded}
    for decision_id, one in found.items():
        asked = ids[decision_id]
        assert (one.method, one.status, shown(one)["reason"], one.allowed) == (
            (asked.method, asked.status, asked.reason, asked.allowed)
        ), asked
        assert one.path == asked.path.partition("?")[0] or cases.KEY in asked.path, asked
    sent = b"".join(report.SerializeToString() for report in world.service.decisions)
    assert cases.PREFIX.encode() in sent
    for secret in SECRETS:
        assert secret.encode() not in sent


async def ask(running: Running, asked: Asked, prefix: str) -> str:
    """The id of the decision."""
    headers = {} if asked.token is None else dict([cases.bearer(asked.token)])
    async with running.client.request(asked.method, prefix + asked.path, headers=headers) as answer:
        assert answer.status == asked.status, asked
        return str(answer.headers["x-orch8-decision-id"])


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


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "decide"])
async def test_what_an_edge_tells_of_answers_is_reported_where_edges_ask(
    world: World, start_proxy: Callable[..., Any], direct: bool
) -> None:
    told = [dataplane_pb2.AnswerCounts(instance_id="inst_plain", kinds={"2xx": 3, "what": 1}, latency={4: 3})] * 2
    body = dataplane_pb2.ReportTrafficRequest(answers=told).SerializeToString()

    async with start_proxy(direct=direct) as running:
        assert isinstance(running, Running)

        async def tell(sent: bytes) -> int:
            async with running.client.request("POST", "/edge/answers", data=BytesIO(sent)) as answer:
                return int(answer.status)

        # Where callers reach a proxy themselves, there is no such path.
        assert await tell(body) == (404 if direct else 200)
        assert await tell(b"\xff\xff") == (404 if direct else 400)
        assert await tell(bytes(MAX_ANSWERS + 1)) == (404 if direct else 400)
    found = [row for report in world.service.reports for row in from_messages(report.answers)]
    assert [(row.instance_id, row.answers.kinds, row.answers.latency) for row in found] == (
        [] if direct else [("inst_plain", Counter({"2xx": 6}), Counter({4: 6}))]
    )
