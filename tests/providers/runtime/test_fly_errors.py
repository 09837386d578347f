"""What each of Fly's errors means for an engine, what its user reads, and what the operator's log says."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from server.providers.runtime import fly as fly_module
from server.providers.runtime import fly_api
from server.providers.runtime.base import EngineState, RuntimeFailed, RuntimeUnavailable
from tests.providers.runtime.fly_support import ID, SPEC, runtime, until
from tests.support.fly.cloud import Fly
from tests.support.fly.faults import CAPACITY
from tests.support.fly.server import running_fly

UP = (EngineState.STARTING, EngineState.RUNNING)
CREATE, VOLUME, LIST = "Machines_create", "Volumes_create", "Machines_list"


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[Fly]:
    async with running_fly(tmp_path, runs_engines=False) as fly:
        yield fly


@pytest.mark.parametrize(
    ("operation", "status", "body", "message"),
    [
        (CREATE, 503, CAPACITY, "Fly has no room for this engine: insufficient resources to create machine"),
        (VOLUME, 422, CAPACITY, "Fly has no room for this engine: insufficient resources to create machine"),
        (LIST, 401, {"error": "unauthorized"}, "Fly does not let the service in: unauthorized"),
        (LIST, 403, {"error": "not your app"}, "Fly does not let the service in: not your app"),
        (LIST, 404, {"error": "app not found"}, "Fly refused: app not found"),
        (CREATE, 400, {"error": "invalid guest"}, "Fly refused: invalid guest"),
        (CREATE, 402, {"error": "pay first"}, "Fly refused: pay first"),
        (CREATE, 422, {"error": "machine limit reached", "status": "unknown"}, "Fly refused: machine limit reached"),
        (CREATE, 413, "plain\n  text", "Fly refused: plain text"),
        (CREATE, 418, "", "Fly refused: status 418"),
        (CREATE, 400, ["a", "list"], 'Fly refused: ["a","list"]'),
        (CREATE, 400, {"error": "long " * 1000}, "Fly refused: " + ("long " * 60)),
    ],
)
async def test_what_cannot_be_fails_with_flys_words(
    fly: Fly, operation: str, status: int, body: Any, message: str
) -> None:
    async with runtime(fly) as made:
        fly.faults.fail(operation, status, body)
        with pytest.raises(RuntimeFailed) as caught:
            await made.run(SPEC)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("status", "body", "unreachable", "message"),
    [
        (408, {"error": "deadline_exceeded"}, False, "Fly cannot do it yet: deadline_exceeded"),
        (409, {"status": "error", "message": "lease held"}, False, "Fly cannot do it yet: lease held"),
        (412, {"error": "failed_precondition: x"}, False, "Fly cannot do it yet: failed_precondition: x"),
        (429, {"error": "slow down"}, True, "Fly's rate limit is reached."),
        (500, {"error": "internal"}, True, "Fly answered with status 500: internal"),
        (502, "<html>", True, "Fly answered with status 502: <html>"),
        (503, {"error": "away", "status": "unknown"}, True, "Fly answered with status 503: away"),
        (504, "", True, "Fly answered with status 504: status 504"),
        (302, "", True, "Fly answered with status 302: status 302"),
        (200, "no JSON", False, "Fly's answer cannot be read."),
        (200, {"no": "machine"}, False, "Fly's answer cannot be read."),
        (200, ["no machine"], False, "Fly's answer cannot be read."),
        (200, None, False, "Fly's answer cannot be read."),
    ],
)
async def test_what_can_pass_is_tried_again(fly: Fly, status: int, body: Any, unreachable: bool, message: str) -> None:
    """`unreachable`: no deadline runs meanwhile."""
    async with runtime(fly) as made:
        fly.faults.fail(CREATE, status, "" if body is None else body)
        with pytest.raises(RuntimeUnavailable) as caught:
            await made.run(SPEC)
        assert (str(caught.value), caught.value.unreachable) == (message, unreachable)
        assert (await made.run(SPEC)).state in UP


async def test_fly_that_is_down_is_unreachable(fly: Fly) -> None:
    async with runtime(fly) as made:
        fly.faults.down = True
        for step in (made.observe(ID), made.run(SPEC), made.stop(ID), made.destroy(ID), made.engines()):
            with pytest.raises(RuntimeUnavailable, match="cannot be reached") as caught:
                await step
            assert caught.value.unreachable
        fly.faults.clear()
        assert (await made.observe(ID)).state is EngineState.ABSENT


async def test_address_where_nobody_is_is_unreachable(fly: Fly) -> None:
    async with runtime(fly, api_url="http://127.0.0.1:1") as made:
        with pytest.raises(RuntimeUnavailable, match="cannot be reached"):
            await made.observe(ID)


async def test_slow_fly_is_unreachable(fly: Fly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fly_api, "TIMEOUT", httpx.Timeout(0.2))
    async with runtime(fly) as made:
        fly.faults.delay(CREATE, 30)
        with pytest.raises(RuntimeUnavailable, match="cannot be reached") as caught:
            await made.run(SPEC)
        assert caught.value.unreachable
        assert (await made.run(SPEC)).state in UP
        assert len(fly.audit().machines) == 1, "what was done unseen is found"


async def test_step_ends_in_time(fly: Fly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fly_module, "LOOK_S", 0.2)
    async with runtime(fly) as made:
        fly.faults.delay(LIST, 30)
        with pytest.raises(RuntimeUnavailable, match="takes too long") as caught:
            await made.observe(ID)
        assert caught.value.unreachable


@pytest.mark.parametrize("operation", ["Machines_create_lease", "Machines_stop", "Machines_wait"])
async def test_machine_that_goes_meanwhile_is_looked_for_again(fly: Fly, operation: str) -> None:
    """A 404 in the middle of a step is no reason to give an instance up."""
    async with runtime(fly) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        fly.faults.fail(operation, 404, {"error": "machine not found"})
        await until(EngineState.STOPPED, lambda: made.stop(ID))


async def test_wait_that_fly_does_not_want_is_done_without(fly: Fly) -> None:
    async with runtime(fly) as made:
        fly.faults.fail("Machines_wait", 400, {"error": "invalid_argument"}, times=None)
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        await until(EngineState.ABSENT, lambda: made.destroy(ID))


async def test_app_that_is_not_there_fails(fly: Fly) -> None:
    fly.foreign_apps.add("theirs")
    for app, message in (
        ("nothing", "Fly refused: app 'nothing' not found"),
        ("theirs", "does not let the service in"),
    ):
        async with runtime(fly, app=app) as made:
            with pytest.raises(RuntimeFailed, match=message):
                await made.run(SPEC)


@pytest.mark.parametrize(("token", "scheme"), [("fm2_abc", "FlyV1"), ("fm1r_abc", "FlyV1"), ("fo1_abc", "Bearer")])
async def test_token_goes_by_the_scheme_of_its_kind(fly: Fly, token: str, scheme: str) -> None:
    fly.token = token
    async with runtime(fly) as made:
        await made.observe(ID)
    assert fly.calls[0].headers["authorization"] == f"{scheme} {token}"


async def test_wrong_token_is_not_shown(fly: Fly) -> None:
    async with runtime(fly, token="fm2_wrong-and-secret") as made:
        with pytest.raises(RuntimeFailed, match="does not let the service in") as caught:
            await made.run(SPEC)
        assert "fm2_wrong" not in str(caught.value)


async def test_errors_are_logged_with_flys_request_id_and_without_secrets(fly: Fly) -> None:
    secret = "an-operators-secret"
    echo = f"bad env {SPEC.engine_key} {SPEC.encryption_key} {secret} {fly.token} true"
    async with runtime(fly, engine_env={"MORE": secret, "FLAG": "true"}) as made:
        fly.faults.fail(CREATE, 422, {"error": echo})
        with structlog.testing.capture_logs() as logs, pytest.raises(RuntimeFailed) as caught:
            await made.run(SPEC)
        assert str(caught.value) == "Fly refused: bad env … … … … true"
        (line,) = [line for line in logs if line["event"] == "fly.refused"]
        assert line["fly_request_id"] == fly.asked(CREATE)[-1].request_id
        assert (line["action"], line["status"]) == ("create_machine", 422)
        for each in (SPEC.engine_key, SPEC.encryption_key, secret, fly.token):
            assert each not in str(logs)
        assert fly.token not in repr(made._config)
        assert secret not in repr(made._config)


async def test_start_without_room_is_said(fly: Fly) -> None:
    async with runtime(fly) as made:
        await made.run(SPEC)
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        fly.full_regions.add("iad")
        with pytest.raises(RuntimeFailed, match="no room for this engine"):
            await made.run(SPEC)
