"""GET /api/events through the real Envoy, as a browser or curl reads it."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from tests.support.sse import Sent, following
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def until(events: AsyncIterator[Sent], kind: str) -> list[Sent]:
    """The events up to the first of this kind."""
    found = []
    async with asyncio.timeout(30):
        async for one in events:
            found.append(one)
            if one.kind == kind:
                return found
    raise AssertionError(f"it ended before {kind}: {found}")


async def change_policy(http: httpx.AsyncClient, stack: Stack, key: dict[str, str]) -> None:
    """Creates a policy, changes it, and deletes it."""
    path = f"/api/instances/{stack.ready['instance_id']}/policies"
    made = (await http.post(path, json={"provider": "api-key", "slug": f"s-{uuid4().hex}"}, headers=key)).json()
    await http.patch(f"{path}/{made['id']}", json={"enabled": False}, headers=key)
    await http.delete(f"{path}/{made['id']}", headers=key)


async def test_changes_are_told_as_they_happen_and_again_from_an_id_on(
    stack: Stack, http: httpx.AsyncClient, key: dict[str, str]
) -> None:
    async with following(http, key) as events:
        place = await anext(events)
        assert place.kind == ""
        await change_policy(http, stack, key)
        told = await until(events, "policy.deleted")
    assert [one.kind for one in told] == ["policy.created", "policy.updated", "policy.deleted"]
    first = told[0].data
    assert (first["id"], first["type"], first["instance_id"]) == (
        told[0].last_id,
        "policy.created",
        stack.ready["instance_id"],
    )
    assert first["policy_id"].startswith("pol_")
    assert first["details"]["provider"] == "api-key"
    async with following(http, key, last_event_id=told[0].last_id) as events:
        assert (await anext(events)).last_id == told[0].last_id
        assert await until(events, "policy.deleted") == told[1:]
    async with following(http, key, last_event_id=place.last_id, kinds=["policy.updated", "run"]) as events:
        await anext(events)
        assert await anext(events) == told[1]


async def test_an_instance_is_followed_from_its_making_to_its_end(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    async with following(http, owner, kinds="instance") as events:
        await anext(events)
        made = await http.post("/api/instances", json={"name": "followed", "region": "iad"}, headers=owner)
        assert made.status_code == 201, made.text
        told = await until(events, "instance.running")
        await http.delete(f"/api/instances/{made.json()['id']}", headers=owner)
        told += await until(events, "instance.deleted")
    assert [(one.kind, one.data["instance_id"]) for one in told] == [
        (f"instance.{word}", made.json()["id"]) for word in ("created", "running", "deleting", "deleted")
    ]


async def test_refusals_are_errors_like_all_others(http: httpx.AsyncClient, key: dict[str, str]) -> None:
    for path, headers, status in (
        ("/api/events", {}, 401),
        ("/api/events?last_event_id=x", key, 400),
        ("/api/events?kinds=nothing", key, 400),
        ("/api/events", key | {"last-event-id": "1, 2"}, 400),
    ):
        answer = await http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        assert answer.json()["details"][0]["reason"] in ("UNAUTHENTICATED", "INVALID_ARGUMENT")


async def test_a_revoked_key_is_told_why_nothing_more_comes(http: httpx.AsyncClient, owner: dict[str, str]) -> None:
    made = await http.post("/api/api-keys", json={"name": "events", "environment": "live"}, headers=owner)
    assert made.status_code == 201, made.text
    async with following(http, {"authorization": f"Bearer {made.json()['key']}"}) as events:
        await anext(events)
        revoked = await http.delete(f"/api/api-keys/{made.json()['id']}", headers=owner)
        assert revoked.status_code == 204, revoked.text
        told = await until(events, "stream.end")
        assert told[-1].data["reason"] == "KEY_REVOKED"
        assert [one async for one in events] == []


async def test_curl_follows_too(stack: Stack, http: httpx.AsyncClient, key: dict[str, str]) -> None:
    """The command of README."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-N", "-s", f"{stack.url}/api/events", "-H", f"Authorization: {key['Authorization']}"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"retry: 2000\n"
            assert (await process.stdout.readline()).startswith(b"id: ")
            assert await process.stdout.readline() == b"\n"
            await change_policy(http, stack, key)
            lines = [await process.stdout.readline() for _ in range(4)]
    finally:
        process.kill()
        await process.wait()
    assert lines[0].startswith(b"id: ")
    assert lines[1] == b"event: policy.created\n"
    assert json.loads(lines[2].removeprefix(b"data: "))["type"] == "policy.created"
    assert lines[3] == b"\n"
