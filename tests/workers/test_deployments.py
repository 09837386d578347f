"""What callers are told while a job works on their deployment, and what ends it meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.domain.deployments import Status
from server.errors import EngineError, EngineUnreachable, InstanceInUse, NotFound
from server.services.deployments import NewDeployment
from server.services.identifiers import new_id
from server.workers.deploy import Deployer
from tests.providers.devengine.running import RunningEngine, engine_in
from tests.support.calls import eventually
from tests.support.deployments import (
    ALL,
    NOTHING,
    SECRETS,
    DeploymentWorld,
    Killed,
    add_instance,
    deployment_world,
    killed_after,
    refused,
    unsent,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with engine_in(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
async def world(tmp_path: Path, engine: RunningEngine, database_kind: str) -> AsyncIterator[DeploymentWorld]:
    async with deployment_world(tmp_path, engine.http) as made:
        yield made


@pytest.fixture
async def patient(tmp_path: Path, engine: RunningEngine, database_kind: str) -> AsyncIterator[DeploymentWorld]:
    """A world whose POST waits for as long as it takes."""
    async with deployment_world(tmp_path, engine.http, patience=60) as made:
        yield made


@asynccontextmanager
async def working(world: DeploymentWorld, *owners: str) -> AsyncIterator[None]:
    """Servers that work on deployments."""
    tasks = [asyncio.create_task(Deployer(replace(world.parts, owner=owner)).run()) for owner in owners or ("one",)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Kept:
    """What a call with an Idempotency-Key keeps as its answer."""

    def __init__(self) -> None:
        self.answers: list[str | None] = []

    async def keep(self, tx: Any, made: Any, version: int | None = None) -> None:
        self.answers.append(made.status)

    async def retract(self, tx: Any) -> None:
        self.answers.append(None)


async def create(world: DeploymentWorld, kept: Kept, name: str = "mine") -> Any:
    wanted = NewDeployment(
        template_id="tmpl_all", name=name, config={"url": "https://example.com"}, secrets=SECRETS, instance_id=None
    )
    return await world.service.create(caller=world.owner, wanted=wanted, keep=kept.keep, retract=kept.retract)


async def gone(world: DeploymentWorld) -> None:
    """Nothing is left, in the database or the engine."""

    async def check() -> bool:
        return not await world.rows("SELECT id FROM deployments")

    await eventually(check)
    assert world.in_engine() == NOTHING
    assert await world.policies() == []


async def test_the_answer_of_what_runs_in_time_is_kept_as_it_is_given(patient: DeploymentWorld) -> None:
    kept = Kept()
    async with working(patient):
        made = await create(patient, kept)
    assert made.status is Status.RUNNING
    assert kept.answers == ["provisioning", "running"]


@pytest.mark.parametrize("step", range(6))
async def test_an_engine_that_refuses_is_answered_with_its_words_and_nothing_stays(
    patient: DeploymentWorld, step: int
) -> None:
    kept = Kept()
    patient.faults.at = {step: refused(409 if step == 4 else 400, "conflict: not with me")}
    async with working(patient):
        with pytest.raises(EngineError, match="conflict: not with me") as caught:
            await create(patient, kept)
        assert caught.value.reason == "ENGINE_ERROR"
        assert kept.answers == ["provisioning", None]
        assert await patient.service.list(caller=patient.owner) == []
        await gone(patient)
        assert (await create(patient, kept)).name == "mine"


async def test_an_engine_that_is_away_is_answered_so_and_nothing_stays(patient: DeploymentWorld) -> None:
    kept = Kept()
    patient.faults.at = dict.fromkeys(range(3, 8), unsent)
    async with working(patient):
        with pytest.raises(EngineUnreachable):
            await create(patient, kept)
        assert kept.answers == ["provisioning", None]
        await gone(patient)


async def test_what_fails_after_the_answer_shows_why_until_it_is_deleted_and_its_instance_stays(
    world: DeploymentWorld,
) -> None:
    made = await world.ask()
    world.faults.at = {2: refused(400, "invalid argument: no")}
    await world.work_off()
    found = await world.service.get(caller=world.owner, deployment_id=made.id)
    assert (found.status, found.error) == (Status.FAILED, "The engine answered with status 400: invalid argument: no")
    assert await world.service.delete(caller=world.owner, deployment_id=made.id) is None
    await world.work_off()
    await gone(world)
    assert (await world.instances.get(caller=world.owner, instance_id=world.instance_id)).id == world.instance_id


async def test_several_servers_make_each_deployment_once(world: DeploymentWorld) -> None:
    made = [await world.ask() for _ in range(6)]
    async with working(world, "one", "two", "three"):

        async def all_run() -> bool:
            return {one.status for one in await world.service.list(caller=world.owner)} == {Status.RUNNING}

        await eventually(all_run)
    assert len(made) == 6
    assert world.in_engine() == {kind: 6 * count for kind, count in ALL.items()}
    assert len(await world.policies()) == 6
    assert len(world.faults.calls) == 6 * 6


async def test_a_deployment_that_ends_while_it_is_made_is_left_alone(world: DeploymentWorld) -> None:
    made = await world.ask()
    world.faults.at = {2: killed_after}
    with pytest.raises(Killed):
        await world.work()
    await world.service.delete(caller=world.owner, deployment_id=made.id)
    await world.restart()
    await world.work()
    assert await world.rows("SELECT id FROM deployments") == []
    assert await world.policies() == []
    with pytest.raises(NotFound):
        await world.instances.get(caller=world.owner, instance_id=world.instance_id)
    assert "deployment.running" not in await world.kinds()


async def test_a_deployment_ends_with_its_instance_also_while_it_is_undone(world: DeploymentWorld) -> None:
    await world.ask()
    world.faults.at = {5: refused(400, "invalid argument: no"), 6: unsent}
    await world.work()
    await world.work()
    await world.instances.delete(caller=world.owner, instance_id=world.instance_id)
    assert await world.rows("SELECT id FROM deployments") == []
    assert (await world.kinds())[-2:] == ["deployment.deleted", "instance.deleting"]


async def test_others_that_run_there_are_named_and_those_elsewhere_are_not(world: DeploymentWorld) -> None:
    other = new_id("inst")
    await add_instance(world, other, "other")
    first, second = [await world.ask(name=name, instance_id=world.instance_id) for name in ("first", "second")]
    third = await world.ask(name="third")
    assert third.instance_id == other
    with pytest.raises(InstanceInUse) as caught:
        await world.service.delete(caller=world.owner, deployment_id=first.id)
    assert caught.value.metadata == {"instance_id": world.instance_id, "deployments": second.name}
    await world.service.delete(caller=world.owner, deployment_id=third.id)
    assert sorted(one.name for one in await world.service.list(caller=world.owner)) == ["first", "second"]


async def test_an_instance_that_is_suspended_meanwhile_fails_the_deployment_and_is_cleared_when_it_is_back(
    world: DeploymentWorld,
) -> None:
    made = await world.ask()
    world.faults.at = {2: killed_after}
    with pytest.raises(Killed):
        await world.work()
    await world.restart()
    ((port,),) = await world.rows("SELECT port FROM instances")
    await world.execute("UPDATE instances SET phase = 'suspended', port = NULL")

    async def failed() -> bool:
        await world.work()
        found = await world.find(made.id)
        return found is not None and found.status is Status.FAILED

    await eventually(failed)
    assert world.in_engine()["sequences"] == 1
    await world.execute("UPDATE instances SET phase = 'running', port = :port", port=port)
    await world.work_off()
    assert world.in_engine() == NOTHING
