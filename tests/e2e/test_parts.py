"""The parts as separate programs: what still works when one of them is away, and how they come back."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.support import sessions
from tests.support.calls import eventually
from tests.support.parts import Parts
from tests.support.stack import processes_naming

MEMBER = {"Authorization": f"Bearer {sessions.token()}"}


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    # pytest's own folders are too deep for the path of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="orch8-test-") as folder:
        parts = Parts(Path(folder))
        try:
            yield parts
        finally:
            await parts.close()


class World:
    """One instance with a running engine, and a key."""

    def __init__(self, parts: Parts, http: httpx.AsyncClient) -> None:
        self.parts, self.http = parts, http
        self.instance_id, self.key_id, self.key = "", "", "none yet"

    async def create(self) -> None:
        await self.until(f"{self.parts.url}/readyz", 200)
        made = await self.http.post(
            f"{self.parts.url}/api/instances", json={"name": "prod", "region": "iad"}, headers=MEMBER
        )
        self.instance_id = made.json()["id"]
        await self.new_key()
        await self.until(self.tunnel(), 200)

    async def new_key(self) -> None:
        body = {"name": "k", "environment": "live"}
        made = (await self.http.post(f"{self.parts.url}/api/api-keys", json=body, headers=MEMBER)).json()
        self.key_id, self.key = made["id"], made["key"]

    async def revoke(self) -> httpx.Response:
        return await self.http.delete(f"{self.parts.url}/api/api-keys/{self.key_id}", headers=MEMBER)

    def tunnel(self, base: str = "") -> str:
        return f"{base or self.parts.url}/api/tunnel/{self.instance_id}/info"

    async def get(self, url: str) -> httpx.Response:
        return await self.http.get(url, headers={"Authorization": f"Bearer {self.key}"})

    async def until(self, url: str, status: int) -> None:
        async def check() -> Any:
            try:
                return (await self.get(url)).status_code == status
            except httpx.TransportError:
                return False

        await eventually(check, 30)


@pytest.fixture
async def world(parts: Parts) -> AsyncIterator[World]:
    await parts.start("serve", "proxy", "edge")
    async with httpx.AsyncClient(timeout=30) as http:
        world = World(parts, http)
        await world.create()
        yield world


async def test_tunnel_goes_on_without_the_server_and_the_next_one_takes_over(world: World, parts: Parts) -> None:
    engines = set(processes_naming(str(parts.folder / "data" / "engines")))
    await parts.end("serve")
    for _ in range(5):
        assert (await world.get(world.tunnel())).status_code == 200
    check_error(await world.http.get(f"{parts.url}/api/instances", headers=MEMBER), 503, "UNAVAILABLE")
    check_error(await world.http.get(f"{parts.url}/readyz"), 503, "UNAVAILABLE")
    await parts.start("serve")
    await world.until(f"{parts.url}/readyz", 200)
    assert (await world.get(world.tunnel())).status_code == 200
    assert set(processes_naming(str(parts.folder / "data" / "engines"))) == engines, "the engine was taken over"
    assert (await world.revoke()).status_code == 204
    check_error(await world.get(world.tunnel()), 401, "KEY_REVOKED")


async def test_nothing_passes_without_a_proxy(world: World, parts: Parts) -> None:
    await parts.end("proxy")
    check_error(await world.get(world.tunnel()), 503, "DATA_PLANE_NOT_READY")
    assert (await world.http.get(f"{parts.url}/api/instances", headers=MEMBER)).status_code == 200
    check_error(await world.http.get(f"{parts.url}/readyz"), 503, "UNAVAILABLE")
    await parts.start("proxy")
    await world.until(world.tunnel(), 200)


async def test_halted_proxy_makes_a_revocation_unconfirmed_and_never_a_false_success(
    world: World, parts: Parts
) -> None:
    parts.halt("proxy")
    answer = await world.revoke()
    body = check_error(answer, 503, "CHANGE_UNCONFIRMED")
    assert body["details"][0]["metadata"]["certain_at"].endswith("Z")
    parts.go_on("proxy")
    await world.until(world.tunnel(), 401)
    assert (await world.revoke()).status_code == 204


async def test_direct_proxy_carries_the_bytes_itself(world: World, parts: Parts) -> None:
    await parts.start("direct")
    await world.until(world.tunnel(parts.direct_url), 200)
    answer = await world.get(world.tunnel(parts.direct_url))
    assert answer.json()["version"]
    assert answer.headers["x-orch8-decision-id"].startswith("dec_")
    check_error(await world.http.get(world.tunnel(parts.direct_url)), 401, "UNAUTHENTICATED")
    assert (await world.revoke()).status_code == 204
    for base in (parts.url, parts.direct_url):
        check_error(await world.get(world.tunnel(base)), 401, "KEY_REVOKED")


async def test_every_part_stops_gracefully(world: World, parts: Parts) -> None:
    for name in ("edge", "proxy", "serve"):
        assert await parts.end(name, signal.SIGTERM) == 0, parts.log(name)
    assert processes_naming(str(parts.folder)) == {}


async def test_requests_under_way_finish_when_the_edge_stops(world: World, parts: Parts) -> None:
    """A run's event stream outlives the beginning of the stop."""
    slow = asyncio.create_task(world.get(world.tunnel()))
    ending = asyncio.create_task(parts.end("edge", signal.SIGTERM))
    assert (await slow).status_code == 200
    assert await ending == 0


async def test_logs_hold_no_secrets(world: World, parts: Parts) -> None:
    await world.get(world.tunnel())
    for name in ("serve", "proxy", "edge"):
        text = parts.log(name)
        for secret in (world.key, sessions.SECRET, MEMBER["Authorization"], "a-dataplane-token-for-tests"):
            assert secret not in text
    for path in (parts.folder / "data").rglob("*.log"):
        assert world.key not in path.read_text()
