from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, ParseDict
from orch8cloud.v1 import instances_pb2
from orch8cloud.v1 import policies_pb2 as pb
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from tests.support.calls import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return PoliciesServiceStub


@pytest_asyncio.fixture(loop_scope="module")
async def instance_id(grpc_channel: Any, owner: Any) -> str:
    request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
    made: Any = await InstancesServiceStub(grpc_channel).CreateInstance(request, metadata=owner)
    return str(made.id)


async def create(stub: Any, who: Any, instance_id: str, **fields: Any) -> dict[str, Any]:
    request = ParseDict({"instance_id": instance_id, "provider": "api-key", **fields}, pb.CreatePolicyRequest())
    return shown(await stub.CreatePolicy(request, metadata=who))


async def update(stub: Any, who: Any, policy: dict[str, Any], **fields: Any) -> dict[str, Any]:
    names = {"instance_id": policy["instance_id"], "policy_id": policy["id"]}
    return shown(await stub.UpdatePolicy(ParseDict({**names, **fields}, pb.UpdatePolicyRequest()), metadata=who))


def shown(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


async def test_created_policy_shows_every_field(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await create(grpc_stub, owner, instance_id)
    assert made["id"].startswith("pol_")
    assert {key: made[key] for key in made if not key.endswith(("id", "_at"))} == {
        "slug": None,
        "provider": "api-key",
        "audience": None,
        "issuer": None,
        "allow": [],
        "config": {},
        "enabled": True,
        "warnings": [],
        "resource_version": "1",
    }
    listed = shown(await grpc_stub.ListPolicies(pb.ListPoliciesRequest(instance_id=instance_id), metadata=owner))
    assert listed == {"items": [made]}


async def test_rules_come_back_as_they_went_in(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    allow = [{"sub": "a"}, {"org_id": ["x", "y"], "level": 3, "ok": True, "ref": {"glob": "refs/heads/*"}}]
    made = await create(grpc_stub, owner, instance_id, slug="stripe-webhook", allow=allow)
    assert made["allow"] == allow
    assert made["slug"] == "stripe-webhook"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_numbers_that_json_does_not_have_are_refused(
    grpc_stub: Any, owner: Any, instance_id: str, number: float
) -> None:
    """No JSON can hold them, and native gRPC can."""
    request = ParseDict(
        {"instance_id": instance_id, "provider": "api-key", "allow": [{"level": [1, 0]}]}, pb.CreatePolicyRequest()
    )
    request.allow.list_value.values[0].struct_value.fields["level"].list_value.values[1].number_value = number
    error = await failure(grpc_stub.CreatePolicy(request, metadata=owner))
    assert (error.reason, error.metadata["field"]) == ("POLICY_INVALID", "allow[0].level[1]")


async def test_absent_stays_null_clears_and_a_field_is_replaced_whole(
    grpc_stub: Any, owner: Any, instance_id: str
) -> None:
    made = await create(grpc_stub, owner, instance_id, slug="hook", allow=[{"sub": "a"}, {"sub": "b"}])
    same = await update(grpc_stub, owner, made)
    assert same | {"updated_at": "", "resource_version": "1"} == made | {"updated_at": ""}
    assert (await update(grpc_stub, owner, made, allow=[{"sub": "c"}]))["allow"] == [{"sub": "c"}]
    changed = await update(grpc_stub, owner, made, slug=None, enabled=False)
    assert (changed["slug"], changed["enabled"], changed["allow"]) == (None, False, [{"sub": "c"}])
    assert (await update(grpc_stub, owner, made, allow=[]))["allow"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": "github-oidc", "audience": "orch8", "allow": [{"repository_id": "1"}]},
        {"provider": "gitlab-oidc", "issuer": "https://gitlab.acme.example", "audience": "orch8"},
        {"provider": "gcp-oidc", "audience": "orch8", "allow": [{"sub": "1052"}]},
        {"provider": "azure-oidc", "config": {"tenant": "11111111-2222-3333-4444-555555555555"}},
        {"provider": "circleci-oidc", "config": {"org_id": "11111111-2222-3333-4444-555555555555"}},
        {"provider": "terraform-oidc", "audience": "orch8"},
        {"provider": "bitbucket-oidc", "config": {"workspace": "acme"}},
        {"provider": "oidc", "issuer": "https://issuer.example/realms/a", "audience": "orch8"},
    ],
)
async def test_every_oidc_provider_has_policies(grpc_stub: Any, owner: Any, instance_id: str, fields: Any) -> None:
    made = await create(grpc_stub, owner, instance_id, **fields)
    assert {name: made[name] for name in fields} == fields


async def test_risky_policy_is_made_and_says_so(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await create(grpc_stub, owner, instance_id, provider="github-oidc")
    assert [one["reason"] for one in made["warnings"]] == ["SHARED_ISSUER_OPEN", "AUDIENCE_MISSING"]
    better = await update(grpc_stub, owner, made, audience="orch8", allow=[{"repository_id": "1"}])
    assert better["warnings"] == []


async def test_trigger_secret_is_written_and_never_read(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await create(grpc_stub, owner, instance_id, slug="hook", config={"trigger_secret": "s3cret-of-the-trigger"})
    assert made["config"] == {}
    assert "s3cret" not in str(await update(grpc_stub, owner, made, enabled=False))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"provider": ""}, ("provider",)),
        ({"provider": "basic"}, ("provider",)),
        ({"provider": None}, ("provider",)),
        ({"provider": 5}, ("provider",)),
        ({"enabled": "yes"}, ("enabled",)),
        ({"enabled": None}, ("enabled",)),
        ({"slug": "a/b"}, ("slug",)),
        ({"slug": ""}, ("slug",)),
        ({"slug": ".."}, ("slug",)),
        ({"slug": 7}, ("slug",)),
        ({"allow": {}}, ("allow",)),
        ({"allow": "sub"}, ("allow",)),
        ({"allow": None}, ("allow",)),
        ({"allow": [{"sub": "a"}, {}]}, ("allow[1]",)),
        ({"allow": [{}, "x", {"sub": None}]}, ("allow[0]", "allow[1]", "allow[2].sub")),
        ({"allow": [{"sub": {"regex": "x"}}]}, ("allow[0].sub",)),
        ({"allow": [{"sub": {"glob": 3}}]}, ("allow[0].sub.glob",)),
        ({"allow": [{"sub": ["a", []]}]}, ("allow[0].sub[1]",)),
        ({"allow": [{"sub": []}]}, ("allow[0].sub",)),
        ({"allow": [{"sub": "a"}] * 65}, ("allow",)),
        ({"allow": [{f"c{i}": "a" for i in range(33)}]}, ("allow[0]",)),
        ({"allow": [{"sub": ["a"] * 65}]}, ("allow[0].sub",)),
        ({"config": []}, ("config",)),
        ({"config": {"tenant": "x"}}, ("config.tenant",)),
        ({"slug": "a", "config": {"trigger_secret": ""}}, ("config.trigger_secret",)),
        ({"config": {"trigger_secret": "x"}}, ("config.trigger_secret",)),
        ({"audience": "x"}, ("audience",)),
        ({"provider": "azure-oidc"}, ("config.tenant",)),
        ({"provider": "azure-oidc", "config": {"tenant": "common"}}, ("config.tenant",)),
        ({"provider": "circleci-oidc", "config": {"org_id": "acme"}}, ("config.org_id",)),
        ({"provider": "bitbucket-oidc", "config": {"workspace": "a/b"}}, ("config.workspace",)),
        ({"provider": "gcp-oidc", "issuer": "https://evil.example"}, ("issuer",)),
        ({"provider": "github-oidc", "config": {"tenant": "x"}}, ("config.tenant",)),
        ({"provider": "oidc"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "http://issuer.example"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "https://169.254.169.254"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "http://localhost"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "https://localhost"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "https://a.localhost:1"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "https://a.example/?x=1"}, ("issuer",)),
        ({"provider": "oidc", "issuer": "https://u:p@a.example"}, ("issuer",)),
        ({"issuer": "https://issuer.example"}, ("issuer",)),
        ({"provider": "nope", "slug": "/", "allow": 1}, ("provider", "slug", "allow")),
    ],
)
async def test_invalid_policies_are_422_and_name_each_field(
    grpc_stub: Any, owner: Any, instance_id: str, fields: Any, named: Any
) -> None:
    failed = await failure(create(grpc_stub, owner, instance_id, **fields))
    assert (failed.http, failed.reason, failed.fields) == (422, "POLICY_INVALID", named)
    left = await grpc_stub.ListPolicies(pb.ListPoliciesRequest(instance_id=instance_id), metadata=owner)
    assert not left.items


