"""Every row of the contract that is built, as an outsider calls it: through Envoy, over HTTP."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support.calls import eventually
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


async def create(http: httpx.AsyncClient, who: dict[str, str], name: str = "production") -> str:
    made = await http.post("/api/instances", json={"name": name, "region": "iad"}, headers=who)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def until(http: httpx.AsyncClient, who: dict[str, str], instance_id: str, status: str) -> dict[str, Any]:
    async def check() -> Any:
        found = (await http.get(f"/api/instances/{instance_id}", headers=who)).json()
        return found if found["status"] == status else None

    return dict(await eventually(check, 30))


async def test_life_of_an_instance(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    made = await http.post("/api/instances", json={"name": "production", "region": "fra"}, headers=owner)
    assert made.status_code == 201
    assert made.json() == {"id": made.json()["id"], "status": "provisioning", "error": None}
    instance_id = made.json()["id"]
    found = await until(http, owner, instance_id, "running")
    assert re.fullmatch(r"inst_[a-z0-9]{20}", found["id"])
    assert {key: found[key] for key in ("name", "region", "status", "error")} == {
        "name": "production",
        "region": "fra",
        "status": "running",
        "error": None,
    }
    assert re.fullmatch(TIME, found["created_at"])
    assert re.fullmatch(TIME, found["updated_at"])
    assert found["connection_url"].endswith(f"/api/tunnel/{instance_id}")
    assert (await http.get("/api/instances", headers=owner)).json() == [found]

    health = await http.get(f"/api/instances/{instance_id}/health", headers=owner)
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert re.match(r"\d+\.\d+", health.json()["version"])

    suspended = await http.patch(f"/api/instances/{instance_id}", json={"action": "suspend"}, headers=owner)
    assert (suspended.status_code, suspended.json()) == (200, {"status": "suspended"})
    assert int(suspended.headers["x-orch8-version"]) > 0
    again = await http.patch(f"/api/instances/{instance_id}", json={"action": "suspend"}, headers=owner)
    check_error(again, 409, "STATE_CONFLICT")
    check_error(await http.get(f"/api/instances/{instance_id}/health", headers=owner), 400, "NO_RUNNING_INSTANCE")

    resumed = await http.post(f"/api/instances/{instance_id}", json={"action": "resume"}, headers=owner)
    assert (resumed.status_code, resumed.json()) == (200, {"status": "running"})
    assert (await http.get(f"/api/instances/{instance_id}/health", headers=owner)).status_code == 200

    deleted = await http.delete(f"/api/instances/{instance_id}", headers=owner)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert "content-length" not in deleted.headers
    assert (await http.get("/api/instances", headers=owner)).json() == []
    check_error(await http.get(f"/api/instances/{instance_id}", headers=owner), 404, "NOT_FOUND")


async def test_taken_names_and_the_plan_limit(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    await create(http, owner)
    body = {"name": "production", "region": "iad"}
    check_error(await http.post("/api/instances", json=body, headers=owner), 409, "NAME_TAKEN")
    error = check_error(
        await http.post("/api/instances", json=body | {"name": "other"}, headers=owner), 402, "PLAN_LIMIT_REACHED"
    )
    assert error["details"][1]["@type"] == "type.googleapis.com/google.rpc.QuotaFailure"


BODIES = [
    (b"", "INVALID_ARGUMENT"),
    (b"{}", "INVALID_ARGUMENT"),
    (b"[]", "INVALID_ARGUMENT"),
    (b"{", "INVALID_ARGUMENT"),
    (b"null", "INVALID_ARGUMENT"),
    (b'"x"', "INVALID_ARGUMENT"),
    (b"\xff\xfe", "INVALID_ARGUMENT"),
    (b'{"name": 5, "region": "iad"}', "INVALID_ARGUMENT"),
    (b'{"name": ["ab"], "region": "iad"}', "INVALID_ARGUMENT"),
    (b'{"name": "ab", "region": {"a": 1}}', "INVALID_ARGUMENT"),
    (b'{"name": "A b", "region": "iad"}', "INVALID_ARGUMENT"),
    (b'{"name": "ab", "region": "moon"}', "INVALID_ARGUMENT"),
    (b'{"name": "ab", "region": null}', "INVALID_ARGUMENT"),
    (b'{"name": "ab", "region": "iad"} trailing', "INVALID_ARGUMENT"),
]


@pytest.mark.parametrize(("body", "reason"), BODIES)
async def test_wrong_bodies_are_400(http: httpx.AsyncClient, owner: dict[str, str], body: bytes, reason: str) -> None:
    headers = owner | {"content-type": "application/json"}
    check_error(await http.post("/api/instances", content=body, headers=headers), 400, reason)
    assert (await http.get("/api/instances", headers=owner)).json() == []


async def test_bad_request_names_the_fields(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    body = check_error(await http.post("/api/instances", json={"name": "A"}, headers=owner), 400, "INVALID_ARGUMENT")
    assert body["details"][1]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert [one["field"] for one in body["details"][1]["field_violations"]] == ["name", "region"]


async def test_large_bodies_and_unknown_queries_are_refused(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    body = {"name": "a" * 2_000_000, "region": "iad"}
    check_error(await http.post("/api/instances", json=body, headers=owner), 413, "PAYLOAD_TOO_LARGE")
    check_error(await http.get("/api/instances?limit=3", headers=owner), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/instances"),
        ("DELETE", "/api/instances"),
        ("GET", "/api/instances/"),
        ("GET", "/api/nothing"),
        ("GET", "/"),
        ("POST", "/api/organization"),
        ("GET", "/api/gateway/inst_x"),
        ("GET", "/api/gateway/inst_x/slug/deeper"),
        ("GET", "/orch8cloud.dataplane.v1.DataPlaneService/GetRoute"),
        ("POST", "/orch8cloud.dataplane.v1.DataPlaneService/GetRoute"),
    ],
)
async def test_unknown_paths_and_methods_are_404(
    http: httpx.AsyncClient, owner: dict[str, str], method: str, path: str
) -> None:
    check_error(await http.request(method, path, headers=owner), 404, "NOT_FOUND")


async def test_another_organizations_resources_do_not_exist(
    http: httpx.AsyncClient, owner: dict[str, str], bearer: Callable[..., dict[str, str]]
) -> None:
    instance_id = await create(http, owner)
    policies = f"/api/instances/{instance_id}/policies"
    policy = (await http.post(policies, json={"provider": "anonymous"}, headers=owner)).json()
    key = (await http.post("/api/api-keys", json={"name": "k", "environment": "live"}, headers=owner)).json()
    stranger = bearer("org_strangers")
    for method, path, body in (
        ("GET", f"/api/instances/{instance_id}", None),
        ("PATCH", f"/api/instances/{instance_id}", {"action": "suspend"}),
        ("DELETE", f"/api/instances/{instance_id}", None),
        ("GET", f"/api/instances/{instance_id}/health", None),
        ("GET", policies, None),
        ("POST", policies, {"provider": "anonymous"}),
        ("PATCH", f"{policies}/{policy['id']}", {"enabled": False}),
        ("DELETE", f"{policies}/{policy['id']}", None),
        ("DELETE", f"/api/api-keys/{key['id']}", None),
    ):
        answer = await http.request(method, path, json=body, headers=stranger)
        check_error(answer, 404, "NOT_FOUND")
    assert (await http.get("/api/instances", headers=stranger)).json() == []
    assert (await http.get("/api/api-keys", headers=stranger)).json() == []


async def test_life_of_a_key(http: httpx.AsyncClient, owner: dict[str, str], stack: Stack) -> None:
    made = await http.post("/api/api-keys", json={"name": "ci", "environment": "test"}, headers=owner)
    assert made.status_code == 201
    body = made.json()
    assert list(body) == [
        "id", "name", "prefix", "environment", "instance_id", "created_at", "last_used_at", "expires_at",
        "revoked_at", "key", "resource_version",
    ]  # fmt: skip
    assert body["key"].startswith(body["prefix"])
    program = {"Authorization": f"Bearer {body['key']}"}
    assert (await http.get("/api/instances", headers=program)).json() == []
    for method, path in (("GET", "/api/api-keys"), ("POST", "/api/api-keys"), ("GET", "/api/organization")):
        answer = await http.request(method, path, json={} if method == "POST" else None, headers=program)
        check_error(answer, 403, "PERMISSION_DENIED")
    listed = (await http.get("/api/api-keys", headers=owner)).json()
    assert listed == [{name: value for name, value in body.items() if name != "key"}]

    assert (await http.delete(f"/api/api-keys/{body['id']}", headers=owner)).status_code == 204
    check_error(await http.get("/api/instances", headers=program), 401, "KEY_REVOKED")
    assert body["key"] not in stack.printed()


async def test_policies(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    path = f"/api/instances/{await create(http, owner)}/policies"
    made = await http.post(path, json={"provider": "api-key", "slug": "stripe-webhook"}, headers=owner)
    assert made.status_code == 201
    body = made.json()
    assert {name: body[name] for name in ("slug", "audience", "issuer", "allow", "config", "enabled")} == {
        "slug": "stripe-webhook",
        "audience": None,
        "issuer": None,
        "allow": [],
        "config": {},
        "enabled": True,
    }
    changed = await http.patch(
        f"{path}/{body['id']}", json={"enabled": False, "allow": [{"sub": "user-123"}]}, headers=owner
    )
    assert changed.status_code == 200
    assert changed.json()["allow"] == [{"sub": "user-123"}]
    assert changed.json()["enabled"] is False
    assert changed.json()["slug"] == "stripe-webhook"
    assert (await http.get(path, headers=owner)).json() == {"items": [changed.json()]}
    bad = await http.post(path, json={"provider": "api-key", "allow": [{"sub": "a"}, {}]}, headers=owner)
    assert check_error(bad, 422, "POLICY_INVALID")["details"][1]["field_violations"][0]["field"] == "allow[1]"
    assert (await http.delete(f"{path}/{body['id']}", headers=owner)).status_code == 204
    assert (await http.get(path, headers=owner)).json() == {"items": []}


async def test_organization_by_the_printed_cookie(http: httpx.AsyncClient, stack: Stack) -> None:
    answer = await http.get("/api/organization", headers={"Cookie": stack.ready["session_cookie"]})
    assert answer.json() == {
        "id": stack.ready["org_id"],
        "name": stack.ready["org_id"],
        "plan": "free",
        "role": "owner",
        "limits": {"running_instances": 1, "executions_per_month": 1000, "templates": ["free"]},
    }
    by_token = await http.get("/api/organization", headers={"Authorization": f"Bearer {stack.ready['access_token']}"})
    assert by_token.json() == answer.json()


async def test_no_or_bad_credentials_are_401(http: httpx.AsyncClient) -> None:
    check_error(await http.get("/api/instances"), 401, "UNAUTHENTICATED")
    check_error(await http.get("/api/instances", headers={"Authorization": "Bearer nonsense"}), 401, "TOKEN_INVALID")
    check_error(
        await http.get("/api/instances", headers={"Cookie": "sb-orch8-auth-token=base64-e30"}), 401, "UNAUTHENTICATED"
    )


async def test_foreign_pages_cannot_write_with_the_cookie(http: httpx.AsyncClient, stack: Stack) -> None:
    headers = {"Cookie": stack.ready["session_cookie"], "Origin": "https://evil.example"}
    answer = await http.post("/api/instances", json={"name": "ab", "region": "iad"}, headers=headers)
    check_error(answer, 403, "PERMISSION_DENIED")
    forged = headers | {"x-orch8-host": "evil.example"}
    check_error(
        await http.post("/api/instances", json={"name": "ab", "region": "iad"}, headers=forged),
        403,
        "PERMISSION_DENIED",
    )
    own = headers | {"Origin": stack.url}
    check_error(
        await http.post("/api/instances", json={"name": "ab", "region": "iad"}, headers=own), 402, "PLAN_LIMIT_REACHED"
    )


async def test_liveness_and_readiness(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "proxies": 1})


async def test_requests_carry_an_id_and_no_internals_come_back(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    answer = await http.get("/api/instances", headers=owner | {"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    internals = [name for name in answer.headers if name.startswith(("grpc-", "x-envoy-", "x-http-"))]
    assert internals == []
    assert "server" not in answer.headers


async def two_keys(http: httpx.AsyncClient, owner: dict[str, str]) -> list[dict[str, Any]]:
    made = [await http.post("/api/api-keys", json={"name": "k", "environment": "live"}, headers=owner) for _ in "ab"]
    return [answer.json() for answer in made]


async def usable(http: httpx.AsyncClient, key: dict[str, Any]) -> bool:
    return (await http.get("/api/instances", headers={"Authorization": f"Bearer {key['key']}"})).status_code == 200


async def test_path_names_the_resource_whatever_query_and_body_say(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    first, second = await two_keys(http, owner)
    path = f"/api/api-keys/{first['id']}"
    check_error(await http.delete(f"{path}?api_key_id={second['id']}", headers=owner), 400, "INVALID_ARGUMENT")
    instance_id = await create(http, owner)
    for body in ({"action": "suspend", "instance_id": "inst_other"}, {"provider": "anonymous", "instance_id": "x"}):
        where = f"/api/instances/{instance_id}{'/policies' if 'provider' in body else ''}"
        check_error(await http.post(where, json=body, headers=owner), 400, "INVALID_ARGUMENT")
    assert await usable(http, first)
    assert await usable(http, second)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"])
async def test_grpc_on_a_rest_path_is_refused_in_plain_http(
    http: httpx.AsyncClient, owner: dict[str, str], key: dict[str, str], tunnel: str, kind: str
) -> None:
    first, _ = await two_keys(http, owner)
    headers = owner | {"content-type": kind}
    check_error(await http.delete(f"/api/api-keys/{first['id']}", headers=headers), 400, "INVALID_ARGUMENT")
    check_error(await http.post("/api/instances", headers={"content-type": kind}), 400, "INVALID_ARGUMENT")
    for path in ("/api/instances", "/healthz", "/api/nothing"):
        check_error(await http.get(path, headers=headers), 400, "INVALID_ARGUMENT")
    check_error(await http.get(f"{tunnel}/info", headers=key | {"content-type": kind}), 400, "INVALID_ARGUMENT")
    assert await usable(http, first)


@pytest.mark.parametrize("path", ["/api/instances/%ff", "/api/instances/%ff/health"])
async def test_bytes_that_are_no_text_are_400(http: httpx.AsyncClient, owner: dict[str, str], path: str) -> None:
    check_error(await http.get(path, headers=owner), 400, "INVALID_ARGUMENT")
    check_error(await http.get(path), 401, "UNAUTHENTICATED")
