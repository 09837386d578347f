"""Explanation equals enforcement: the real server explains, a real proxy lets in, and an engine records who came."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1 import policies_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from server.app import running
from server.domain import keys
from server.providers.runtime.base import Upstream
from tests.domain.policies import CLAIMS, ISSUERS, RULES
from tests.rest_bridge.data_path.paths import direct_path
from tests.rest_bridge.data_path.wire import Answer, request, send
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.support import sessions
from tests.support.calls import eventually
from tests.support.issuer import Issuer, running_issuer
from tests.support.runtime import MemoryRuntime
from tests.support.server import DATAPLANE_TOKEN
from tests.support.server import settings as server_settings

EXAMPLES = 50
ORGS = ("org_a", "org_b")
AS = {org: (("authorization", f"Bearer {sessions.token(org_id=org)}"),) for org in ORGS}
# What the examples must lead to at least once, so that they are worth something.
OUTCOMES = {
    (200, None),
    (401, "UNAUTHENTICATED"),
    (401, "KEY_REVOKED"),
    (401, "TOKEN_INVALID"),
    (403, "RULE_MISMATCH"),
    (404, "NOT_FOUND"),
}


@dataclass
class World:
    """A server with one instance of org_a, a proxy before it, and keys of every kind."""

    channel: grpc.aio.Channel
    engine: FakeEngine
    port: int
    instance_id: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    outcomes: set[tuple[int, str | None]] = field(default_factory=set)

    async def create(self, name: str) -> str:
        stub: Any = InstancesServiceStub(self.channel)
        request = instances_pb2.CreateInstanceRequest(name=name, region="iad")
        made = str((await stub.CreateInstance(request, metadata=AS["org_a"])).id)

        async def is_running() -> bool:
            get = instances_pb2.GetInstanceRequest(instance_id=made)
            return bool((await stub.GetInstance(get, metadata=AS["org_a"])).status == "running")

        await eventually(is_running)
        return made

    async def key(self, name: str, org: str = "org_a", **fields: Any) -> Any:
        stub: Any = ApiKeysServiceStub(self.channel)
        wanted = ParseDict({"name": name, "environment": "live", **fields}, api_keys_pb2.CreateApiKeyRequest())
        made = await stub.CreateApiKey(wanted, metadata=AS[org])
        self.keys[name] = made.key
        return made

    async def fill(self) -> None:
        self.instance_id, elsewhere = await self.create("here"), await self.create("elsewhere")
        for name, fields in {
            "own": {},
            "at home": {"instance_id": self.instance_id},
            "elsewhere": {"instance_id": elsewhere},
            "foreign": {"org": "org_b"},
        }.items():
            await self.key(name, **fields)
        revoked = await self.key("revoked")
        stub: Any = ApiKeysServiceStub(self.channel)
        wanted = api_keys_pb2.RevokeApiKeyRequest(api_key_id=revoked.id)
        await stub.RevokeApiKey(wanted, metadata=AS["org_a"])
        self.keys["unknown"] = keys.new_key("live", bytes(32))

    async def put(self, policies: Any) -> list[str]:
        stub: Any = PoliciesServiceStub(self.channel)
        made = []
        for policy in policies:
            wanted = ParseDict({"instance_id": self.instance_id, **policy}, pb.CreatePolicyRequest())
            made.append(str((await stub.CreatePolicy(wanted, metadata=AS["org_a"])).id))
        return made

    async def remove(self, policy_ids: list[str]) -> None:
        stub: Any = PoliciesServiceStub(self.channel)
        for policy_id in policy_ids:
            wanted = pb.DeletePolicyRequest(instance_id=self.instance_id, policy_id=policy_id)
            await stub.DeletePolicy(wanted, metadata=AS["org_a"])

    async def explained(self, token: str | None, slug: str | None) -> dict[str, Any]:
        stub: Any = PoliciesServiceStub(self.channel)
        asked = {"instance_id": self.instance_id, "token": token, "slug": slug}
        wanted = ParseDict(
            {name: value for name, value in asked.items() if value is not None}, pb.ExplainPoliciesRequest()
        )
        answer = await stub.ExplainPolicies(wanted, metadata=AS["org_a"])
        return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    async def tried(self, token: str | None, slug: str | None) -> Answer:
        headers = [] if token is None else [("authorization", f"Bearer {token}")]
        path = f"/api/tunnel/{self.instance_id}/x" if slug is None else f"/api/gateway/{self.instance_id}/{slug}"
        return await send(self.port, request(path, headers))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    engine = FakeEngine()
    await engine.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.stop)
        issuers = [await stack.enter_async_context(running_issuer(name)) for name in ISSUERS.values()]
        shared = {
            "dev_allow_loopback": True,
            "dev_discovery": {issuer.name: issuer.url for issuer in issuers},
            "public_url": "http://localhost:8080",
        }
        runtime = MemoryRuntime(upstream=Upstream(host="127.0.0.1", port=engine.port))
        wanted = server_settings(tmp_path, default_plan="enterprise", confirm_timeout=10, **shared)
        app = await stack.enter_async_context(running(wanted, runtime))
        port = await stack.enter_async_context(
            direct_path(server_addr=str(app.address), dataplane_token=DATAPLANE_TOKEN, **shared)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(str(app.address)))
        world = World(channel, engine, port)
        await world.fill()
        yield world
    assert world.outcomes == OUTCOMES


def token_of(name: str, claims: Any) -> str:
    issuer = Issuer()
    issuer.name = name
    until = {"exp": int((datetime.now(UTC) + timedelta(hours=1)).timestamp())}
    return issuer.sign(**{**until, **claims})


ALLOW = st.one_of(st.just([]), st.lists(RULES, min_size=1, max_size=2))
OWN_RULES = st.sampled_from(
    [[], [{"org_id": "org_a"}], [{"org_id": ["org_b", "org_a"]}], [{"org_id": {"glob": "org_*"}}], [{"sub": "nobody"}]]
)
SLUG = st.sampled_from([None, None, "hook"])
POLICIES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"provider": st.just("api-key"), "slug": SLUG, "allow": OWN_RULES}),
        st.fixed_dictionaries(
            {
                "provider": st.just("anonymous"),
                "slug": SLUG,
                "allow": st.sampled_from([[], [{"sub": "anon"}], [{"sub": "x"}]]),
            }
        ),
        st.fixed_dictionaries(
            {
                "provider": st.sampled_from(["github-oidc", "gitlab-oidc"]),
                "slug": SLUG,
                "allow": ALLOW,
                "audience": st.sampled_from([None, "one"]),
            }
        ),
        st.fixed_dictionaries(
            {"provider": st.just("oidc"), "issuer": st.just(ISSUERS["oidc"]), "slug": SLUG, "allow": ALLOW}
        ),
    ).flatmap(lambda policy: st.booleans().map(lambda off: {**policy, "enabled": not off or policy["slug"] is None})),
    max_size=4,
)
TOKENS = st.builds(
    lambda issuer, claims, audience, more: (issuer, {**claims, "aud": audience, **more}),
    st.sampled_from([*ISSUERS.values(), "https://stranger.example.com"]),
    CLAIMS,
    st.sampled_from(["one", ["two", "one"], "three"]),
    st.sampled_from([{}, {}, {}, {"exp": 1}, {"nbf": 2**33}]),
)


KEY_NAMES = ("own", "at home", "elsewhere", "foreign", "revoked", "unknown")
TOKENS_OF_SOME = st.lists(TOKENS, min_size=1, max_size=2)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # each example is a dialogue with a server: too slow to be made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policies=POLICIES, names=st.sets(st.sampled_from(KEY_NAMES), min_size=2, max_size=3), tokens=TOKENS_OF_SOME)
async def test_what_is_explained_is_what_happens(world: World, policies: Any, names: Any, tokens: Any) -> None:
    """Several kinds of callers at every place, for each random set of policies."""
    policy_ids = await world.put(policies)
    try:
        credentials = [None, *(world.keys[name] for name in sorted(names)), *(token_of(*one) for one in tokens)]
        for slug, credential in product((None, "hook"), credentials):
            world.outcomes.add(await compare(world, credential, slug))
        world.outcomes.add(await compare(world, "garbage", "other"))
    finally:
        await world.remove(policy_ids)


async def compare(world: World, credential: str | None, slug: str | None) -> tuple[int, str | None]:
    """Asks both, and holds them against each other and against what the engine saw."""
    world.engine.seen.clear()
    explained, answer = await world.explained(credential, slug), await world.tried(credential, slug)
    outcome = answer.status, answer.reason
    assert (explained["status"], explained["reason"]) == outcome, explained
    assert explained["allowed"] == (answer.status == 200) == bool(world.engine.seen), explained
    if credential is not None and len(credential) > 20:
        assert credential not in json.dumps(explained)
    if world.engine.seen:
        chosen = [attempt for attempt in explained["policies"] if attempt["accepted"]][-1]
        assert world.engine.seen[0].headers["x-gateway-provider"] == chosen["provider"]
    return outcome
