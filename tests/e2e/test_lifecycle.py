"""Waiting, versions and Idempotency-Key as an outsider meets them: through Envoy, over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error

pytestmark = pytest.mark.asyncio(loop_scope="session")
BODY = {"name": "production", "region": "iad"}


async def running(http: httpx.AsyncClient, who: dict[str, str]) -> dict[str, Any]:
    made = await http.post("/api/instances", json=BODY, headers=who)
    found = await http.get(f"/api/instances/{made.json()['id']}?wait=60s", headers=who, timeout=70)
    assert found.json()["status"] == "running"
    return dict(found.json())


@pytest.mark.parametrize("wait", ["0s", "-1s", "61s", "1m", "30", "soon", "", "0.5h"])
async def test_wait_must_be_seconds_up_to_a_minute(http: httpx.AsyncClient, owner: dict[str, str], wait: str) -> None:
    check_error(await http.get(f"/api/instances/inst_x?wait={wait}", headers=owner), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("wait", ["60s", "0.5s", "1.500s"])
async def test_wait_ends_when_the_state_settles(http: httpx.AsyncClient, owner: dict[str, str], wait: str) -> None:
    found = await running(http, owner)
    again = await http.get(f"/api/instances/{found['id']}?wait={wait}", headers=owner, timeout=70)
    assert again.json() == found


async def test_etag_names_the_version_and_if_match_demands_it(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    found = await running(http, owner)
    path = f"/api/instances/{found['id']}"
    shown = await http.get(path, headers=owner)
    assert shown.headers["etag"] == f'"{found["resource_version"]}"'
    for tag in ('"0"', f"W/{shown.headers['etag']}", '"0", "77"'):
        stale = await http.patch(path, json={"action": "suspend"}, headers=owner | {"If-Match": tag})
        error = check_error(stale, 412, "VERSION_MISMATCH")
        assert error["details"][0]["metadata"]["resource_version"] == found["resource_version"]
    bad = await http.patch(path, json={"action": "suspend"}, headers=owner | {"If-Match": found["resource_version"]})
    check_error(bad, 400, "INVALID_ARGUMENT")
    good = owner | {"If-Match": f'"0", {shown.headers["etag"]}'}
    assert (await http.patch(path, json={"action": "suspend"}, headers=good)).json() == {"status": "suspended"}
    check_error(await http.delete(path, headers=good), 412, "VERSION_MISMATCH")
    assert (await http.delete(path, headers=owner | {"If-Match": "*"})).status_code == 204


async def test_versions_of_policies_and_keys(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    found = await running(http, owner)
    path = f"/api/instances/{found['id']}/policies"
    made = await http.post(path, json={"provider": "api-key"}, headers=owner)
    assert made.headers["etag"] == f'"{made.json()["resource_version"]}"'
    first = owner | {"If-Match": made.headers["etag"]}
    changed = await http.patch(f"{path}/{made.json()['id']}", json={"enabled": False}, headers=first)
    assert changed.headers["etag"] != made.headers["etag"]
    check_error(await http.delete(f"{path}/{made.json()['id']}", headers=first), 412, "VERSION_MISMATCH")
    key = await http.post("/api/api-keys", json={"name": "k", "environment": "live"}, headers=owner)
    revoke = f"/api/api-keys/{key.json()['id']}"
    check_error(await http.delete(revoke, headers=owner | {"If-Match": '"9"'}), 412, "VERSION_MISMATCH")
    assert (await http.delete(revoke, headers=owner | {"If-Match": key.headers["etag"]})).status_code == 204


async def test_same_post_is_answered_byte_for_byte(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    keyed = owner | {"Idempotency-Key": "one"}
    first = await http.post("/api/instances", json=BODY, headers=keyed)
    # The order of the members is not the request.
    again = await http.post("/api/instances", json=dict(reversed(BODY.items())), headers=keyed)
    assert (again.status_code, again.content) == (201, first.content)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    other = await http.post("/api/instances", json=BODY | {"region": "fra"}, headers=keyed)
    check_error(other, 409, "IDEMPOTENCY_MISMATCH")
    assert len((await http.get("/api/instances", headers=owner)).json()) == 1


async def test_objects_and_lists_of_a_policy_are_answered_byte_for_byte(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    """Protobuf's maps have no order of their own."""
    path = f"/api/instances/{(await running(http, owner))['id']}/policies"
    keyed = owner | {"Idempotency-Key": "one"}
    rule = {f"claim-{number}": f"value-{number}" for number in range(20)}
    body = {"provider": "oidc", "issuer": "https://issuer.example.com", "allow": [rule, {"sub": ["a", 1, True]}]}
    first = await http.post(path, json=body, headers=keyed)
    assert first.status_code == 201, first.text
    answers = [await http.post(path, json=body, headers=keyed) for _ in range(5)]
    assert {answer.content for answer in answers} == {first.content}
    assert {answer.headers["x-orch8-version"] for answer in answers} == {first.headers["x-orch8-version"]}
    assert len((await http.get(path, headers=owner)).json()["items"]) == 1


