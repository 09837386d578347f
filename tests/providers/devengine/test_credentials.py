from typing import Any

import pytest

from tests.providers.devengine.running import TENANT, RunningEngine

PATH = "/api/v1/credentials"
VALUE = "very-secret-value"


def credential(**changes: Any) -> dict[str, Any]:
    return {"id": "mail", "name": "Mail", "value": VALUE, "tenant_id": TENANT, **changes}


def test_create_read_change_delete(engine: RunningEngine) -> None:
    created = engine.http.post(PATH, json=credential(id="life"))
    assert (created.status_code, created.json()["value"]) == (201, "[REDACTED]")
    changed = engine.http.patch(f"{PATH}/life", json={"name": "Post", "value": "other-secret", "enabled": False})
    assert (changed.json()["name"], changed.json()["enabled"], changed.json()["kind"]) == ("Post", False, "api_key")
    assert engine.http.get(f"{PATH}/life").json() == changed.json()
    assert "life" in [item["id"] for item in engine.http.get(PATH).json()]
    assert engine.http.get(PATH, headers={"x-tenant-id": "nobody"}).json() == []
    assert engine.http.patch(f"{PATH}/life", json={"name": "x"}, headers={"x-tenant-id": "nobody"}).status_code == 404
    assert engine.http.delete(f"{PATH}/life").status_code == 204
    assert engine.http.delete(f"{PATH}/life").status_code == 404
    everything = created.text + changed.text + engine.log.read_text()
    stored = b"".join(path.read_bytes() for path in engine.folder.glob("orch8.db*"))
    for secret in (VALUE, "other-secret"):
        assert secret not in everything
        assert secret.encode() not in stored


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"value": ""}, 400),
        ({"id": "a/b"}, 400),
        ({"id": ""}, 400),
        ({"kind": "odd"}, 422),
        ({"value": 1}, 422),
        ({"tenant_id": "other"}, 403),
        ({"refresh_url": "https://x"}, 501),
        ({"expires_at": "soon"}, 422),
    ],
)
def test_refusals(engine: RunningEngine, changes: dict[str, Any], status: int) -> None:
    assert engine.http.post(PATH, json=credential(**changes)).status_code == status


def test_ids_are_taken_once(engine: RunningEngine) -> None:
    answers = [engine.http.post(PATH, json=credential(id="once")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 409]
