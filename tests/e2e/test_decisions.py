"""From the id in a caller's answer to the record that the organization reads, through the real product."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support.calls import eventually
from tests.support.issuer import Issuer, running_issuer
from tests.support.stack import Stack, running_stack

GITHUB = "https://token.actions.githubusercontent.com"


@pytest.fixture
async def github() -> AsyncIterator[Issuer]:
    async with running_issuer(GITHUB) as issuer:
        yield issuer


async def record(http: httpx.AsyncClient, who: dict[str, str], answer: httpx.Response) -> dict[str, Any]:
    """The record of an answer, which takes a moment to arrive."""

    async def found() -> Any:
        got = await http.get(f"/api/decisions/{answer.headers['x-orch8-decision-id']}", headers=who)
        return got if got.status_code == 200 else None

    body: dict[str, Any] = (await eventually(found, 20)).json()
    assert body["id"] == answer.headers["x-orch8-decision-id"]
    credential = answer.request.headers.get("authorization", "Bearer none-was-sent")
    assert credential.rpartition(" ")[2] not in json.dumps(body)
    return body


@pytest.mark.asyncio(loop_scope="session")
async def test_a_refusal_is_explained_to_members_only(
    http: httpx.AsyncClient,
    stack: Stack,
    key: dict[str, str],
    tunnel: str,
    owner: dict[str, str],
    bearer: Callable[..., dict[str, str]],
) -> None:
    member = bearer(stack.ready["org_id"], "member")
    refused = await http.delete(f"{tunnel}/a/b?secret=1", headers={"Authorization": f"Bearer orc8_live_{'x' * 49}"})
    check_error(refused, 401, "UNAUTHENTICATED")
    found = await record(http, member, refused)
    assert {name: found[name] for name in found if name not in ("id", "time")} == {
        "instance_id": stack.ready["instance_id"],
        "method": "DELETE",
        "path": f"{tunnel}/a/b",
        "slug": None,
        "provider": None,
        "subject": None,
        "claims": None,
        "allowed": False,
        "status": 401,
        "reason": "UNAUTHENTICATED",
        "policies": [],
        "nearest_miss": {"policy_id": None, "rule": None, "message": "There is no such API key.", "conditions": []},
        "cut": [],
    }
    address = f"/api/decisions/{found['id']}"
    check_error(await http.get(address, headers=owner), 404, "NOT_FOUND")
    check_error(await http.get(address, headers=key), 403, "PERMISSION_DENIED")
    check_error(await http.get(address), 401, "UNAUTHENTICATED")
    check_error(await http.get(f"/api/decisions/dec_{'0' * 20}", headers=member), 404, "NOT_FOUND")
    missing = await http.post(f"/api/gateway/{stack.ready['instance_id']}/no-{uuid4().hex}")
    check_error(missing, 404, "NOT_FOUND")
    assert (await record(http, member, missing))["reason"] == "NOT_FOUND"
    nowhere = await http.get("/api/tunnel/inst_nothing/x")
    check_error(nowhere, 404, "NOT_FOUND")
    assert nowhere.headers["x-orch8-decision-id"]


async def test_every_request_is_recorded_where_the_sample_is_all(tmp_path: Path, github: Issuer) -> None:
    env = {
        "ORCH8_DECISION_SAMPLE": "1",
        "ORCH8_DEV_ALLOW_LOOPBACK": "1",
        "ORCH8_DEV_DISCOVERY": json.dumps({GITHUB: github.url}),
    }
    async with (
        running_stack(tmp_path, env=env) as stack,
        httpx.AsyncClient(base_url=stack.url, timeout=30) as http,
    ):
        member = {"Authorization": f"Bearer {stack.ready['access_token']}"}
        program = {"Authorization": f"Bearer {stack.ready['api_key']}"}
        instance = stack.ready["instance_id"]
        passed = [await http.get(f"/api/tunnel/{instance}/info", headers=program) for _ in range(5)]
        assert [one.status_code for one in passed] == [200] * 5
        for one in passed:
            found = await record(http, member, one)
            assert (found["allowed"], found["status"], found["reason"]) == (True, 200, None)
            assert (found["provider"], found["subject"]) == ("api-key", stack.ready["api_key"][:18])
            assert set(found["claims"]) == {"sub", "org_id", "key_id"}
            assert [policy["policy_id"] for policy in found["policies"]] == ["default"]
        policies = f"/api/instances/{instance}/policies"
        policy = {"provider": "github-oidc", "audience": "orch8", "allow": [{"repository_id": "1"}]}
        made = (await http.post(policies, json=policy, headers=member)).json()
        token = github.sign(repository_id="2", nested={"list": [1, {"deep": True}]})
        refused = await http.get(f"/api/tunnel/{instance}/info", headers={"Authorization": f"Bearer {token}"})
        check_error(refused, 403, "RULE_MISMATCH")
        found = await record(http, member, refused)
        assert found["claims"]["nested"] == {"list": [1, {"deep": True}]}
        assert found["subject"] == found["claims"]["sub"]
        question = {"token": token, "path": "/info"}
        why = (await http.post(f"{policies}:explain", json=question, headers=member)).json()
        assert {name: found[name] for name in why} == why, "explained as it was decided"
        assert found["nearest_miss"]["policy_id"] == made["id"]
        assert token not in (tmp_path / "data" / "orch8.db").read_bytes().decode("latin-1")
