"""The life of `orch8-cloud up`: it starts, is found again, stops, and says what is wrong."""

import asyncio
import json
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.calls import eventually
from tests.support.stack import Stack, free_port, processes_naming, running_stack, start

FIELDS = {
    "url", "org_id", "api_key", "access_token", "session_cookie", "supabase_jwt_secret", "instance_id", "engine",
}  # fmt: skip


async def first_answer(stack: Stack) -> int:
    async with httpx.AsyncClient(base_url=stack.ready["url"]) as http:
        headers = {"Authorization": f"Bearer {stack.ready['api_key']}"}
        return (await http.get(f"/api/tunnel/{stack.ready['instance_id']}/info", headers=headers)).status_code


async def test_second_run_finds_everything_again(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        assert set(stack.ready) == FIELDS
        assert await first_answer(stack) == 200
        before = stack.ready
        assert (stack.data_dir / "secrets.json").stat().st_mode & 0o077 == 0
        assert await stack.stop(signal.SIGINT) == 0
        assert not (tmp_path / "ready.json").exists()
        assert processes_naming(str(stack.data_dir)) == {}
    async with running_stack(tmp_path, port=stack.port) as again:
        same = {name for name in FIELDS if again.ready[name] == before[name]}
        assert same >= {"url", "org_id", "api_key", "supabase_jwt_secret", "instance_id", "engine"}
        assert await first_answer(again) == 200


async def test_several_run_side_by_side(tmp_path: Path) -> None:
    async with AsyncExitStack() as both:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        first, second = [await both.enter_async_context(running_stack(folder)) for folder in folders]
        assert first.ready["instance_id"] != second.ready["instance_id"]
        assert await first.stop() == 0
        assert await first_answer(second) == 200


@pytest.mark.parametrize("child", ["server serve", "server proxy", "envoy"])
async def test_child_that_dies_is_named_and_everything_ends(tmp_path: Path, child: str) -> None:
    async with running_stack(tmp_path) as stack:
        victims = [pid for pid, line in processes_naming(str(stack.data_dir)).items() if child in line]
        assert victims
        os.kill(victims[0], signal.SIGKILL)
        async with asyncio.timeout(15):
            assert await stack.process.wait() not in (0, None)
        name = {"server serve": "server", "server proxy": "proxy", "envoy": "edge"}[child]
        assert name in stack.printed().lower()
        await eventually(lambda: nothing_left(stack))


async def nothing_left(stack: Stack) -> bool:
    return processes_naming(str(stack.data_dir)) == {}


async def test_killed_up_takes_its_processes_along(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        stack.process.kill()
        await stack.process.wait()
        await eventually(lambda: nothing_left(stack), 20)


async def test_stops_although_a_child_hangs(tmp_path: Path) -> None:
    async with running_stack(tmp_path) as stack:
        for pid, line in processes_naming(str(stack.data_dir)).items():
            if "server proxy" in line or "devengine" in line:
                os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            await stack.stop()
        assert processes_naming(str(stack.data_dir)) == {}


async def refused(folder: Path, *arguments: str, port: int | None = None, **env: str) -> str:
    """What `up` says where it does not start: one sentence, and exit code 2."""
    output = folder / "refused.out"
    process = await start(folder / "data", *arguments, port=port or free_port(), output=output, env=env)
    async with asyncio.timeout(30):
        assert await process.wait() == 2, output.read_text()
    text = output.read_text().strip()
    assert len(text.splitlines()) <= 3, text
    assert "Traceback" not in text
    return text


async def test_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in await refused(tmp_path, port=port)


async def test_data_folder_that_is_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "data" in await refused(tmp_path)


async def test_broken_settings_are_one_sentence(tmp_path: Path) -> None:
    assert "ORCH8_STALE_LIMIT" in await refused(tmp_path, ORCH8_STALE_LIMIT="soon")
    assert "ORCH8_CONFIRM_TIMEOUT" in await refused(tmp_path, ORCH8_CONFIRM_TIMEOUT="-1")


async def test_two_on_one_data_folder_is_one_sentence(tmp_path: Path) -> None:
    async with running_stack(tmp_path):
        assert "data" in await refused(tmp_path)


async def test_broken_secrets_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secrets.json").write_text("{broken")
    assert "secrets.json" in await refused(tmp_path)
    assert (tmp_path / "data" / "secrets.json").read_text() == "{broken"


async def test_ready_file_holds_what_a_program_needs(tmp_path: Path) -> None:
    async with running_stack(tmp_path):
        text = json.loads((tmp_path / "ready.json").read_text())
        assert text["session_cookie"].startswith("sb-")
        assert "engine" in text["engine"]
