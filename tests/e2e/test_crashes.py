"""Creates while the server is killed at random moments and replies are lost: nothing is lost, or there twice."""

import asyncio
import os
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.providers.runtime.stand_in import install
from tests.support import sessions
from tests.support.calls import eventually
from tests.support.parts import Parts

KEYS = 16
KILLS = 5
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
MEMBER = {"Authorization": f"Bearer {sessions.token()}"}


class Client:
    """Sends each request until its answer is final, and gives some of them up halfway, as bad networks do."""

    def __init__(self, base: str, rng: random.Random) -> None:
        self._http = httpx.AsyncClient(base_url=base, headers=MEMBER)
        self._rng = rng
        self.lost = 0
        self.answers: dict[str, set[bytes]] = {}

    async def post(self, path: str, key: str, body: dict[str, Any]) -> None:
        """Twice over: the second time the answer must be the same."""
        for _ in range(2):
            answer = await self._final(path, key, body)
            assert answer.status_code == 201, answer.text
            self.answers.setdefault(key, set()).add(answer.content)

    async def _final(self, path: str, key: str, body: dict[str, Any]) -> httpx.Response:
        while True:
            patience = self._rng.uniform(0.001, 0.05) if self._rng.random() < 0.3 else 30
            try:
                async with asyncio.timeout(patience):
                    answer = await self._http.post(
                        path, json=body, headers={"Idempotency-Key": key}, timeout=patience + 1
                    )
            except (httpx.HTTPError, TimeoutError):
                self.lost += 1
                await asyncio.sleep(0.02)
                continue
            if answer.status_code < 500 and "IDEMPOTENCY_IN_PROGRESS" not in answer.text:
                return answer
            await asyncio.sleep(0.05)

    async def get(self, path: str) -> Any:
        return (await self._http.get(path, timeout=70)).json()

    async def is_ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        await self._http.aclose()


async def kill_again_and_again(parts: Parts, client: Client, rng: random.Random) -> None:
    for _ in range(KILLS):
        await eventually(client.is_ready, 60)
        await asyncio.sleep(rng.uniform(0, 0.6))
        await parts.end("serve", signal.SIGKILL)
        await parts.start("serve")
    await eventually(client.is_ready, 60)


def engines_below(folder: Path) -> Counter[str]:
    """How many engines run for each instance: sessions that work in its folder."""
    found: Counter[str] = Counter()
    for entry in Path("/proc").iterdir():
        try:
            pid = int(entry.name)
            cwd = (entry / "cwd").readlink()
            if os.getsid(pid) == pid and cwd.is_relative_to(folder):
                found[cwd.name] += 1
        except (OSError, ValueError):
            continue
    return found


async def test_creates_are_carried_out_once_whatever_is_killed() -> None:
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="orch8-test-") as folder:
        engine = install(Path(folder) / "bin")
        settings = {"ORCH8_DEFAULT_PLAN": "enterprise", "ORCH8_ENGINE_BIN": str(engine)}
        parts = Parts(Path(folder), settings=settings)
        client = Client(parts.url, rng)
        try:
            await parts.start("serve", "proxy", "edge")
            await crash_and_count(parts, client, rng)
        finally:
            await client.close()
            await parts.close()
        assert engines_below(Path(folder)) == {}, "the server takes its engines along"


async def crash_and_count(parts: Parts, client: Client, rng: random.Random) -> None:
    nemesis = asyncio.create_task(kill_again_and_again(parts, client, rng))

    async def create(number: int) -> None:
        await asyncio.sleep(rng.uniform(0, 8))
        body: dict[str, Any] = {"name": f"name-{number}", "region": "iad"}
        await client.post("/api/instances", f"instance-{number}", body)
        await client.post("/api/api-keys", f"key-{number}", {"name": f"key-{number}", "environment": "live"})

    await asyncio.gather(*(create(number) for number in range(KEYS)))
    await nemesis
    assert all(len(answers) == 1 for answers in client.answers.values()), f"CRASH_SEED={SEED}"
    assert client.lost > 0

    instances = await client.get("/api/instances")
    assert sorted(one["name"] for one in instances) == sorted(f"name-{number}" for number in range(KEYS))
    keys = await client.get("/api/api-keys")
    assert sorted(one["name"] for one in keys) == sorted(f"key-{number}" for number in range(KEYS))
    for one in instances:
        settled = await client.get(f"/api/instances/{one['id']}?wait=60s")
        assert (settled["status"], settled["error"]) == ("running", None), f"CRASH_SEED={SEED}"

    engines = parts.folder / "data" / "engines"
    expected = {one["id"]: 1 for one in instances}
    assert engines_below(engines) == expected, f"CRASH_SEED={SEED}"
    assert {path.name for path in engines.iterdir()} == set(expected)
