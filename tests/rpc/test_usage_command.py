"""`orch8-cloud usage recompute`, beside a server that works: counts go wrong, and are set right."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from server.app import App, running
from server.domain.access import Engine
from server.domain.usage import calendar_month
from server.services.identifiers import utc_now
from server.services.runs import RunsService
from tests.rpc.test_dataplane import new_instance
from tests.rpc.test_usage import ORG, PLANS, ran, route, usage
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings


class World:
    """A server, an instance of it, and where its rows are."""

    def __init__(self, app: App, channel: grpc.aio.Channel, instance_id: str, variables: dict[str, str]) -> None:
        self.app, self.channel, self.instance_id, self.variables = app, channel, instance_id, variables

    async def reports(self, *runs: str, at: datetime | None = None, state: str = "running") -> None:
        """What an engine exports of runs."""
        moment = (at or datetime.now(UTC)).isoformat()
        events = [{"instance_id": run, "sequence_name": "s", "state": state, "at": moment} for run in runs]
        service = RunsService(database=self.app.database, clock=utc_now)
        body = json.dumps({"events": events}).encode()
        await service.ingest(engine=Engine(instance_id=self.instance_id, org_id=ORG), body=body)

    async def command(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """How the command ended, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "usage", "recompute", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", **self.variables, **variables},
        )
        async with asyncio.timeout(60):
            printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS)
    own = settings(tmp_path, plans_file=plans)
    variables = {"ORCH8_DATABASE_URL": own.store_url, "ORCH8_PLANS_FILE": str(plans)}
    async with (
        running(own, MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        yield World(app, channel, await new_instance(channel), variables)


async def test_a_run_counts_once_whatever_is_reported_of_it(world: World) -> None:
    now = datetime.now(UTC)
    for _ in range(2):
        await world.reports("a", "b", state="completed", at=now)
        await world.reports("b", "a", at=now - timedelta(seconds=5))
    assert (await usage(world.channel)).executions == 2
    code, printed = await world.command("--check")
    assert (code, printed) == (0, "Counts that differ from the rows of runs: 0.\n")


async def test_what_differs_is_told_and_set_right_beside_the_server(world: World) -> None:
    await world.reports("a", "b")
    await ran(world.app, [datetime.now(UTC)] * 7)
    assert (await route(world.channel, world.instance_id)).HasField("start_cap")
    month = calendar_month(datetime.now(UTC))
    line = f"{ORG}  {month.start:%Y-%m-%d}T00:00:00Z to {month.last_second:%Y-%m-%d}T23:59:59Z  counted 9, runs 2\n"
    code, printed = await world.command("--check")
    assert (code, printed) == (1, f"{line}Counts that differ from the rows of runs: 1.\n")
    assert (await usage(world.channel)).executions == 9
    code, printed = await world.command()
    assert (code, printed) == (0, f"{line}Counts that differ from the rows of runs: 1, set right.\n")
    assert (await usage(world.channel)).executions == 2
    assert not (await route(world.channel, world.instance_id)).HasField("start_cap")
    assert (await world.command("--check"))[0] == 0


async def test_periods_whose_runs_may_be_gone_are_left_alone(world: World) -> None:
    now = datetime.now(UTC)
    await ran(world.app, [now, now - timedelta(days=450)])
    tomorrow = (now + timedelta(days=1)).date().isoformat()
    code, printed = await world.command("--check", "--since", tomorrow)
    assert code == 0
    assert printed.endswith(f"Left alone, as they began before {tomorrow}T00:00:00Z: 2 counts.\n")
    code, printed = await world.command("--since", "2000-01-01")
    assert code == 0
    assert printed.count("counted 1, runs 0") == 1
    assert printed.endswith(": 1 counts.\n")


async def test_help_teaches_and_mistakes_are_one_sentence(world: World, tmp_path: Path) -> None:
    code, printed = await world.command("--help")
    assert code == 0
    for taught in ("--check", "--since", "ORCH8_DATABASE_URL", "Exit code 1"):
        assert taught in printed
    empty = tmp_path / "empty"
    empty.mkdir()
    for variables, why in (
        ({"ORCH8_DATABASE_URL": "", "ORCH8_DATA_DIR": str(empty)}, "there is no database in this folder"),
        ({"ORCH8_DATABASE_URL": "postgresql://ana:pa55word@127.0.0.1:1/x"}, "ORCH8_DATABASE_URL: "),
        ({"ORCH8_PLANS_FILE": "/nowhere"}, "ORCH8_PLANS_FILE"),
    ):
        code, printed = await world.command(**variables)
        assert code == 2, printed
        assert why in printed
        assert "pa55word" not in printed
        assert printed.count("\n") == 1
    assert list(empty.iterdir()) == []
