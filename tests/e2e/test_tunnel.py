"""The tunnel and the gateway to a real engine, through Envoy."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from orch8 import Orch8Client

from tests.e2e.conftest import check_error
from tests.support.calls import eventually
from tests.support.stack import Stack, processes_naming

pytestmark = pytest.mark.asyncio(loop_scope="session")
MEGABYTE = 1024 * 1024
BIG = 100 * MEGABYTE


def sequence(name: str, *blocks: dict[str, object]) -> dict[str, object]:
    """A sequence in the engine's own format."""
    return {
        "id": str(uuid4()),
        "tenant_id": "acme",
        "namespace": "default",
        "name": name,
        "version": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "blocks": list(blocks) or [{"type": "step", "id": "a", "handler": "noop", "params": {}}],
    }


async def test_engine_is_driven_through_the_tunnel(http: httpx.AsyncClient, key: dict[str, str], tunnel: str) -> None:
    definition = sequence("welcome")
    made = await http.post(f"{tunnel}/sequences", json=definition, headers=key)
    assert made.status_code == 201, made.text
    run = await http.post(
        f"{tunnel}/api/v1/instances",
        json={"sequence_id": definition["id"], "tenant_id": "acme", "namespace": "default", "context": {"data": {}}},
        headers=key | {"x-tenant-id": "acme"},
    )
    assert run.status_code == 201, run.text

    async def completed() -> bool:
        found = await http.get(f"{tunnel}/api/v1/instances/{run.json()['id']}", headers=key)
        return bool(found.json()["state"] == "completed")

    await eventually(completed)


