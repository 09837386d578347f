"""A deployment whose process is killed, or whose engine fails, at every step there is."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.domain.deployments import Phase, Status
from tests.providers.devengine.running import RunningEngine, engine_in
from tests.support.deployments import (
    ALL,
    NOTHING,
    SECRETS,
    DeploymentWorld,
    Fault,
    Killed,
    answer_lost,
    deployment_world,
    killed_after,
    killed_before,
    refused,
    unsent,
)

# What a deployment of the tests' template asks the engine for where all goes well.
CALLS = ["POST /credentials", "POST /credentials", "POST /sequences", "POST /triggers", "GET /cron", "POST /cron"]
STEPS = range(len(CALLS))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with engine_in(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
async def world(tmp_path: Path, engine: RunningEngine, database_kind: str) -> AsyncIterator[DeploymentWorld]:
    async with deployment_world(tmp_path, engine.http) as made:
        yield made


async def check_running(world: DeploymentWorld, deployment_id: str) -> None:
    """All is there, once, and no secret is left in the database."""
    found = await world.find(deployment_id)
    assert found is not None
    assert found.status is Status.RUNNING
    assert world.in_engine() == ALL
    (policy,) = await world.policies()
    assert (policy.id, policy.fields.slug, policy.fields.provider) == (found.policy_id, found.slug, "api-key")
    assert policy.fields.trigger_secret
    assert await world.kinds() == ["deployment.created", "deployment.running"]
    await check_no_secrets(world)


async def check_gone(world: DeploymentWorld, deployment_id: str) -> None:
    """It has failed, and nothing of it is left but what it says of that."""
    found = await world.find(deployment_id)
    assert found is not None
    assert found.status is Status.FAILED
    assert world.in_engine() == NOTHING
    assert await world.policies() == []
    assert await world.kinds() == ["deployment.created", "deployment.failed"]
    await check_no_secrets(world)


async def check_no_secrets(world: DeploymentWorld) -> None:
    assert await world.rows("SELECT secrets, trigger_secret FROM deployments") == [(None, None)]
    kept = repr([await world.rows(f"SELECT * FROM {name}") for name in ("deployments", "policies", "events")])
    assert not any(secret in kept for secret in SECRETS.values())


async def test_all_steps_are_done_in_order_and_once(world: DeploymentWorld) -> None:
    made = await world.ask()
    assert made.status is Status.PROVISIONING
    ((sealed, trigger),) = await world.rows("SELECT secrets, trigger_secret FROM deployments")
    assert sealed
    assert trigger
    assert not any(secret.encode() in sealed for secret in SECRETS.values())
    await world.work_off()
    assert world.faults.calls == CALLS
    await check_running(world, made.id)


@pytest.mark.parametrize("fault", [killed_before, killed_after])
async def test_a_killed_process_leaves_it_to_the_next_which_makes_nothing_twice(
    world: DeploymentWorld, fault: Fault
) -> None:
    for step in STEPS:
        await world.anew()
        made = await world.ask()
        world.faults.at = {step: fault}
        with pytest.raises(Killed):
            await world.work()
        assert (await world.find(made.id) or made).status is Status.PROVISIONING
        await world.restart()
        await world.work_off()
        await check_running(world, made.id)


@pytest.mark.parametrize("kills", [1, 2])
async def test_a_process_killed_between_policy_and_proxies_leaves_that_to_the_next(
    world: DeploymentWorld, kills: int
) -> None:
    made = await world.ask()
    world.propagation.kills = kills
    for _ in range(kills):
        with pytest.raises(Killed):
            await world.work()
        assert (await world.find(made.id) or made).status is Status.PROVISIONING
        await world.restart()
    await world.work_off()
    await check_running(world, made.id)


async def test_a_process_that_dies_at_every_single_call_comes_to_the_end(world: DeploymentWorld) -> None:
    made = await world.ask()
    # Each life does one call more than those of which the answer is not written down yet.
    world.faults.at = dict.fromkeys(range(0, 40, 2), killed_after)
    for _ in range(40):
        with suppress(Killed):
            await world.work()
        await world.restart()
    await world.work_off()
    await check_running(world, made.id)


@pytest.mark.parametrize("sent", [False, True])
async def test_an_engine_that_refuses_any_step_is_left_as_it_was(world: DeploymentWorld, sent: bool) -> None:
    for step in STEPS:
        await world.anew()
        made = await world.ask()
        world.faults.at = {step: refused(400, "invalid argument: not with me", sent=sent)}
        await world.work_off()
        await check_gone(world, made.id)
        found = await world.find(made.id)
        assert found is not None
        assert found.failure().reason == "ENGINE_ERROR"
        assert found.failure().metadata == {"engine_status": "400"}
        assert "invalid argument: not with me" in str(found.error)


@pytest.mark.parametrize("fault", [unsent, answer_lost])
async def test_an_engine_that_is_away_from_any_step_on_is_left_as_it_was_when_it_is_back(
    world: DeploymentWorld, fault: Fault
) -> None:
    for step in STEPS:
        await world.anew()
        made = await world.ask()
        # Three tries, and the first of what undoes them. A try for what may be there already takes two calls.
        world.faults.at = dict.fromkeys(range(step, step + 7), fault)
        await world.work_off()
        await check_gone(world, made.id)
        found = await world.find(made.id)
        assert found is not None
        assert found.failure().reason == "ENGINE_UNREACHABLE"


@pytest.mark.parametrize("fault", [unsent, answer_lost, refused(503, "unavailable: soon"), refused(500, "", sent=True)])
async def test_a_fault_that_passes_is_tried_again(world: DeploymentWorld, fault: Fault) -> None:
    for step in STEPS:
        await world.anew()
        made = await world.ask()
        world.faults.at = {step: fault}
        await world.work_off()
        await check_running(world, made.id)


async def test_what_undoes_a_deployment_goes_on_after_a_kill(world: DeploymentWorld) -> None:
    for step in STEPS:
        await world.anew()
        made = await world.ask()
        world.faults.at = {5: refused(422, "unprocessable entity: no"), 6 + step: killed_after}
        await world.work()
        assert (await world.find(made.id) or made).status is Status.FAILED
        with suppress(Killed):
            await world.work()
        await world.restart()
        await world.work_off()
        await check_gone(world, made.id)


async def test_what_another_one_has_made_of_that_name_is_no_success(world: DeploymentWorld) -> None:
    made = await world.ask()
    headers = {"x-tenant-id": world.owner.org_id}
    foreign = {**made.sequence, "name": "other"}
    assert world.engine.post("/api/v1/sequences", json=foreign, headers=headers).status_code == 201
    await world.work_off()
    found = await world.find(made.id)
    assert found is not None
    assert found.phase is Phase.FAILED
    assert "already exists" in str(found.error)


async def test_a_secret_that_the_engine_repeats_is_not_shown(world: DeploymentWorld) -> None:
    made = await world.ask(secrets={"token": "very-secret-value"})
    world.faults.at = {0: refused(400, "invalid argument: 'very-secret-value' is too long")}
    await world.work_off()
    found = await world.find(made.id)
    assert found is not None
    assert "invalid argument: '[REDACTED]' is too long" in str(found.error)


async def test_an_engine_that_answers_without_end_fails_the_deployment(world: DeploymentWorld) -> None:
    made = await world.ask()
    world.faults.at = {0: refused(200, "x" * 2 * 1024 * 1024)}
    await world.work_off()
    await check_gone(world, made.id)