async def test_null_is_refused_in_an_update_where_it_means_nothing(
    grpc_stub: Any, owner: Any, instance_id: str
) -> None:
    made = await create(grpc_stub, owner, instance_id)
    failed = await failure(update(grpc_stub, owner, made, provider=None, enabled=None, allow=None, config=None))
    assert failed.fields == ("provider", "allow", "config", "enabled")


async def test_policies_of_an_instance_are_bounded_together(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    allow = [{f"claim{n}": ["x" * 1000] * 64 for n in range(8)}]
    for number in range(2):
        await create(grpc_stub, owner, instance_id, slug=f"s{number}", allow=allow)
    failed = await failure(create(grpc_stub, owner, instance_id, slug="s2", allow=allow))
    assert (failed.http, failed.fields) == (422, ("allow",))
    listed = await grpc_stub.ListPolicies(pb.ListPoliciesRequest(instance_id=instance_id), metadata=owner)
    assert len(listed.items) == 2


async def test_update_is_checked_with_what_stays(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await create(grpc_stub, owner, instance_id, slug="hook", config={"trigger_secret": "x"})
    failed = await failure(update(grpc_stub, owner, made, slug=None))
    assert failed.fields == ("config.trigger_secret",)


async def test_deleted_foreign_and_unknown_policies_are_404(
    grpc_stub: Any, owner: Any, instance_id: str, signed_in: Any
) -> None:
    made = await create(grpc_stub, owner, instance_id)
    stranger = signed_in("org_policy_strangers")
    assert (await failure(create(grpc_stub, stranger, instance_id))).reason == "NOT_FOUND"
    assert (await failure(update(grpc_stub, stranger, made))).reason == "NOT_FOUND"
    names = pb.DeletePolicyRequest(instance_id=instance_id, policy_id=made["id"])
    assert (await failure(grpc_stub.DeletePolicy(names, metadata=stranger))).reason == "NOT_FOUND"
    await grpc_stub.DeletePolicy(names, metadata=owner)
    assert (await failure(grpc_stub.DeletePolicy(names, metadata=owner))).reason == "NOT_FOUND"
    assert (await failure(update(grpc_stub, owner, made))).reason == "NOT_FOUND"
