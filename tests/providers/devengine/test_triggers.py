"""Triggers, and the public webhook in front of them."""

import re
import socket
import time
import uuid
from typing import Any

import pytest

from server.providers.runtime.devengine.routes.webhooks import signature
from tests.providers.devengine.running import TENANT, RunningEngine, eventually, step

PATH = "/api/v1/triggers"
SECRET = "trigger-secret-example"


def new_trigger(engine: RunningEngine, **changes: Any) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    engine.sequence(step("a", "transform", {"got": "{{context.data}}"}), name=name)
    body = {"slug": name, "sequence_name": name, "tenant_id": TENANT, "secret": SECRET, **changes}
    answer = engine.http.post(PATH, json={key: value for key, value in body.items() if value is not None})
    assert answer.status_code == 201, answer.text
    return name


def signed(body: bytes, *, nonce: str | None = None, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    nonce, timestamp = nonce or uuid.uuid4().hex, str(int(time.time() if at is None else at))
    return {
        "x-trigger-timestamp": timestamp,
        "x-trigger-nonce": nonce,
        "x-orch8-signature": signature(secret, timestamp, nonce, body),
    }


def test_the_signature_is_the_engines() -> None:
    expected = "v1=hkv-12xiBGt3Vrv06dv1lBY583ebHFqoUQ0IOgy4F0M"
    assert signature(SECRET, "1700000000", "0123456789abcdef", b'{"a":1}') == expected


def test_create_read_delete(engine: RunningEngine) -> None:
    slug = new_trigger(engine, config={"a": 1})
    found = engine.http.get(f"{PATH}/{slug}").json()
    assert {"slug": slug, "secret": "[REDACTED]", "trigger_type": "webhook", "enabled": True}.items() <= found.items()
    assert (found["namespace"], found["config"], found["version"]) == ("default", {"a": 1}, None)
    assert slug in [item["slug"] for item in engine.http.get(PATH, params={"limit": 1000}).json()]
    assert engine.http.get(f"{PATH}/{slug}", headers={"x-tenant-id": "stranger"}).status_code == 404
    assert engine.http.delete(f"{PATH}/{slug}").status_code == 204
    assert engine.http.get(f"{PATH}/{slug}").status_code == 404
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in engine.folder.glob("orch8.db*"))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sequence_name": "no-such"}, 404),
        ({"slug": ""}, 400),
        ({"slug": "x" * 256}, 400),
        ({"secret": ""}, 400),
        ({"trigger_type": "nats"}, 501),
        ({"trigger_type": "odd"}, 422),
        ({"tenant_id": "other"}, 403),
        ({"version": "1"}, 422),
    ],
)
def test_create_refusals(engine: RunningEngine, changes: dict[str, Any], status: int) -> None:
    engine.http.post("/api/v1/sequences", json={})
    name = new_trigger(engine)
    body = {"slug": uuid.uuid4().hex, "sequence_name": name, "tenant_id": TENANT, **changes}
    assert engine.http.post(PATH, json=body).status_code == status


def test_slugs_are_taken_once(engine: RunningEngine) -> None:
    slug = new_trigger(engine)
    answer = engine.http.post(PATH, json={"slug": slug, "sequence_name": slug, "tenant_id": TENANT})
    assert (answer.status_code, answer.json()) == (409, {"error": f"already exists: trigger '{slug}'"})


def test_fire(engine: RunningEngine) -> None:
    slug = new_trigger(engine)
    assert engine.http.post(f"{PATH}/{slug}/fire", json={}).status_code == 401
    assert engine.http.post(f"{PATH}/{slug}/fire", json={}, headers={"x-trigger-secret": "no"}).status_code == 401
    answer = engine.http.post(f"{PATH}/{slug}/fire", json={"x": 1}, headers={"x-trigger-secret": SECRET})
    assert answer.status_code == 201
    assert (answer.json()["trigger"], answer.json()["sequence_name"]) == (slug, slug)
    engine.ended(answer.json()["instance_id"])
    assert engine.outputs(answer.json()["instance_id"]) == {"a": {"got": {"x": 1}}}
    assert engine.http.post(f"{PATH}/unknown/fire", json={}).status_code == 404


