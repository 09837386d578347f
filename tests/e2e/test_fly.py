"""The whole product with its engines on Fly: from the API through Envoy into a machine, and back to nothing."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support import sessions
from tests.support.calls import eventually
from tests.support.fly.cloud import Audit, Fly
from tests.support.fly.server import running_fly
from tests.support.fly.settings import fly_settings
from tests.support.parts import Parts
from tests.support.stack import free_port

MEMBER = {"Authorization": f"Bearer {sessions.token()}"}
NOTHING = Audit(machines=(), volumes=())
START_S = 60
SEQUENCE = {
    "id": "0197a1b0-0000-7000-8000-000000000001",
    "tenant_id": "acme",
    "namespace": "default",
    "name": "welcome",
    "version": 1,
    "blocks": [{"type": "step", "id": "one", "handler": "noop", "params": {}}],
    "created_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[Fly]:
    async with running_fly(tmp_path) as fly:
        yield fly


@asynccontextmanager
async def product(fly: Fly, routing: str, **settings: str) -> AsyncIterator[Parts]:
    """Server, proxy, Envoy and a direct proxy, with their engines at the fake."""
    chosen = {
        **fly_settings(fly),
        "ORCH8_FLY_ROUTING": routing,
        "ORCH8_FLY_PUBLIC_URL": fly.edge_url if routing == "pinned" else "",
        "ORCH8_FLY_ENGINE_PORT": str(free_port()),
        "ORCH8_DEFAULT_PLAN": "pro",
    }
    # pytest's own folders are too deep for the path of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="orch8-test-") as folder:
        parts = Parts(Path(folder), settings=chosen | settings)
        try:
            await parts.start("serve", "proxy", "edge", "direct")
            yield parts
        finally:
            await parts.close()


class Caller:
    """A member of an organization, with a key for the tunnel."""

    def __init__(self, http: httpx.AsyncClient, parts: Parts) -> None:
        self.http, self.parts = http, parts
        self.key: dict[str, str] = {}

    async def ready(self) -> None:
        async def check() -> bool:
            try:
                return (await self.http.get(f"{self.parts.url}/readyz")).is_success
            except httpx.TransportError:
                return False

        await eventually(check, START_S)

    async def sign_in(self) -> None:
        await self.ready()
        made = await self.http.post(
            f"{self.parts.url}/api/api-keys", json={"name": "k", "environment": "live"}, headers=MEMBER
        )
        self.key = {"Authorization": f"Bearer {made.json()['key']}"}

    async def create(self, name: str) -> str:
        body = {"name": name, "region": "fra"}
        made = await self.http.post(f"{self.parts.url}/api/instances", json=body, headers=MEMBER)
        return str(made.json()["id"])

    async def instance(self, instance_id: str) -> Any:
        return (await self.http.get(f"{self.parts.url}/api/instances/{instance_id}", headers=MEMBER)).json()

    async def until(self, instance_id: str, status: str) -> Any:
        async def check() -> Any:
            found = await self.instance(instance_id)
            return found if found["status"] == status else None

        return await eventually(check, START_S)

    async def act(self, instance_id: str, action: str) -> httpx.Response:
        url = f"{self.parts.url}/api/instances/{instance_id}"
        return await self.http.patch(url, json={"action": action}, headers=MEMBER)

    async def delete(self, instance_id: str) -> None:
        answer = await self.http.delete(f"{self.parts.url}/api/instances/{instance_id}", headers=MEMBER)
        assert answer.is_success

    async def tunnel(self, method: str, instance_id: str, path: str, *, direct: bool = False, **more: Any) -> Any:
        base = self.parts.direct_url if direct else self.parts.url
        return await self.http.request(method, f"{base}/api/tunnel/{instance_id}{path}", headers=self.key, **more)

    async def answered(self, instance_id: str, path: str = "/info") -> httpx.Response | None:
        """The engine's answer; none while the proxies, whose server was killed, do not let it through."""
        answer: httpx.Response = await self.tunnel("GET", instance_id, path)
        return answer if answer.is_success else None


@asynccontextmanager
async def caller(parts: Parts) -> AsyncIterator[Caller]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        made = Caller(http, parts)
        await made.sign_in()
        yield made