async def test_many_at_once_are_one(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    keyed = owner | {"Idempotency-Key": "one"}
    answers = await asyncio.gather(*(http.post("/api/instances", json=BODY, headers=keyed) for _ in range(10)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 9


async def test_refusals_of_the_state_are_answered_again_and_others_are_not(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    await http.post("/api/instances", json=BODY, headers=owner)
    keyed = owner | {"Idempotency-Key": "one"}
    wrong = await http.post("/api/instances", json={"name": "A"}, headers=keyed)
    check_error(wrong, 400, "INVALID_ARGUMENT")
    first, again = [await http.post("/api/instances", json=BODY, headers=keyed) for _ in range(2)]
    check_error(first, 409, "NAME_TAKEN")
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (409, first.content, "true")


async def test_plan_limit_is_answered_again_with_its_own_status(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    await http.post("/api/instances", json=BODY, headers=owner)
    keyed = owner | {"Idempotency-Key": "one"}
    answers = [await http.post("/api/instances", json=BODY | {"name": "other"}, headers=keyed) for _ in range(2)]
    for answer in answers:
        check_error(answer, 402, "PLAN_LIMIT_REACHED")
    assert answers[0].content == answers[1].content


async def test_post_on_an_instance_is_carried_out_once(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    path = f"/api/instances/{(await running(http, owner))['id']}"
    keyed = owner | {"Idempotency-Key": "one"}
    answers = [await http.post(path, json={"action": "suspend"}, headers=keyed) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"status": "suspended"})] * 2
    check_error(await http.post(path, json={"action": "suspend"}, headers=owner), 409, "STATE_CONFLICT")


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"\xc3\xa4"])
async def test_what_is_no_key_is_400(http: httpx.AsyncClient, owner: dict[str, str], key: bytes) -> None:
    headers = [(b"authorization", owner["Authorization"].encode()), (b"idempotency-key", key)]
    check_error(await http.post("/api/instances", json=BODY, headers=headers), 400, "INVALID_ARGUMENT")


async def test_opposite_wishes_at_once_end_in_one_of_them(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    path = f"/api/instances/{(await running(http, owner))['id']}"

    async def act(action: str) -> tuple[int, str]:
        answer = await http.post(path, json={"action": action}, headers=owner)
        return answer.status_code, action

    results = [await asyncio.gather(*(act(action) for action in ("suspend", "resume"))) for _ in range(3)]
    assert {status for pair in results for status, _ in pair} <= {200, 409}
    await http.post(path, json={"action": "resume"}, headers=owner)
    settled = await http.get(f"{path}?wait=60s", headers=owner, timeout=70)
    assert (settled.json()["status"], settled.json()["error"]) == ("running", None)
    assert (await http.get(f"{path}/health", headers=owner)).json()["status"] == "ok"
