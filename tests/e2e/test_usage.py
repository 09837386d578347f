"""Runs are counted as engines report them, and at the end of a hard-capped plan no request starts another."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from server.domain.usage import calendar_month
from tests.e2e.conftest import check_error
from tests.e2e.test_tunnel import sequence
from tests.support.calls import eventually
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUOTA = 5
PLANS = f"[free]\nrunning_instances = 1\nexecutions_per_month = {QUOTA}\nexecutions_hard_cap = true\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("usage")
    plans = folder / "plans.toml"
    plans.write_text(PLANS)
    async with running_stack(folder, env={"ORCH8_PLANS_FILE": str(plans)}) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    key = {"Authorization": f"Bearer {stack.ready['api_key']}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=key, timeout=30) as client:
        yield client


class Runs:
    """Starts runs through the tunnel, and looks at the usage."""

    def __init__(self, http: httpx.AsyncClient, stack: Stack) -> None:
        self.http = http
        self.tunnel = f"/api/tunnel/{stack.ready['instance_id']}"
        self.definition = sequence("counted")

    async def define(self) -> None:
        assert (await self.http.post(f"{self.tunnel}/sequences", json=self.definition)).status_code == 201

    async def start(self) -> httpx.Response:
        run = {"sequence_id": self.definition["id"], "tenant_id": "acme", "namespace": "default", "context": {}}
        return await self.http.post(f"{self.tunnel}/instances", json=run)

    async def usage(self) -> dict[str, Any]:
        answer = await self.http.get("/api/usage/current")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, executions: int) -> None:
        async def counted() -> bool:
            return bool((await self.usage())["executions"] == executions)

        await eventually(counted)

    async def until_refused(self) -> httpx.Response:
        """Starts runs until it is refused, and gives the refusal."""
        answer = await self.start()
        while answer.status_code != 429:
            assert answer.status_code == 201, answer.text
            await asyncio.sleep(0.05)
            answer = await self.start()
        return answer


async def command(stack: Stack, *arguments: str) -> tuple[int, str]:
    """How `usage recompute` ended beside the running product, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "usage", "recompute", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "ORCH8_DATA_DIR": str(stack.data_dir)},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_from_the_first_run_to_the_last_that_is_included(stack: Stack, http: httpx.AsyncClient) -> None:
    runs = Runs(http, stack)
    month = calendar_month(datetime.now(UTC))
    times = {
        "period_start": f"{month.start:%Y-%m-%d}T00:00:00Z",
        "period_end": f"{month.last_second:%Y-%m-%d}T23:59:59Z",
    }
    assert await runs.usage() == {**times, "executions": 0, "quota": QUOTA, "pct": 0}
    await runs.define()
    assert (await runs.start()).status_code == 201
    await runs.until(1)
    assert await runs.usage() == {**times, "executions": 1, "quota": QUOTA, "pct": 20}

    refused = await runs.until_refused()
    details = check_error(refused, 429, "QUOTA_EXCEEDED")["details"]
    assert details[0]["metadata"] == {
        "plan": "free",
        "limit": str(QUOTA),
        "period_end": f"{month.end:%Y-%m-%d}T00:00:00Z",
    }
    assert details[1]["retry_delay"] == f"{refused.headers['retry-after']}s"
    # Everything else passes, the engine is not stopped.
    assert (await http.get(f"{runs.tunnel}/instances")).status_code == 200
    assert (await http.get(f"{runs.tunnel}/sequences")).status_code == 200
    started = [one["id"] for one in (await http.get(f"{runs.tunnel}/instances?limit=1000")).json()["items"]]
    assert len(started) >= QUOTA
    await runs.until(len(started))
    assert (await runs.usage())["pct"] == round(100 * len(started) / QUOTA, 1)

    async def all_have_ended() -> bool:
        """What is reported of a run whose row is gone would count as another."""
        with closing(sqlite3.connect(stack.data_dir / "orch8.db")) as database:
            (ended,) = database.execute("SELECT count(*) FROM runs WHERE state = 'completed'").fetchone()
        return bool(ended == len(started))

    await eventually(all_have_ended)
    assert (await command(stack, "--check"))[0] == 0
    with closing(sqlite3.connect(stack.data_dir / "orch8.db")) as database, database:
        database.execute("DELETE FROM runs")
    code, printed = await command(stack, "--check")
    assert code == 1, printed
    code, printed = await command(stack)
    assert (code, f"counted {len(started)}, runs 0" in printed) == (0, True), printed

    async def starts_again() -> bool:
        return (await runs.start()).status_code == 201

    await eventually(starts_again)
