"""A CI job's token drives the engine through the tunnel: policy by REST, issuer over HTTP, decision behind Envoy."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support.issuer import Issuer, running_issuer
from tests.support.stack import Stack, running_stack

GITHUB = "https://token.actions.githubusercontent.com"


@pytest.fixture
async def github() -> AsyncIterator[Issuer]:
    async with running_issuer(GITHUB) as issuer:
        yield issuer


@pytest.fixture
async def world(tmp_path: Path, github: Issuer) -> AsyncIterator[tuple[Stack, httpx.AsyncClient]]:
    env = {"ORCH8_DEV_ALLOW_LOOPBACK": "1", "ORCH8_DEV_DISCOVERY": json.dumps({GITHUB: github.url})}
    async with (
        running_stack(tmp_path, env=env) as stack,
        httpx.AsyncClient(base_url=stack.url, timeout=30) as http,
    ):
        yield stack, http


async def test_ci_job_calls_the_engine(world: tuple[Stack, httpx.AsyncClient], github: Issuer) -> None:
    stack, http = world
    key = {"Authorization": f"Bearer {stack.ready['api_key']}"}
    policies = f"/api/instances/{stack.ready['instance_id']}/policies"
    tunnel = f"/api/tunnel/{stack.ready['instance_id']}/info"

    async def call(**claims: Any) -> httpx.Response:
        return await http.get(tunnel, headers={"Authorization": f"Bearer {github.sign(**claims)}"})

    check_error(await call(repository_id="1"), 401, "UNAUTHENTICATED")
    made = await http.post(policies, json={"provider": "github-oidc"}, headers=key)
    assert made.status_code == 201
    assert [one["reason"] for one in made.json()["warnings"]] == ["SHARED_ISSUER_OPEN", "AUDIENCE_MISSING"]
    assert (await call(repository_id="1")).status_code == 200
    better = {"audience": "orch8", "allow": [{"repository_id": "1"}]}
    changed = await http.patch(f"{policies}/{made.json()['id']}", json=better, headers=key)
    assert changed.json()["warnings"] == []
    assert (await call(repository_id="1")).status_code == 200
    check_error(await call(repository_id="2"), 403, "RULE_MISMATCH")
    check_error(await call(repository_id="1", aud="other"), 401, "TOKEN_INVALID")
    check_error(await call(repository_id="1", exp=1), 401, "TOKEN_INVALID")
    check_error(await http.get(tunnel, headers=key), 401, "UNAUTHENTICATED")
    question = {"token": github.sign(repository_id="2"), "path": "/info"}
    why = (await http.post(f"{policies}:explain", json=question, headers=key)).json()
    assert (why["allowed"], why["status"], why["reason"]) == (False, 403, "RULE_MISMATCH")
    assert why["nearest_miss"]["message"] == "repository_id is '2', and the rule wants '1'."
    assert (await http.delete(f"{policies}/{made.json()['id']}", headers=key)).status_code == 204
    check_error(await call(repository_id="1"), 401, "UNAUTHENTICATED")
    assert (await http.get(tunnel, headers=key)).status_code == 200
    engine_log = next((stack.data_dir / "engines").glob("*/*.log")).read_text()
    assert '"x-gateway-provider": "github-oidc"' in engine_log or "github-oidc" in engine_log
