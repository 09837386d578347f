"""Metrics of an instance, as its owner sees them: what goes through both data paths, from caller to API."""

import json
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import check_error
from tests.e2e.test_parts import MEMBER, World
from tests.support.calls import eventually
from tests.support.parts import Parts

TOLD_WITHIN_S = 60.0
FIELDS = {"at", "requests", "allowed", "denied", "errors", "answers", "p50_ms", "p90_ms", "p99_ms", "runs"}


class Counted(World):
    """A world that counts what it is answered through tunnels, as the metrics should show it."""

    def __init__(self, parts: Parts, http: httpx.AsyncClient) -> None:
        super().__init__(parts, http)
        self.expected: Counter[str] = Counter()
        http.event_hooks["response"].append(self._count)

    async def create(self) -> None:
        """Calls no tunnel before the instance runs: Envoy asks twice about a 503, and then it is counted twice."""
        await self.until(f"{self.parts.url}/readyz", 200)
        body = {"name": "prod", "region": "iad"}
        made = await self.http.post(f"{self.parts.url}/api/instances", json=body, headers=MEMBER)
        self.instance_id = made.json()["id"]
        await self.new_key()
        where = f"{self.parts.url}/api/instances/{self.instance_id}"

        async def is_running() -> bool:
            return bool((await self.get(where)).json()["status"] == "running")

        await eventually(is_running)
        await self.until(f"{self.parts.direct_url}/readyz", 200)

    async def _count(self, answer: httpx.Response) -> None:
        if answer.url.path.startswith("/api/tunnel/"):
            denied = answer.status_code == 401
            kinds = ["denied"] if denied else ["allowed", f"{answer.status_code // 100}xx"]
            self.expected.update(["requests", *kinds])


@pytest.fixture
async def world() -> AsyncIterator[Counted]:
    # pytest's own folders are too deep for the path of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="orch8-test-") as folder:
        parts = Parts(Path(folder))
        try:
            await parts.start("serve", "proxy", "edge", "direct")
            async with httpx.AsyncClient(timeout=30) as http:
                world = Counted(parts, http)
                await world.create()
                yield world
        finally:
            await parts.close()


async def metrics(world: Counted, **query: str) -> httpx.Response:
    url = f"{world.parts.url}/api/instances/{world.instance_id}/metrics"
    return await world.http.get(url, params=query, headers={"Authorization": f"Bearer {world.key}"})


async def totals(world: Counted) -> Counter[str]:
    found: Counter[str] = Counter()
    for bucket in (await metrics(world)).json()["buckets"]:
        found.update({name: bucket[name] for name in ("requests", "allowed", "denied", "errors")})
        found.update(bucket["answers"])
    return +found


async def until_told(world: Counted) -> None:
    async def check() -> bool:
        return await totals(world) == world.expected

    try:
        await eventually(check, TOLD_WITHIN_S)
    except TimeoutError:
        assert await totals(world) == world.expected


async def test_both_paths_are_counted_and_shown(world: Counted) -> None:
    for base in (world.parts.url, world.parts.direct_url):
        missing = world.tunnel(base).replace("/info", "/nothing-here")
        assert [(await world.get(world.tunnel(base))).status_code for _ in range(3)] == [200] * 3
        assert (await world.get(missing)).status_code == 404
        assert (await world.http.get(missing)).status_code == 401
    assert world.expected == {"requests": 10, "allowed": 8, "denied": 2, "2xx": 6, "4xx": 2}
    await until_told(world)
    await check_the_form(world)


async def check_the_form(world: Counted) -> None:
    answer = (await metrics(world)).json()
    assert set(answer) == {"instance_id", "from", "to", "step", "buckets"}
    assert (answer["instance_id"], answer["step"]) == (world.instance_id, "60s")
    for bucket in answer["buckets"]:
        assert set(bucket) == FIELDS
        if bucket["answers"]:
            assert 0 < bucket["p50_ms"] <= bucket["p90_ms"] <= bucket["p99_ms"]
    newest = answer["buckets"][-1]["at"]
    part = (await metrics(world, since=newest, until=answer["to"])).json()
    assert [bucket["at"] for bucket in part["buckets"]] == [newest]
    assert (part["from"], part["to"]) == (newest, answer["to"])
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    check_error(await metrics(world, since=later), 400, "INVALID_ARGUMENT")
    check_error(await metrics(world, since="yesterday"), 400, "INVALID_ARGUMENT")


async def test_what_the_edge_knows_when_it_stops_is_told(world: Counted) -> None:
    for _ in range(5):
        assert (await world.get(world.tunnel())).status_code == 200
    assert await world.parts.end("edge", signal.SIGTERM) == 0
    log = [json.loads(line) for line in world.parts.log("edge").splitlines() if line.startswith("{")]
    await world.parts.start("edge")
    await world.until(f"{world.parts.url}/readyz", 200)
    await until_told(world)
    tunnelled = [line for line in log if line["route"] == "tunnel" and line["status"] == 200]
    assert len(tunnelled) >= 5
    for line in tunnelled:
        assert (line["org_id"], line["instance_id"]) == ("org_one", world.instance_id)
        assert line["request_id"]
    (created,) = [line for line in log if line["method"] == "POST" and line["path"] == "/api/instances"]
    assert created["org_id"] is None