async def test_printed_curls_work_when_pasted(stack: Stack) -> None:
    commands = re.findall(r"^\s*(curl .*(?:\\\n.*)*)", stack.printed(), re.MULTILINE)
    assert commands
    for command in commands:
        shell = await asyncio.create_subprocess_shell(
            command.replace("curl ", "curl --silent --show-error --fail ", 1), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await shell.communicate()
        assert shell.returncode == 0, command
        assert json.loads(output) is not None


async def test_official_sdk_calls_the_engine(
    stack: Stack, tunnel: str, key: dict[str, str], http: httpx.AsyncClient
) -> None:
    definition = sequence("by-sdk")
    assert (await http.post(f"{tunnel}/sequences", json=definition, headers=key)).status_code == 201
    async with Orch8Client(stack.url + tunnel, tenant_id="acme", headers=key) as client:
        health = await client.health()
        assert health
        trigger = {"slug": f"sdk-{uuid4().hex}", "sequence_name": "by-sdk", "tenant_id": "acme", "namespace": "default"}
        created = await client.create_trigger(trigger)
        assert created.slug == trigger["slug"]
        assert await client.fire_trigger(trigger["slug"], {"hello": "sdk"})


async def test_unknown_instances_and_bad_credentials(http: httpx.AsyncClient, key: dict[str, str], tunnel: str) -> None:
    check_error(await http.get("/api/tunnel/inst_nothing/info", headers=key), 404, "NOT_FOUND")
    check_error(await http.get(f"{tunnel}/info"), 401, "UNAUTHENTICATED")
    check_error(
        await http.get(f"{tunnel}/info", headers={"Authorization": "Bearer orc8_live_x"}), 401, "UNAUTHENTICATED"
    )
    check_error(await http.get(f"{tunnel}/info", headers={"Authorization": "Basic YTpi"}), 401, "UNAUTHENTICATED")


async def test_session_is_no_credential_of_the_tunnel(http: httpx.AsyncClient, stack: Stack, tunnel: str) -> None:
    check_error(
        await http.get(f"{tunnel}/info", headers={"Cookie": stack.ready["session_cookie"]}), 401, "UNAUTHENTICATED"
    )
    bearer = {"Authorization": f"Bearer {stack.ready['access_token']}"}
    assert (await http.get(f"{tunnel}/info", headers=bearer)).status_code == 401


async def test_key_of_another_organization_is_403(http: httpx.AsyncClient, owner: dict[str, str], tunnel: str) -> None:
    made = (await http.post("/api/api-keys", json={"name": "k", "environment": "live"}, headers=owner)).json()
    answer = await http.get(f"{tunnel}/info", headers={"Authorization": f"Bearer {made['key']}"})
    check_error(answer, 403, "RULE_MISMATCH")


async def test_revoked_key_is_refused_at_once_every_time(http: httpx.AsyncClient, stack: Stack, tunnel: str) -> None:
    member = {"Authorization": f"Bearer {stack.ready['access_token']}"}
    for number in range(20):
        made = await http.post("/api/api-keys", json={"name": f"k{number}", "environment": "live"}, headers=member)
        program = {"Authorization": f"Bearer {made.json()['key']}"}
        assert (await http.get(f"{tunnel}/info", headers=program)).status_code == 200
        assert (await http.delete(f"/api/api-keys/{made.json()['id']}", headers=member)).status_code == 204
        check_error(await http.get(f"{tunnel}/info", headers=program), 401, "KEY_REVOKED")


async def test_use_of_a_key_shows(http: httpx.AsyncClient, stack: Stack, tunnel: str, key: dict[str, str]) -> None:
    await http.get(f"{tunnel}/info", headers=key)
    member = {"Authorization": f"Bearer {stack.ready['access_token']}"}

    async def noted() -> bool:
        listed = (await http.get("/api/api-keys", headers=member)).json()
        return any(one["last_used_at"] for one in listed if key["Authorization"].startswith(f"Bearer {one['prefix']}"))

    await eventually(noted, 20)


async def test_suspended_instance_answers_409_and_works_again_after_resume(
    http: httpx.AsyncClient, owner: dict[str, str]
) -> None:
    made = (await http.post("/api/instances", json={"name": "pausing", "region": "gru"}, headers=owner)).json()
    path = f"/api/instances/{made['id']}"
    program = await new_key(http, owner)

    async def answers() -> bool:
        return (await http.get(f"/api/tunnel/{made['id']}/info", headers=program)).status_code == 200

    starting = await http.get(f"/api/tunnel/{made['id']}/info", headers=program)
    if starting.status_code != 200:
        check_error(starting, 503, "DATA_PLANE_NOT_READY")
    await eventually(answers, 30)
    definition = sequence("kept")
    await http.post(f"/api/tunnel/{made['id']}/sequences", json=definition, headers=program)
    for _ in range(3):
        assert (await http.patch(path, json={"action": "suspend"}, headers=owner)).status_code == 200
        check_error(await http.get(f"/api/tunnel/{made['id']}/info", headers=program), 409, "STATE_CONFLICT")
        assert (await http.patch(path, json={"action": "resume"}, headers=owner)).status_code == 200
        kept = await http.get(f"/api/tunnel/{made['id']}/sequences/{definition['id']}", headers=program)
        assert (kept.status_code, kept.json()["name"]) == (200, "kept")
    assert (await http.delete(path, headers=owner)).status_code == 204
    check_error(await http.get(f"/api/tunnel/{made['id']}/info", headers=program), 404, "NOT_FOUND")


async def new_key(http: httpx.AsyncClient, who: dict[str, str], **fields: str) -> dict[str, str]:
    made = await http.post("/api/api-keys", json={"name": "k", "environment": "live", **fields}, headers=who)
    return {"Authorization": f"Bearer {made.json()['key']}"}


async def test_killed_engine_is_started_again_with_its_data(
    http: httpx.AsyncClient, key: dict[str, str], tunnel: str, stack: Stack
) -> None:
    definition = sequence("survivor")
    assert (await http.post(f"{tunnel}/sequences", json=definition, headers=key)).status_code == 201
    (folder,) = [path for path in (stack.data_dir / "engines").iterdir() if path.name == stack.ready["instance_id"]]
    engines = [pid for pid, line in processes_naming(str(folder)).items() if "devengine" in line]
    assert engines
    for pid in engines:
        os.kill(pid, 9)
    broken = await http.get(f"{tunnel}/info", headers=key)
    if broken.status_code != 200:
        check_error(broken, 502, "ENGINE_ERROR")

    async def answers() -> bool:
        found = await http.get(f"{tunnel}/sequences/{definition['id']}", headers=key)
        return found.status_code == 200

    await eventually(answers, 30)


async def test_gateway_with_a_signed_trigger(
    http: httpx.AsyncClient, stack: Stack, key: dict[str, str], tunnel: str
) -> None:
    definition = sequence("hooked")
    await http.post(f"{tunnel}/sequences", json=definition, headers=key)
    slug = f"hook-{uuid4().hex[:8]}"
    trigger = {
        "slug": slug, "sequence_name": "hooked", "tenant_id": "acme", "namespace": "default",
        "secret": "the-secret-of-the-trigger", "trigger_type": "webhook",
    }  # fmt: skip
    assert (await http.post(f"{tunnel}/triggers", json=trigger, headers=key)).status_code == 201
    gateway = f"/api/gateway/{stack.ready['instance_id']}/{slug}"
    check_error(await http.post(gateway, json={"n": 1}, headers=key), 404, "NOT_FOUND")
    policies = f"/api/instances/{stack.ready['instance_id']}/policies"
    policy = {"slug": slug, "provider": "api-key", "config": {"trigger_secret": trigger["secret"]}}
    made = await http.post(policies, json=policy, headers=key)
    assert made.status_code == 201, made.text
    check_error(await http.post(gateway, json={"n": 1}), 401, "UNAUTHENTICATED")
    for number in range(3):
        accepted = await http.post(gateway, json={"n": number}, headers=key)
        assert accepted.status_code == 202, accepted.text
    too_large = await http.post(gateway, content=b"x" * (MEGABYTE + 1), headers=key)
    check_error(too_large, 413, "PAYLOAD_TOO_LARGE")
    check_error(await http.post(f"{gateway}x", json={}, headers=key), 404, "NOT_FOUND")

    anonymous = await http.post(policies, json=policy | {"provider": "anonymous"}, headers=key)
    assert anonymous.status_code == 201
    assert (await http.post(gateway, json={"n": 9})).status_code == 202
    check_error(
        await http.post(gateway, json={}, headers={"Authorization": "Bearer orc8_live_x"}), 401, "UNAUTHENTICATED"
    )
    await http.delete(f"{policies}/{anonymous.json()['id']}", headers=key)
    check_error(await http.post(gateway, json={"n": 1}), 401, "UNAUTHENTICATED")
    await http.delete(f"{policies}/{made.json()['id']}", headers=key)
    check_error(await http.post(gateway, json={"n": 1}, headers=key), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/a%2Fb", "/..%2f..%2fetc", "/a%5Cb", "/%2e%2e%2fx"])
async def test_encoded_slashes_are_400(http: httpx.AsyncClient, key: dict[str, str], tunnel: str, path: str) -> None:
    url = httpx.URL(str(http.base_url), raw_path=(tunnel + path).encode())
    check_error(await http.get(url, headers=key), 400, "INVALID_ARGUMENT", named=False)


async def test_dots_cannot_leave_the_instance(stack: Stack, key: dict[str, str], tunnel: str) -> None:
    """Sent byte by byte, since clients normalize paths themselves."""
    for path, expected in (
        (f"{tunnel}/x/../info", b"200"),
        (f"{tunnel}/../inst_other/info", b"404"),
        (f"{tunnel}/../../../../healthz", b"200"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key['Authorization']}\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode())
        status = (await reader.readline()).split()[1]
        assert status == expected, path
        writer.close()
        await writer.wait_closed()


async def body(size: int) -> AsyncIterator[bytes]:
    chunk = os.urandom(MEGABYTE)
    for _ in range(size // MEGABYTE):
        yield chunk


async def test_large_bodies_stream_both_ways_with_little_memory(
    http: httpx.AsyncClient, key: dict[str, str], tunnel: str, stack: Stack
) -> None:
    path = f"{tunnel}/api/v1/artifacts/big/one"
    put = await http.put(path, content=body(BIG), headers=key, timeout=120)
    assert put.status_code in (200, 201, 204), put.text
    received = 0
    async with http.stream("GET", path, headers=key, timeout=120) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    assert received == BIG
    names = ("envoy", "server proxy", "server serve")
    memory = {
        line: rss(pid) for pid, line in processes_naming(str(stack.data_dir)).items() if any(n in line for n in names)
    }
    assert len(memory) >= 3, memory
    assert all(0 < size < 300 * MEGABYTE for size in memory.values()), memory


def rss(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


async def test_events_arrive_as_they_happen(http: httpx.AsyncClient, key: dict[str, str], tunnel: str) -> None:
    definition = sequence("slow", {"type": "step", "id": "s", "handler": "sleep", "params": {"duration_ms": 700}})
    assert (await http.post(f"{tunnel}/sequences", json=definition, headers=key)).status_code == 201
    run = {"sequence_id": definition["id"], "tenant_id": "acme", "namespace": "default", "context": {"data": {}}}
    made = await http.post(f"{tunnel}/instances", json=run, headers=key)
    clock = asyncio.get_running_loop().time
    stream = f"{tunnel}/instances/{made.json()['id']}/stream?poll_ms=100"
    async with http.stream("GET", stream, headers=key) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = [(line, clock()) async for line in answer.aiter_lines()]
    events = [(line.split(":")[1].strip(), at) for line, at in seen if line.startswith("event:")]
    names = [name for name, _ in events]
    assert (names[0], names[-1]) == ("state", "done")
    assert events[-1][1] - events[0][1] > 0.2, "the first event did not wait for the last"
