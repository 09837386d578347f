"""The curl commands of the published description, with real ids and keys in place of the sample ones."""

import asyncio
import json
import shlex
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.test_tunnel import sequence
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

TUNNEL_GET = """curl https://cloud.orch8.io/api/tunnel/inst_abc123/sequences \\
-H "Authorization: Bearer orc8_live_xxxxxxxxxxxxxxxx\""""
TUNNEL_POST = """curl https://cloud.orch8.io/api/tunnel/inst_abc123/sequences \\
-H "Authorization: Bearer orc8_live_xxxxxxxxxxxxxxxx" \\
-H "Content-Type: application/json" \\
-d '{
"tenant_id": "acme",
"namespace": "default",
"name": "welcome-campaign",
"definition": { "blocks": [...] }
}'"""
GATEWAY_POST = """curl https://cloud.orch8.io/api/gateway/inst_abc123/stripe-webhook \\
-X POST \\
-H "Authorization: Bearer orc8_live_xxxxxxxxxxxxxxxx" \\
-H "Content-Type: application/json" \\
-d '{ "type": "payment_intent.succeeded" }'"""


@dataclass
class Answer:
    status: int
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


async def curl(command: str, stack: Stack) -> Answer:
    """Runs a command of the page against this product."""
    real = (
        command.replace("https://cloud.orch8.io", stack.url)
        .replace("inst_abc123", stack.ready["instance_id"])
        .replace("orc8_live_xxxxxxxxxxxxxxxx", stack.ready["api_key"])
        .replace("\\\n", " ")
    )
    arguments = [*shlex.split(real), "--silent", "--show-error", "--write-out", "\n%{http_code}"]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    body, _, status = (await process.communicate())[0].decode().rpartition("\n")
    return Answer(int(status), body)


async def test_sequences_are_listed_through_the_tunnel(stack: Stack) -> None:
    answer = await curl(TUNNEL_GET, stack)
    assert answer.status == 200
    assert "items" in answer.json()


async def test_sequence_is_created_through_the_tunnel(stack: Stack) -> None:
    """The sample body lacks what engines from 0.7 need: the tunnel is transparent, so the engine's own answer comes."""
    sample = await curl(TUNNEL_POST.replace("[...]", "[]"), stack)
    assert sample.status == 422
    whole = TUNNEL_POST[: TUNNEL_POST.index("'{")] + shlex.quote(json.dumps(sequence("welcome-campaign")))
    assert (await curl(whole, stack)).status == 201


async def test_webhook_goes_through_the_gateway(
    stack: Stack, http: httpx.AsyncClient, key: dict[str, str], tunnel: str
) -> None:
    unknown = await curl(GATEWAY_POST, stack)
    assert (unknown.status, unknown.json()["details"][0]["reason"]) == (404, "NOT_FOUND")
    definition = sequence(f"paid-{uuid4().hex}")
    await http.post(f"{tunnel}/sequences", json=definition, headers=key)
    trigger = {"slug": "stripe-webhook", "sequence_name": definition["name"], "tenant_id": "acme", "secret": "s" * 32}
    assert (
        await http.post(f"{tunnel}/triggers", json=trigger | {"namespace": "default"}, headers=key)
    ).status_code == 201
    policy = {"slug": "stripe-webhook", "provider": "api-key", "config": {"trigger_secret": trigger["secret"]}}
    await http.post(f"/api/instances/{stack.ready['instance_id']}/policies", json=policy, headers=key)
    accepted = await curl(GATEWAY_POST, stack)
    assert accepted.status == 202
    refused = await curl(GATEWAY_POST.replace("orc8_live_xxxxxxxxxxxxxxxx", "orc8_live_nobody"), stack)
    assert (refused.status, refused.json()["code"]) == (401, 16)


async def test_management_calls_of_the_first_lines(stack: Stack) -> None:
    header = '-H "Authorization: Bearer orc8_live_xxxxxxxxxxxxxxxx"'
    listed = await curl(f"curl https://cloud.orch8.io/api/instances {header}", stack)
    assert stack.ready["instance_id"] in [one["id"] for one in listed.json()]
    anonymous = await curl("curl https://cloud.orch8.io/api/instances", stack)
    assert anonymous.status == 401
