"""Deployments over gRPC, on engines that are processes of their own."""

from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, ParseDict
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1 import deployments_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.deployments_pb2_grpc import DeploymentsServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from server.app import App
from server.providers.runtime.local import LocalRuntime
from tests.support.calls import eventually, failure

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEMPLATE = "tmpl_webhook_to_http"
CONFIG = {"url": "https://example.com/hook"}


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return DeploymentsServiceStub


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, database_kind: str) -> LocalRuntime:
    """One for each server, which closes it when it ends."""
    return LocalRuntime(data_dir=tmp_path_factory.mktemp("engines"), path="")


@pytest_asyncio.fixture(loop_scope="module")
async def instance_id(grpc_channel: Any, owner: Any) -> str:
    return await running_instance(grpc_channel, owner)


async def running_instance(channel: Any, who: Any, name: str = "production") -> str:
    stub: Any = InstancesServiceStub(channel)
    made = await stub.CreateInstance(instances_pb2.CreateInstanceRequest(name=name, region="iad"), metadata=who)
    request = ParseDict({"instance_id": made.id, "wait": "60s"}, instances_pb2.GetInstanceRequest())
    assert (await stub.GetInstance(request, metadata=who)).status == "running"
    return str(made.id)


def deploy(stub: Any, who: Any, **fields: Any) -> Any:
    request = ParseDict({"template_id": TEMPLATE, "config": CONFIG, **fields}, pb.CreateDeploymentRequest())
    return stub.CreateDeployment(request, metadata=who)


async def show(stub: Any, who: Any, deployment_id: str, **fields: Any) -> Any:
    request = ParseDict({"deployment_id": deployment_id, **fields}, pb.GetDeploymentRequest())
    return await stub.GetDeployment(request, metadata=who)


async def running(stub: Any, who: Any, **fields: Any) -> Any:
    """A deployment, once it runs: on a busy machine that takes longer than POST waits."""
    made = await deploy(stub, who, **fields)
    found = await show(stub, who, made.id, wait="60s")
    assert found.status == "running", found
    return found


def delete(stub: Any, who: Any, deployment_id: str) -> Any:
    return stub.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id=deployment_id), metadata=who)


async def listed(stub: Any, who: Any) -> list[str]:
    found = await stub.ListDeployments(pb.ListDeploymentsRequest(), metadata=who)
    return [one.id for one in found.deployments]


def as_json(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


async def test_created_deployment_runs_and_shows_every_field(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await deploy(grpc_stub, owner, secrets={"authorization": "sk-very-secret"})
    assert made.id.startswith("dep_")
    assert made.status in ("running", "provisioning")
    assert (made.engine_instance_id, made.name) == (instance_id, "webhook-to-http")
    found = as_json(await show(grpc_stub, owner, made.id, wait="60s"))
    config = found.pop("config")
    assert (config["url"], config["method"]) == (CONFIG["url"], "POST")
    assert {key: found[key] for key in found if not key.endswith("_at")} == {
        "id": made.id,
        "name": "webhook-to-http",
        "status": "running",
        "engine_instance_id": instance_id,
        "webhook_url": made.webhook_url,
        "template_id": TEMPLATE,
        "error": None,
        "resource_version": "2",
    }
    assert made.webhook_url.startswith(f"https://cloud.example.com/api/gateway/{instance_id}/webhook-to-http-")
    assert await listed(grpc_stub, owner) == [made.id]


async def test_default_names_are_made_unique_and_given_ones_must_be(
    grpc_stub: Any, owner: Any, instance_id: str
) -> None:
    names = [(await running(grpc_stub, owner)).name for _ in range(2)]
    assert names == ["webhook-to-http", "webhook-to-http-2"]
    failed = await failure(deploy(grpc_stub, owner, name="webhook-to-http-2"))
    assert (failed.reason, failed.http) == ("NAME_TAKEN", 409)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "Bad Name"}, "name"),
        ({"name": ""}, "name"),
        ({"config": {}}, "config"),
        ({"config": {"url": 7}}, "config.url"),
        ({"config": "text"}, "config"),
        ({"config": {"url": "https://example.com", "size": float("nan")}}, "config"),
        ({"secrets": ["a"]}, "secrets"),
        ({"secrets": {"authorization": 7}}, "secrets.authorization"),
        ({"secrets": {"authorization": ""}}, "secrets.authorization"),
        ({"secrets": {"other": "x"}}, "secrets.other"),
    ],
)
async def test_bad_fields_are_named(
    grpc_stub: Any, owner: Any, instance_id: str, fields: dict[str, Any], named: str
) -> None:
    request = pb.CreateDeploymentRequest(template_id=TEMPLATE)
    for name, value in {"config": CONFIG, **fields}.items():
        if name == "name":
            request.name = value
        elif name == "config" and isinstance(value, dict):
            request.config.struct_value.update(value)
        else:
            ParseDict(value, getattr(request, name))
    failed = await failure(grpc_stub.CreateDeployment(request, metadata=owner))
    assert (failed.reason, failed.http) == ("INVALID_ARGUMENT", 400)
    assert any(field == named or field.startswith(f"{named}.") for field in failed.fields), failed
    assert await listed(grpc_stub, owner) == []