@pytest.mark.parametrize("routing", ["pinned", "private"])
async def test_instance_lives_and_dies_at_fly(fly: Fly, routing: str) -> None:
    async with product(fly, routing) as parts, caller(parts) as me:
        instance_id, other = await me.create("one"), await me.create("two")
        await me.until(instance_id, "running")
        await me.until(other, "running")
        made = await me.tunnel("POST", instance_id, "/sequences", json=SEQUENCE)
        assert made.status_code == 201, made.text
        for direct in (False, True):
            for one, names in ((instance_id, ["welcome"]), (other, [])):
                listed = (await me.tunnel("GET", one, "/sequences", direct=direct)).json()["items"]
                assert [item["name"] for item in listed] == names, "each tunnel leads to its own machine"
        health = await me.http.get(f"{parts.url}/api/instances/{instance_id}/health", headers=MEMBER)
        assert health.json()["status"] == "ok"

        assert (await me.act(instance_id, "suspend")).json()["status"] == "suspended"
        machine = fly.machine(instance_id.replace("_", "-"))
        assert machine.state == "stopped"
        check_error(await me.tunnel("GET", instance_id, "/sequences"), 409, "STATE_CONFLICT")
        assert (await me.act(instance_id, "resume")).json()["status"] == "running"

        listed = (await eventually(partial(me.answered, instance_id, "/sequences"), START_S)).json()["items"]
        assert [item["name"] for item in listed] == ["welcome"]

        for one in (instance_id, other):
            await me.delete(one)
        check_error(await me.tunnel("GET", instance_id, "/sequences"), 404, "NOT_FOUND")
        await eventually(lambda: nothing_left(fly), START_S)


@pytest.mark.timeout(300)
async def test_nothing_is_doubled_or_lost_while_answers_are_lost_and_the_server_is_killed(fly: Fly) -> None:
    fly.runs_engines = False
    fly.faults.drop(None, times=None, probability=0.3)
    async with product(fly, "pinned") as parts, caller(parts) as me:
        ids = []
        for round_ in range(2):
            ids += [await me.create(f"engine-{round_}-{number}") for number in range(3)]
            await eventually(partial(calls_beyond, fly, len(fly.calls) + 5), START_S)
            await parts.end("serve")
            await parts.start("serve")
            await me.ready()
        for instance_id in ids:
            await me.until(instance_id, "running")
            answer = await eventually(partial(me.answered, instance_id), START_S)
            assert fly.machines[answer.json()["machine"]].name == instance_id.replace("_", "-")
        assert fly.audit() == Audit(
            machines=tuple(sorted(instance_id.replace("_", "-") for instance_id in ids)), volumes=tuple(sorted(ids))
        )
        for instance_id in ids:
            await me.delete(instance_id)
        await parts.end("serve")
        await parts.start("serve")
        await eventually(lambda: nothing_left(fly), 100)


async def calls_beyond(fly: Fly, number: int) -> bool:
    return len(fly.calls) > number


async def nothing_left(fly: Fly) -> bool:
    return fly.audit() == NOTHING


async def test_full_region_fails_with_the_reason_and_fly_being_down_delays(fly: Fly) -> None:
    async with product(fly, "pinned") as parts, caller(parts) as me:
        fly.full_regions.add("fra")
        failed = await me.until(await me.create("full"), "failed")
        assert failed["error"].startswith("Fly has no room for this engine: insufficient resources")
        fly.full_regions.clear()

        fly.faults.down = True
        instance_id = await me.create("patient")

        async def tried() -> bool:
            return len([call for call in fly.calls if call.status == 0]) >= 3

        await eventually(tried, START_S)
        assert (await me.instance(instance_id))["status"] == "provisioning"
        fly.faults.clear()
        await me.until(instance_id, "running")
        for one in (instance_id, failed["id"]):
            await me.delete(one)
        await eventually(lambda: nothing_left(fly), START_S)
        text = "".join(parts.log(name) for name in ("serve", "proxy", "edge", "direct"))
        assert "fly_request_id" in text
        machine_keys = {
            call.body["config"]["env"]["ORCH8_API_KEY"] for call in fly.asked("Machines_create") if call.body
        }
        assert machine_keys
        for secret in (fly.token, *machine_keys):
            assert secret not in text