def test_fire_without_a_secret(engine: RunningEngine) -> None:
    slug = new_trigger(engine, secret=None, trigger_type="event")
    assert "secret" not in engine.http.get(f"{PATH}/{slug}").json()
    assert engine.http.post(f"{PATH}/{slug}/fire", json={}).status_code == 201


def test_webhook_starts_an_instance(engine: RunningEngine) -> None:
    slug, body = new_trigger(engine), b'{"event": "push", "n": 1.50}'
    answer = engine.anyone.post(f"/webhooks/{slug}", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["trigger"]) == (202, slug)
    assert "deprecation" not in answer.headers
    found = engine.ended(answer.json()["instance_id"])
    assert found["context"]["data"] == {"event": "push", "n": 1.5}
    assert found["metadata"] == {"source": "webhook", "trigger": slug}


def test_webhook_nonces_are_used_once(engine: RunningEngine) -> None:
    slug, headers = new_trigger(engine), signed(b"{}")
    answers = [engine.anyone.post(f"/webhooks/{slug}", content=b"{}", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 401]
    assert answers[1].json() == {"error": "unauthorized: webhook authentication failed"}
    eventually(lambda: any(line.get("reason") == "the nonce was used before" for line in engine.lines()))


@pytest.mark.parametrize(("skew", "status"), [(-290, 202), (-310, 401), (50, 202), (70, 401)])
def test_webhook_clock_skew(engine: RunningEngine, skew: float, status: int) -> None:
    headers = signed(b"{}", at=time.time() + skew)
    assert engine.anyone.post(f"/webhooks/{new_trigger(engine)}", content=b"{}", headers=headers).status_code == status


@pytest.mark.parametrize(
    "changes",
    [
        {"x-orch8-signature": ""},
        {"x-orch8-signature": "v1=AAAA"},
        {"x-orch8-signature": "é".encode().decode("latin-1")},
        {"x-trigger-nonce": "another-nonce-of-some-length"},
        {"x-trigger-nonce": "short"},
        {"x-trigger-timestamp": "now"},
        {"x-trigger-timestamp": ""},
    ],
)
def test_webhook_forgeries(engine: RunningEngine, changes: dict[str, str]) -> None:
    headers = {name.encode(): value.encode("latin-1") for name, value in {**signed(b"{}"), **changes}.items()}
    answer = engine.anyone.post(f"/webhooks/{new_trigger(engine)}", content=b"{}", headers=headers)
    assert answer.status_code == 401


def test_webhook_signs_the_exact_bytes(engine: RunningEngine) -> None:
    headers = signed(b'{"a":1}')
    answer = engine.anyone.post(f"/webhooks/{new_trigger(engine)}", content=b'{"a": 1}', headers=headers)
    assert answer.status_code == 401


def test_webhook_needs_a_trigger_with_a_secret(engine: RunningEngine) -> None:
    def post(slug: str) -> int:
        return engine.anyone.post(f"/webhooks/{slug}", content=b"{}", headers=signed(b"{}")).status_code

    assert post("unknown") == 404
    assert post(new_trigger(engine, trigger_type="event")) == 404
    assert post(new_trigger(engine, secret=None)) == 401


def test_webhook_bodies(engine: RunningEngine) -> None:
    slug = new_trigger(engine)
    form = b"a=1&b=2"
    assert engine.anyone.post(f"/webhooks/{slug}", content=form, headers=signed(form)).status_code == 400
    large = b'"' + b"x" * 1024 * 1024 + b'"'
    assert engine.anyone.post(f"/webhooks/{slug}", content=large, headers=signed(large)).status_code == 413


def _flood(engine: RunningEngine, requests: int) -> list[int]:
    """The statuses of so many webhooks, written at once on one connection."""
    one = f"POST /webhooks/flood-{uuid.uuid4().hex} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    last = "GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    url = engine.anyone.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        connection.sendall((one * requests + last).encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)][:-1]


def test_webhook_rate_limit(engine: RunningEngine) -> None:
    # More than twice the limit, so that one second at least sees too many.
    statuses = eventually(lambda: found if 429 in (found := _flood(engine, 700)) else None)
    assert set(statuses) == {404, 429}
    assert statuses.index(429) >= 300
    assert engine.anyone.post("/webhooks/another").status_code == 404