async def test_without_a_running_instance_it_is_400_and_unknown_things_are_404(
    grpc_stub: Any, grpc_channel: Any, owner: Any, signed_in: Any
) -> None:
    failed = await failure(deploy(grpc_stub, owner))
    assert (failed.reason, failed.http) == ("NO_RUNNING_INSTANCE", 400)
    failed = await failure(deploy(grpc_stub, owner, template_id="tmpl_nothing"))
    assert (failed.reason, failed.metadata["resource"]) == ("NOT_FOUND", "template")
    instance_id = await running_instance(grpc_channel, owner)
    stranger = signed_in("org_of_somebody_else")
    assert (await failure(deploy(grpc_stub, stranger, instance_id=instance_id))).reason == "NOT_FOUND"
    made = await running(grpc_stub, owner)
    for call in (show(grpc_stub, stranger, made.id), delete(grpc_stub, stranger, made.id)):
        assert (await failure(call)).reason == "NOT_FOUND"
    assert await listed(grpc_stub, stranger) == []


async def test_a_template_of_a_larger_plan_is_402(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    failed = await failure(deploy(grpc_stub, owner, template_id="tmpl_payment_dunning"))
    assert (failed.reason, failed.http) == ("PLAN_TOO_LOW", 402)
    assert failed.metadata["plan"] == "free"


async def test_a_suspended_instance_takes_no_deployment_and_shows_on_those_it_has(
    grpc_stub: Any, grpc_channel: Any, owner: Any, instance_id: str
) -> None:
    made = await running(grpc_stub, owner)
    instances: Any = InstancesServiceStub(grpc_channel)
    suspend = instances_pb2.ActOnInstanceRequest(instance_id=instance_id, action="suspend")
    await instances.ActOnInstance(suspend, metadata=owner)
    assert (await show(grpc_stub, owner, made.id)).status == "suspended"
    failed = await failure(deploy(grpc_stub, owner, instance_id=instance_id))
    assert (failed.reason, failed.metadata["status"]) == ("NO_RUNNING_INSTANCE", "suspended")
    await delete(grpc_stub, owner, made.id)
    assert (await failure(show(grpc_stub, owner, made.id))).reason == "NOT_FOUND"


async def test_delete_names_those_that_run_there_too_and_the_last_takes_the_instance_along(
    grpc_stub: Any, grpc_channel: Any, owner: Any, instance_id: str, runtime: LocalRuntime
) -> None:
    first, second = [await running(grpc_stub, owner, name=name) for name in ("first", "second")]
    failed = await failure(delete(grpc_stub, owner, first.id))
    assert (failed.reason, failed.http, failed.metadata["deployments"]) == ("INSTANCE_IN_USE", 409, "second")
    assert sorted(await listed(grpc_stub, owner)) == sorted([first.id, second.id])
    instances: Any = InstancesServiceStub(grpc_channel)
    await instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(instance_id=instance_id), metadata=owner)
    assert await listed(grpc_stub, owner) == []
    again = await running_instance(grpc_channel, owner)
    third = await running(grpc_stub, owner, name="first")
    assert third.engine_instance_id == again
    await delete(grpc_stub, owner, third.id)
    assert await listed(grpc_stub, owner) == []
    request = instances_pb2.GetInstanceRequest(instance_id=again)
    assert (await failure(instances.GetInstance(request, metadata=owner))).reason == "NOT_FOUND"

    async def destroyed() -> bool:
        return again not in [engine.instance_id for engine in await runtime.engines()]

    await eventually(destroyed)


