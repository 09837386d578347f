"""The command as an operator runs it."""

import asyncio
import json
import os
import sys

import pytest


async def doctor(variables: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ORCH8_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "doctor", *arguments),
        env={**others, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_one_line_for_each_check_and_no_secret(variables: dict[str, str]) -> None:
    code, out, _ = await doctor(variables)
    assert code == 0, out
    assert {line[0] for line in out.splitlines()} == {"✓", "!"}
    for name in ("ORCH8_DATAPLANE_TOKEN", "ORCH8_SECRET_KEY", "ORCH8_SUPABASE_JWT_SECRET"):
        assert variables[name] not in out
        code, out, err = await doctor({**variables, name: "short-and-secret"[:9]}, "--part", "server")
        assert code == 1
        assert "short-and" not in out + err


async def test_programs_get_the_same_as_json(variables: dict[str, str]) -> None:
    code, out, _ = await doctor({**variables, "ORCH8_DEFAULT_PLAN": "golden"}, "--json", "--part", "server")
    found = json.loads(out)
    assert (code, found["ok"]) == (1, False)
    (plans,) = [one for one in found["checks"] if one["check"] == "plans"]
    assert plans["state"] == "failed"
    assert set(plans) == {"check", "state", "found", "fix"}
    assert not [one for one in found["checks"] if one["check"].startswith(("proxy", "edge"))]


@pytest.mark.parametrize("arguments", [("--part", "engine"), ("--what",)])
async def test_an_unknown_part_is_refused(variables: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert (await doctor(variables, *arguments))[0] == 2
