"""Templates, as members, programs and strangers read them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from orch8cloud.v1 import api_keys_pb2
from orch8cloud.v1 import templates_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.templates_pb2_grpc import TemplatesServiceStub

from server.app import running
from server.configuration import StartFailed
from server.providers.templates.catalog import BUILT_IN, Catalog
from tests.support.calls import failure
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

CATALOG = Catalog.load([BUILT_IN])


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return TemplatesServiceStub


def mine(folder: Path, **changes: Any) -> Path:
    """A folder of an operator with one template."""
    template = json.loads((BUILT_IN / "webhook-to-http" / "template.json").read_text())
    template |= {"id": "tmpl_mine", "name": "mine", "sequence": {**template["sequence"], "name": "mine"}, **changes}
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "template.json").write_text(json.dumps(template))
    return folder


async def test_list(grpc_stub: Any, owner: Any) -> None:
    found = await grpc_stub.ListTemplates(pb.ListTemplatesRequest(), metadata=owner)
    assert [template.id for template in found.templates] == [template.id for template in CATALOG.all()]


async def test_get(grpc_stub: Any, owner: Any) -> None:
    for expected in CATALOG.all():
        request = pb.GetTemplateRequest(template_id=expected.id)
        found = MessageToDict(
            await grpc_stub.GetTemplate(request, metadata=owner), always_print_fields_with_no_presence=True
        )
        for name in ("name", "description", "plan", "config", "trigger", "sequence", "author"):
            assert found[name] == json.loads(json.dumps(getattr(expected, name))), name
        assert found["tags"] == list(expected.tags)
        assert found["secrets"] == [
            {"name": one.name, "description": one.description, "required": one.required} for one in expected.secrets
        ]


@pytest.mark.parametrize("template_id", ["tmpl_nothing", "", "../plans.toml", "approval"])
async def test_what_is_not_there(grpc_stub: Any, owner: Any, template_id: str) -> None:
    failed = await failure(grpc_stub.GetTemplate(pb.GetTemplateRequest(template_id=template_id), metadata=owner))
    assert (failed.http, failed.reason) == (404, "NOT_FOUND")


async def test_programs_may_read_and_strangers_may_not(
    grpc_stub: Any, grpc_channel: grpc.aio.Channel, owner: Any
) -> None:
    keys: Any = ApiKeysServiceStub(grpc_channel)
    made = await keys.CreateApiKey(api_keys_pb2.CreateApiKeyRequest(name="k", environment="test"), metadata=owner)
    program = (("authorization", f"Bearer {made.key}"),)
    assert (await grpc_stub.ListTemplates(pb.ListTemplatesRequest(), metadata=program)).templates
    request = pb.GetTemplateRequest(template_id="tmpl_fan_out")
    assert (await grpc_stub.GetTemplate(request, metadata=program)).name == "fan-out"
    assert (await failure(grpc_stub.GetTemplate(request))).reason == "UNAUTHENTICATED"
    assert (await failure(grpc_stub.ListTemplates(pb.ListTemplatesRequest()))).reason == "UNAUTHENTICATED"


async def test_the_catalog_is_for_everybody(grpc_stub: Any) -> None:
    found = await grpc_stub.GetCatalog(pb.GetCatalogRequest())
    assert found.schema_version == 1
    assert [template.name for template in found.templates] == [template.name for template in CATALOG.all()]
    assert {template.min_engine_version for template in found.templates} == {"0.7.1"}
    assert all(template.handlers.builtin and not template.handlers.workers for template in found.templates)


class TestOperators:
    """Folders that an operator adds."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def stub(self, tmp_path: Path) -> AsyncIterator[Any]:
        chosen = settings(tmp_path, template_dirs=(mine(tmp_path / "mine", author="Ana"),))
        async with (
            running(chosen, MemoryRuntime()) as app,
            grpc.aio.insecure_channel(str(app.address)) as channel,
        ):
            yield TemplatesServiceStub(channel)

    async def test_come_after_those_of_the_package(self, stub: Any, owner: Any) -> None:
        found = await stub.ListTemplates(pb.ListTemplatesRequest(), metadata=owner)
        assert [template.id for template in found.templates][len(CATALOG.all()) :] == ["tmpl_mine"]
        published = await stub.GetCatalog(pb.GetCatalogRequest())
        assert (published.templates[-1].name, published.templates[-1].author) == ("mine", "Ana")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"plan": "gold"}, "no plan may deploy templates of the plan 'gold'"),
            ({"secrets": []}, "the placeholder secrets.authorization refers to nothing"),
            ({"id": "tmpl_approval"}, f"'tmpl_approval' is taken by {BUILT_IN / 'approval' / 'template.json'}"),
        ],
    )
    async def test_a_broken_one_stops_the_start(self, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
        folder = mine(tmp_path / "mine", **changes)
        with pytest.raises(StartFailed) as refused:
            async with running(settings(tmp_path, template_dirs=(folder,)), MemoryRuntime()):
                pass
        assert str(refused.value) == f"ORCH8_TEMPLATE_DIRS: {folder / 'mine' / 'template.json'}: {reason}"
