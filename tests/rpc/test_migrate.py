"""`orch8-cloud migrate`: a server on SQLite stops, and one on Postgres goes on."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import api_keys_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub

from server.app import running
from server.domain.keys import digest
from tests.rpc.test_dataplane import OWNER, TOKEN, new_instance, new_key, revoke
from tests.support.databases import databases
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings


@pytest.fixture(scope="module")
def database_kind() -> Iterator[str]:
    with databases.of("postgres") as kind:
        yield kind


async def command(*arguments: str, **variables: str) -> tuple[int, str]:
    """How `orch8-cloud migrate` ended, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "migrate", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "200", **variables},
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def state(channel: grpc.aio.Channel, instance_id: str, keys: list[str]) -> list[Any]:
    """What a caller and a proxy see."""
    dataplane: Any = DataPlaneServiceStub(channel)
    api_keys: Any = ApiKeysServiceStub(channel)
    route = await dataplane.GetRoute(pb.GetRouteRequest(instance_id=instance_id), metadata=TOKEN)
    known = [await dataplane.GetKey(pb.GetKeyRequest(sha256=digest(key)), metadata=TOKEN) for key in keys]
    listed = await api_keys.ListApiKeys(api_keys_pb2.ListApiKeysRequest(), metadata=OWNER)
    return [route, *known, listed]


async def test_server_on_postgres_goes_on_where_the_one_on_sqlite_stopped(tmp_path: Path) -> None:
    url = databases.url(tmp_path)
    async with (
        running(settings(tmp_path, database_url=""), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        instance_id = await new_instance(channel)
        made = [await new_key(channel) for _ in range(2)]
        await revoke(channel, made[0].id)
        keys = [one.key for one in made]
        before = await state(channel, instance_id, keys)
        async with app.database.read() as tx:
            version = await tx.changes.latest()
        code, printed = await command("--from", str(tmp_path), "--to", url)
        assert code == 2
        assert "stop the server first" in printed

    # The server ran in this process, whose last connection to the file may close later than it; nobody is at the copy.
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for file in tmp_path.glob("orch8.db*"):
        shutil.copy(file, stopped)
    code, printed = await command("--from", str(stopped), ORCH8_DATABASE_URL=url)
    assert code == 0, printed
    assert "✓ api_keys" in printed
    async with (
        running(settings(tmp_path, database_url=url), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        assert await state(channel, instance_id, keys) == before
        await revoke(channel, made[1].id)
        async with app.database.read() as tx:
            assert await tx.changes.latest() > version
        code, printed = await command("--from", str(tmp_path), "--to", url)
        assert code == 2
        assert "not empty" in printed


async def test_help_teaches_and_mistakes_are_one_sentence(tmp_path: Path) -> None:
    code, printed = await command("--help", ORCH8_DATABASE_URL="postgresql://ana:pa55word@/x")
    assert code == 0
    assert "createdb" in printed
    assert "pa55word" not in printed
    for arguments, why in (
        (("--from", str(tmp_path), "--to", "mysql://x"), "--to must be"),
        (("--from", str(tmp_path), "--to", "postgresql://ana:pa55word@127.0.0.1:1/x"), "there is no database"),
    ):
        code, printed = await command(*arguments)
        assert code == 2
        assert why in printed
        assert "pa55word" not in printed
        assert printed.count("\n") == 1
