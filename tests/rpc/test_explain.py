"""policies:explain answers what the proxy would do, and why."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1 import policies_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from server.app import running
from server.identity.turns import TooManyWaiting, Turns
from tests.support import sessions
from tests.support.calls import eventually, failure
from tests.support.issuer import Issuer, running_issuer
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

OWNER = (("authorization", f"Bearer {sessions.token()}"),)
STRANGER = (("authorization", f"Bearer {sessions.token(org_id='org_two')}"),)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


class World:
    def __init__(self, channel: grpc.aio.Channel, issuer: Issuer) -> None:
        self.stub: Any = PoliciesServiceStub(channel)
        self.instances: Any = InstancesServiceStub(channel)
        self.keys: Any = ApiKeysServiceStub(channel)
        self.issuer = issuer
        self.instance_id = ""

    async def create(self) -> None:
        request = instances_pb2.CreateInstanceRequest(name="prod", region="iad")
        self.instance_id = (await self.instances.CreateInstance(request, metadata=OWNER)).id

        async def is_running() -> bool:
            get = instances_pb2.GetInstanceRequest(instance_id=self.instance_id)
            return bool((await self.instances.GetInstance(get, metadata=OWNER)).status == "running")

        await eventually(is_running)

    async def policy(self, **fields: Any) -> str:
        request = ParseDict({"instance_id": self.instance_id, **fields}, pb.CreatePolicyRequest())
        return str((await self.stub.CreatePolicy(request, metadata=OWNER)).id)

    async def ask(self, who: Any = OWNER, **fields: Any) -> dict[str, Any]:
        request = ParseDict({"instance_id": self.instance_id, **fields}, pb.ExplainPoliciesRequest())
        answer = await self.stub.ExplainPolicies(request, metadata=who)
        return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    async def key(self, who: Any = OWNER, **fields: Any) -> str:
        request = api_keys_pb2.CreateApiKeyRequest(name="k", environment="live", **fields)
        return str((await self.keys.CreateApiKey(request, metadata=who)).key)


@pytest.fixture
async def world(tmp_path: Path, issuer: Issuer) -> AsyncIterator[World]:
    changes = {"dev_allow_loopback": True, "public_url": "http://localhost:8080"}
    async with (
        running(settings(tmp_path, **changes), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        world = World(channel, issuer)
        await world.create()
        yield world


def outcome(answer: dict[str, Any]) -> tuple[bool, int, str | None]:
    return answer["allowed"], answer["status"], answer["reason"]


async def test_tunnel_without_policies_takes_the_organizations_keys(world: World) -> None:
    assert outcome(await world.ask(token=await world.key(), path="/sequences")) == (True, 200, None)
    assert outcome(await world.ask()) == (False, 401, "UNAUTHENTICATED")
    foreign = await world.ask(token=await world.key(STRANGER))
    assert outcome(foreign) == (False, 403, "RULE_MISMATCH")
    assert foreign["policies"][0]["why"].startswith("the key belongs to another organization")


async def test_rules_are_explained_to_the_condition(world: World) -> None:
    rules = [{"repository_id": "1", "ref": "refs/heads/main"}, {"repository_id": "2"}]
    policy_id = await world.policy(provider="oidc", issuer=world.issuer.name, audience="orch8", allow=rules)
    answer = await world.ask(token=world.issuer.sign(repository_id="1", ref="refs/heads/dev"))
    assert outcome(answer) == (False, 403, "RULE_MISMATCH")
    (attempt,) = answer["policies"]
    assert (attempt["policy_id"], attempt["applicable"], attempt["accepted"]) == (policy_id, True, True)
    assert [rule["matched"] for rule in attempt["rules"]] == [False, False]
    # The conditions of a rule are a JSON object: they have no order.
    assert sorted(attempt["rules"][0]["conditions"], key=lambda one: str(one["claim"])) == [
        {"claim": "ref", "expected": "refs/heads/main", "actual": "refs/heads/dev", "matched": False},
        {"claim": "repository_id", "expected": "1", "actual": "1", "matched": True},
    ]
    miss = answer["nearest_miss"]
    assert (miss["policy_id"], miss["rule"]) == (policy_id, 0)
    assert miss["message"] == "ref is 'refs/heads/dev', and the rule wants 'refs/heads/main'."
    assert outcome(await world.ask(token=world.issuer.sign(repository_id="2"))) == (True, 200, None)


async def test_imagined_claims_are_asked_like_real_ones(world: World) -> None:
    await world.policy(provider="oidc", issuer=world.issuer.name, audience="orch8", allow=[{"sub": "me"}])
    claims = {"iss": world.issuer.name, "aud": "orch8", "sub": "me"}
    assert outcome(await world.ask(claims=claims)) == (True, 200, None)
    assert outcome(await world.ask(claims=claims | {"sub": "you"})) == (False, 403, "RULE_MISMATCH")
    other = await world.ask(claims=claims | {"aud": "other"})
    assert outcome(other) == (False, 401, "TOKEN_INVALID")
    assert "audience" in other["nearest_miss"]["message"]
    assert outcome(await world.ask(claims=claims | {"iss": "https://x.example"})) == (False, 401, "UNAUTHENTICATED")
    await world.policy(provider="api-key", allow=[{"sub": "orc8_live_abcdefgh"}])
    key = {"sub": "orc8_live_abcdefgh", "org_id": "org_one"}
    assert outcome(await world.ask(claims=key)) == (True, 200, None)


async def test_credential_that_no_policy_is_for_is_explained(world: World) -> None:
    async def message(**request: Any) -> str:
        answer = await world.ask(**request)
        assert outcome(answer) == (False, 401, "UNAUTHENTICATED")
        return str(answer["nearest_miss"]["message"])

    assert await message() == "the request brings no credential; what is taken here: api-key."
    slash = world.issuer.sign(iss=f"{world.issuer.name}/")
    assert (
        await message(token=slash)
        == "the bearer is no API key, and no policy takes tokens; what is taken here: api-key."
    )
    await world.policy(provider="oidc", issuer=world.issuer.name)
    unknown = f"no policy takes tokens of '{world.issuer.name}/'; what is taken here: oidc."
    assert await message(token=slash) == unknown
    assert await message(claims={"iss": f"{world.issuer.name}/", "sub": "me"}) == unknown
    assert await message(token=await world.key()) == "no policy takes API keys; what is taken here: oidc."
    assert "neither an API key nor a token" in await message(token="a.b.c")
    assert "takes tokens without an issuer" in await message(token=world.issuer.sign(iss=None))
    long = await message(token=world.issuer.sign(iss="x" * 5000))
    assert len(long) < 300
    (attempt,) = (await world.ask())["policies"]
    assert attempt["why"] == f"takes tokens of {world.issuer.name}, and the request is tried as anonymous"


async def test_bad_tokens_are_explained_to_the_owner(world: World) -> None:
    await world.policy(provider="oidc", issuer=world.issuer.name)
    answer = await world.ask(token=world.issuer.sign(exp=1))
    assert outcome(answer) == (False, 401, "TOKEN_INVALID")
    assert "expired" in answer["nearest_miss"]["message"]
    assert world.issuer.sign(exp=1) not in json.dumps(answer)
    world.issuer.keys = []
    await world.policy(provider="oidc", issuer="http://127.0.0.1:9")
    unreachable = await world.ask(token=world.issuer.sign(iss="http://127.0.0.1:9"))
    assert outcome(unreachable) == (False, 503, "DATA_PLANE_NOT_READY")


async def test_gateway_and_suspended_instances(world: World) -> None:
    assert outcome(await world.ask(slug="hook")) == (False, 404, "NOT_FOUND")
    await world.policy(provider="anonymous", slug="hook")
    assert outcome(await world.ask(slug="hook")) == (True, 200, None)
    request = instances_pb2.ActOnInstanceRequest(instance_id=world.instance_id, action="suspend")
    await world.instances.ActOnInstance(request, metadata=OWNER)
    assert outcome(await world.ask(slug="hook")) == (True, 409, "STATE_CONFLICT")


async def test_strangers_and_contradictions_are_refused(world: World) -> None:
    assert (await failure(world.ask(STRANGER))).reason == "NOT_FOUND"
    assert (await failure(world.ask(token="x", claims={}))).fields == ("claims",)
    assert (await failure(world.ask(claims=[1]))).fields == ("claims",)
    assert (await failure(world.ask(slug="a", path="/b"))).fields == ("path",)
    assert (await failure(world.ask(token="a,b"))).fields == ("token",)


async def test_spaces_around_a_token_count_as_little_as_in_the_header(world: World) -> None:
    assert outcome(await world.ask(token=f" {await world.key()} ")) == (True, 200, None)
    await world.policy(provider="anonymous")
    assert outcome(await world.ask(token="  ")) == (True, 200, None)


async def test_a_token_that_nobody_has_time_to_check_is_explained_as_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_turns: Turns, party: str) -> None:
        assert party == world.instance_id
        raise TooManyWaiting

    await world.policy(provider="oidc", issuer=world.issuer.name)
    monkeypatch.setattr(Turns, "turn", refuse)
    assert outcome(await world.ask(token=world.issuer.sign())) == (False, 429, "RATE_LIMITED")
