"""Who may pass, for whom, and what every answer carries."""

import json

import httpx
import pytest

from tests.providers.devengine.running import KEY, RunningEngine, sequence, step


def test_starts_fast(engine: RunningEngine) -> None:
    # 0.8 s on a quiet machine; the rest is for a busy one.
    assert engine.ready_after < 3


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_is_public_and_empty(engine: RunningEngine, path: str) -> None:
    answer = engine.anyone.get(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "deprecation" not in answer.headers


def test_info(engine: RunningEngine) -> None:
    info = engine.anyone.get("/info").json()
    assert info["version"] == "0.7.1+dev"
    assert info["env_label"] == "tests"
    assert set(info) == {"version", "storage_schema_version", "contract_schema_version", "env_label", "env_color"}


@pytest.mark.parametrize("path", ["/api/v1/health/live", "/api/v1/info", "/api/v1/nothing", "/nothing"])
def test_unknown_paths(engine: RunningEngine, path: str) -> None:
    answer = engine.http.get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "not found: no such route"})


def test_public_webhook_is_not_under_the_prefix(engine: RunningEngine) -> None:
    assert engine.http.post("/api/v1/webhooks/some", json={}).status_code == 404


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs", "/api-keys", "/api/v1/sequences/versions/x", "/api/v1/mobile/devices"]
)
def test_what_only_the_real_engine_has(engine: RunningEngine, path: str) -> None:
    answer = engine.http.get(path)
    assert answer.status_code == 501
    assert answer.json()["error"].startswith("not implemented by the development engine: GET /")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": f"Bearer {KEY}"}, {"x-api-key": ""}])
def test_no_key_is_401_and_empty(engine: RunningEngine, headers: dict[str, str]) -> None:
    answer = engine.anyone.get("/api/v1/sequences", headers={"x-tenant-id": "acme", **headers})
    assert (answer.status_code, answer.content) == (401, b"")


def test_no_tenant_is_400_and_empty(engine: RunningEngine) -> None:
    answer = engine.anyone.get("/api/v1/sequences", headers={"x-api-key": KEY})
    assert (answer.status_code, answer.content) == (400, b"")


def test_the_bare_mount_is_deprecated(engine: RunningEngine) -> None:
    answer = engine.http.get("/sequences?limit=1")
    assert answer.headers["deprecation"] == "@1767225600"
    assert answer.headers["sunset"] == "Sat, 01 Jan 2028 00:00:00 GMT"
    assert answer.headers["link"] == '</api/v1/sequences>; rel="successor-version"'
    assert "deprecation" not in engine.http.get("/api/v1/sequences").headers


def test_a_foreign_tenant_sees_nothing(engine: RunningEngine) -> None:
    instance_id = engine.run(step("a", "noop"))
    sequence_id = engine.instance(instance_id)["sequence_id"]
    stranger = {"x-tenant-id": "stranger"}
    for path in (f"/instances/{instance_id}", f"/instances/{instance_id}/stream", f"/sequences/{sequence_id}"):
        assert engine.http.get("/api/v1" + path, headers=stranger).status_code == 404
    answer = engine.http.get("/api/v1/instances?tenant_id=acme&limit=1000", headers=stranger)
    assert answer.json() == {"items": [], "has_more": False}


def test_a_body_for_another_tenant_is_forbidden(engine: RunningEngine) -> None:
    answer = engine.http.post("/api/v1/sequences", json=sequence(step("a", "noop"), tenant_id="other"))
    assert answer.status_code == 403
    assert answer.json() == {"error": "forbidden: tenant_id in body does not match X-Tenant-Id header"}


def test_request_ids(engine: RunningEngine) -> None:
    assert engine.anyone.get("/info", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert len(engine.anyone.get("/info").headers["x-request-id"]) == 36


def test_the_log_tells_of_a_request_but_no_key(engine: RunningEngine) -> None:
    headers = {"x-gateway-provider": "github", "x-gateway-subject": "repo:a/b", "x-request-id": "log-1"}
    engine.http.get("/api/v1/sequences?x=1", headers=headers)
    line = next(line for line in engine.lines() if line.get("x-request-id") == "log-1")
    expected = {"method": "GET", "path": "/api/v1/sequences", "status": 200, "x-gateway-provider": "github"}
    assert expected.items() <= line.items()
    assert line["x-gateway-subject"] == "repo:a/b"
    assert line["x-tenant-id"] == "acme"
    assert KEY not in engine.log.read_text()


def test_workers_have_nothing_to_do(engine: RunningEngine) -> None:
    body = {"handler_name": "h", "worker_id": "w", "limit": 5}
    answer = engine.http.post("/workers/tasks/poll", json=body)
    assert (answer.status_code, answer.json()) == (200, [])
    assert engine.http.post("/workers/tasks/poll", json={}).status_code == 422


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{", "application/json", 400),
        (b"NaN", "application/json", 400),
        (b'{"a":"\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"{}", "application/json; charset=utf-8", 422),
    ],
)
def test_bodies_that_do_not_decode(engine: RunningEngine, content: bytes, media_type: str, status: int) -> None:
    answer = engine.http.post("/api/v1/sequences", content=content, headers={"content-type": media_type})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_body_above_10_mib(engine: RunningEngine) -> None:
    body = json.dumps({"x": "x" * (10 * 1024 * 1024)}).encode()
    answer: httpx.Response = engine.http.post(
        "/api/v1/sequences", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("payload too large: ")
