"""A template becomes a workflow behind a webhook address, from outside, through Envoy and on a real engine."""

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support.calls import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")
EVENT = {"type": "order.paid", "order": {"id": 17, "total": 99.5, "note": "Grüße"}}


async def instance_of(http: httpx.AsyncClient, owner: dict[str, str]) -> str:
    made = await http.post("/api/instances", json={"name": "production", "region": "iad"}, headers=owner)
    assert made.status_code == 201, made.text
    instance_id = str(made.json()["id"])
    found = await http.get(f"/api/instances/{instance_id}?wait=60s", headers=owner, timeout=90)
    assert found.json()["status"] == "running"
    return instance_id


async def key_of(http: httpx.AsyncClient, owner: dict[str, str]) -> dict[str, str]:
    made = await http.post("/api/api-keys", json={"name": "caller", "environment": "live"}, headers=owner)
    return {"Authorization": f"Bearer {made.json()['key']}"}


async def test_deployed_template_runs_each_event_that_is_posted_to_its_webhook(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    instance_id, key = await instance_of(http, owner), await key_of(http, owner)
    wanted = {
        "template_id": "tmpl_webhook_to_http",
        "name": "orders",
        "config": {"url": f"{http.base_url}/healthz"},
        "secrets": {"authorization": "Bearer sk-very-secret"},
    }
    made = await http.post("/api/deployments", json=wanted, headers=key)
    assert made.status_code == 201, made.text
    deployment_id, webhook = made.json()["id"], made.json()["webhook_url"]
    found = (await http.get(f"/api/deployments/{deployment_id}?wait=60s", headers=key, timeout=90)).json()
    assert (found["status"], found["error"], found["webhook_url"]) == ("running", None, webhook)
    assert webhook.startswith(f"{http.base_url}/api/gateway/{instance_id}/orders-")
    assert "sk-very-secret" not in made.text + str(found)

    check_error(await http.post(webhook, json=EVENT), 401, "UNAUTHENTICATED")
    started = await http.post(webhook, json=EVENT, headers=key)
    assert started.status_code == 202, started.text
    run = f"/api/tunnel/{instance_id}/api/v1/instances/{started.json()['instance_id']}"
    assert (await http.get(run, headers=key)).json()["context"]["data"] == EVENT

    check_error(await http.post("/api/deployments", json=wanted, headers=owner), 409, "NAME_TAKEN")
    listed: list[dict[str, Any]] = (await http.get("/api/deployments", headers=owner)).json()
    assert [one["id"] for one in listed] == [deployment_id]

    gone = await http.delete(f"/api/deployments/{deployment_id}", headers=key)
    assert (gone.status_code, gone.text) == (204, "")
    check_error(await http.get(f"/api/deployments/{deployment_id}", headers=owner), 404, "NOT_FOUND")
    check_error(await http.post(webhook, json=EVENT, headers=key), 404, "NOT_FOUND")
    assert (await http.get("/api/instances", headers=owner)).json() == []


async def test_deployments_stay_and_say_who_is_in_the_way(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    wanted = {"template_id": "tmpl_webhook_to_http", "config": {"url": "https://example.com"}}
    check_error(await http.post("/api/deployments", json=wanted, headers=owner), 400, "NO_RUNNING_INSTANCE")
    await instance_of(http, owner)
    bad = check_error(
        await http.post("/api/deployments", json={**wanted, "config": {"url": 7}}, headers=owner),
        400,
        "INVALID_ARGUMENT",
    )
    assert bad["details"][1]["field_violations"][0]["field"] == "config.url"
    dear = {**wanted, "template_id": "tmpl_payment_dunning"}
    check_error(await http.post("/api/deployments", json=dear, headers=owner), 402, "PLAN_TOO_LOW")

    async def deployed() -> dict[str, Any]:
        answer = await http.post("/api/deployments", json=wanted, headers=owner)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    first, second = await deployed(), await deployed()
    assert (first["name"], second["name"]) == ("webhook-to-http", "webhook-to-http-2")
    error = check_error(await http.delete(f"/api/deployments/{first['id']}", headers=owner), 409, "INSTANCE_IN_USE")
    assert error["details"][0]["metadata"]["deployments"] == second["name"]

    async def both_run() -> bool:
        found = (await http.get("/api/deployments", headers=owner)).json()
        return [one["status"] for one in found] == ["running", "running"]

    await eventually(both_run)
