"""Templates through Envoy: bare lists, plain numbers, and a catalog that needs no credential."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from server.domain.sequences import check
from server.providers.templates.catalog import BUILT_IN, Catalog
from tests.e2e.conftest import check_error
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

CATALOG = Catalog.load([BUILT_IN])


def numbers(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [one for item in (value.values() if isinstance(value, dict) else value) for one in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


async def test_templates_are_as_they_were_written(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    listed = await http.get("/api/templates", headers=owner)
    assert listed.status_code == 200
    for found, template in zip(listed.json(), CATALOG.all(), strict=True):
        file = json.loads((BUILT_IN / template.name / "template.json").read_text())
        assert found == {**file, "author": "orch8-cloud"}
        assert (await http.get(f"/api/templates/{template.id}", headers=owner)).json() == found


async def test_who_may_read_them(http: httpx.AsyncClient, owner: dict[str, str], key: dict[str, str]) -> None:
    assert (await http.get("/api/templates", headers=key)).status_code == 200
    assert (await http.get("/api/templates/tmpl_fan_out", headers=key)).json()["name"] == "fan-out"
    for path in ("/api/templates", "/api/templates/tmpl_fan_out"):
        check_error(await http.get(path), 401, "UNAUTHENTICATED")
    for template_id in ("tmpl_nothing", "approval", "tmpl_FAN_OUT", "%2e%2e"):
        check_error(await http.get(f"/api/templates/{template_id}", headers=owner), 404, "NOT_FOUND", named=False)


async def test_the_catalog_of_the_command_line(http: httpx.AsyncClient) -> None:
    found = await http.get("/api/catalog/templates")
    assert found.status_code == 200
    assert found.json().keys() == {"schema_version", "templates"}
    assert found.json()["schema_version"] == 1
    for entry, template in zip(found.json()["templates"], CATALOG.all(), strict=True):
        assert (entry["name"], entry["description"], entry["tags"]) == (
            template.name,
            template.description,
            list(template.tags),
        )
        assert entry.keys() >= {"author", "min_engine_version", "handlers", "requires", "sequence"}
        assert entry["handlers"].keys() == {"builtin", "workers"}
        sequence = entry["sequence"]
        assert (sequence["schema_version"], sequence["name"], sequence["namespace"]) == (1, template.name, "default")
        check(sequence)
        # The engine reads whole numbers, and none of our placeholders.
        assert all(isinstance(number, int) for number in numbers(sequence["blocks"]))
        assert "${" not in json.dumps(sequence)


async def test_an_engine_takes_what_the_catalog_has(
    http: httpx.AsyncClient, key: dict[str, str], stack: Stack, tunnel: str
) -> None:
    headers = {**key, "x-tenant-id": "acme"}
    stamp = {"tenant_id": "acme", "version": 1, "created_at": "2026-01-01T00:00:00Z"}
    for entry in (await http.get("/api/catalog/templates")).json()["templates"]:
        body = {**entry["sequence"], **stamp, "id": str(uuid4())}
        taken = await http.post(f"{tunnel}/sequences", json=body, headers=headers)
        assert taken.status_code == 201, taken.text