async def test_if_match_and_waiting(grpc_stub: Any, owner: Any, instance_id: str) -> None:
    made = await running(grpc_stub, owner)
    request = pb.DeleteDeploymentRequest(deployment_id=made.id)
    failed = await failure(grpc_stub.DeleteDeployment(request, metadata=(*owner, ("if-match", '"1"'))))
    assert (failed.reason, failed.metadata["resource_version"]) == ("VERSION_MISMATCH", "2")
    failed = await failure(show(grpc_stub, owner, made.id, wait="61s"))
    assert failed.fields == ("wait",)
    await grpc_stub.DeleteDeployment(request, metadata=(*owner, ("if-match", '"2"')))


async def test_a_key_of_one_instance_sees_and_makes_what_runs_there(
    grpc_stub: Any, grpc_channel: Any, owner: Any, instance_id: str
) -> None:
    keys: Any = ApiKeysServiceStub(grpc_channel)
    request = api_keys_pb2.CreateApiKeyRequest(name="one", environment="live", instance_id=instance_id)
    key = await keys.CreateApiKey(request, metadata=owner)
    bearer = (("authorization", f"Bearer {key.key}"),)
    made = await running(grpc_stub, bearer)
    assert await listed(grpc_stub, bearer) == [made.id]
    await delete(grpc_stub, bearer, made.id)
    assert (await failure(deploy(grpc_stub, bearer))).reason == "NO_RUNNING_INSTANCE"


async def test_the_same_idempotency_key_deploys_once_and_answers_the_same(
    grpc_stub: Any, owner: Any, instance_id: str
) -> None:
    keyed = (*owner, ("idempotency-key", "only-once"))
    first, again = await deploy(grpc_stub, keyed), deploy(grpc_stub, keyed)
    assert (await again).SerializeToString() == first.SerializeToString()
    assert dict(await again.initial_metadata())["idempotent-replayed"] == "true"
    assert await listed(grpc_stub, owner) == [first.id]
    assert (await failure(deploy(grpc_stub, keyed, name="other"))).reason == "IDEMPOTENCY_MISMATCH"


async def test_the_engine_holds_what_was_deployed(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str, instance_id: str
) -> None:
    made = await running(grpc_stub, owner, secrets={"authorization": "sk-very-secret"})
    async with grpc_server.database.read() as tx:
        instance, keys = await tx.instances.find(instance_id), await tx.instances.keys(instance_id)
    assert instance is not None
    headers = {"x-api-key": keys.engine_key, "x-tenant-id": org}
    base = f"http://{instance.host}:{instance.port}/api/v1"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as engine:
        (sequence,) = (await engine.get("/sequences")).json()["items"]
        (trigger,) = (await engine.get("/triggers")).json()
        (credential,) = (await engine.get("/credentials")).json()
    slug = made.webhook_url.rpartition("/")[2]
    assert (sequence["name"], sequence["tenant_id"], sequence["version"]) == (slug, org, 1)
    assert (trigger["slug"], trigger["sequence_name"]) == (slug, slug)
    assert f"credentials://{credential['id']}" in str(sequence["blocks"])
    assert CONFIG["url"] in str(sequence["blocks"])


async def test_nobody_without_a_credential(grpc_stub: Any) -> None:
    failed = await failure(deploy(grpc_stub, ()))
    assert failed.code is grpc.StatusCode.UNAUTHENTICATED
