"""Replicas under load: they are started again one by one, killed, and left without server or database."""

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
import pytest_asyncio

from tests.e2e.conftest import check_error
from tests.replicas.load import Failed, Load, running_load
from tests.replicas.world import ALONE, KINDS, MEMBER, PATIENCE_S, REPLICAS, World, running_world
from tests.support.calls import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
SOME = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


def told(failed: list[Failed]) -> str:
    return "\n".join(f"{one.number} {one.kind} by {one.edge}: {one.problem}" for one in failed)


def check_honest(one: Failed, reasons: dict[str, str]) -> None:
    """A failure must be an answer in the contract's shape, with the reason for its kind of request."""
    assert one.answer is not None, told([one])
    assert one.kind in reasons, told([one])
    check_error(one.answer, 503, reasons[one.kind])


async def stop_gracefully(world: World, load: Load, name: str) -> None:
    """As an orchestrator does: it is told, and ends once nobody sends anything to it."""
    kind = name.partition("-")[0]
    ending = asyncio.create_task(world.parts.stop(name))
    if kind == "edge":
        await eventually(partial(_left, load, name), PATIENCE_S)
    else:
        await world.until_seen(kind, 1)
    await load.until_more(SOME)
    assert not ending.done(), f"{name} did not wait:\n{world.parts.log(name)[-4000:]}"
    world.parts.hurry(name)
    assert await ending == 0, world.parts.log(name)[-4000:]


async def _left(load: Load, edge: str) -> bool:
    return load.is_left(edge)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rolling_restart_fails_no_request(world: World, kind: str) -> None:
    await world.mend()
    async with running_load(world) as load:
        await load.until_more(SOME)
        for name in REPLICAS[kind]:
            await stop_gracefully(world, load, name)
            await load.until_more(SOME)
            await world.parts.start(name)
            await world.until_whole()
        await load.until_more(SOME)
    assert load.failed == [], told(load.failed)
    assert load.refused == 0
    assert set(load.through) == set(REPLICAS["edge"])


async def test_a_single_edge_starts_again_without_a_failed_request(world: World) -> None:
    """Callers who know no other address are neither refused nor cut."""
    await world.mend()
    await world.parts.start(ALONE)
    await eventually(partial(world.is_ready, ALONE), PATIENCE_S)
    async with running_load(world, ALONE) as load:
        await load.until_more(SOME)
        for epoch in (1, 2):
            world.parts.start_again(ALONE)
            await eventually(partial(_is_epoch, world, epoch), PATIENCE_S)
            await load.until_more(4 * SOME)
    assert load.failed == [], told(load.failed)
    assert (load.refused, load.nowhere) == (0, 0)
    assert await world.parts.end(ALONE, signal.SIGTERM) == 0, world.parts.log(ALONE)[-4000:]


async def _is_epoch(world: World, epoch: int) -> bool:
    return await world.epoch_of_alone() == epoch


async def test_a_kill_fails_only_what_is_under_way(world: World) -> None:
    """Most of that is asked again elsewhere: a decision always."""
    await world.mend()
    killed = [REPLICAS[kind][0] for kind in KINDS]
    async with running_load(world) as load:
        await load.until_more(SOME)
        for name in killed:
            await world.parts.end(name, signal.SIGKILL)
            begun = load.started
            await load.until_more(2 * SOME)
            check_kill(load.failed, name, begun)
            load.failed.clear()
        await world.parts.start(*killed)
        await world.until_whole()
        await load.until_more(SOME)
    assert load.failed == [], told(load.failed)
    assert set(load.through) == set(REPLICAS["edge"])


def check_kill(failed: list[Failed], name: str, begun: int) -> None:
    """`begun`: so many requests had begun when the process was gone. Those of a killed Envoy break.

    A read that a killed server had begun to answer cannot be asked again, and says so.
    """
    assert all(one.number <= begun for one in failed), told(failed)
    if name in REPLICAS["edge"]:
        assert all(one.edge == name and one.answer is None for one in failed), told(failed)
    elif name in REPLICAS["serve"]:
        for one in failed:
            check_honest(one, {"management": "UNAVAILABLE"})
    else:
        assert failed == [], told(failed)


async def test_what_a_killed_server_was_at_is_finished_by_the_other(world: World) -> None:
    """Without a word from it, and sooner than a whole step may take."""
    await world.mend()
    world.fly.faults.delay("Machines_create", 60)
    async with httpx.AsyncClient(base_url=world.url("edge-2"), headers=MEMBER, timeout=70) as http:
        made = (await http.post("/api/instances", json={"name": "second", "region": "fra"})).json()

        async def holder() -> str | None:
            return await asyncio.to_thread(world.works_on, made["id"]) if world.fly.faults.are_over else None

        name = await eventually(holder, PATIENCE_S)
        await world.parts.end(name, signal.SIGKILL)
        settled = (await http.get(f"/api/instances/{made['id']}?wait=20s")).json()
        assert settled["status"] == "running", settled
        assert (await http.delete(f"/api/instances/{made['id']}")).status_code == 204


async def test_the_tunnel_goes_on_without_any_server(world: World) -> None:
    await world.mend()
    async with running_load(world) as load:
        await load.until_more(SOME, "management")
        for name in REPLICAS["serve"]:
            await world.parts.end(name, signal.SIGKILL)
        await eventually(partial(_has_failed, load), PATIENCE_S)
        await load.until_more(2 * SOME, "tunnel")
        await world.parts.start(*REPLICAS["serve"])
        await world.until_whole()
        begun = load.started
        await load.until_more(SOME, "management")
    for one in load.failed:
        check_honest(one, {"management": "UNAVAILABLE"})
        assert one.number <= begun, told([one])


async def test_the_tunnel_goes_on_without_the_database_and_all_resumes_by_itself(world: World) -> None:
    await world.mend()
    async with running_load(world) as load:
        await load.until_more(SOME, "management")
        await asyncio.to_thread(world.postgres.stop)
        await eventually(partial(_has_failed, load), PATIENCE_S)
        await load.until_more(2 * SOME, "tunnel")
        await asyncio.to_thread(world.postgres.start)
        await world.until_whole()
        begun = load.started
        await load.until_more(SOME, "management")
    for one in load.failed:
        check_honest(one, {"management": "DATABASE_UNAVAILABLE"})
        assert one.number <= begun, told([one])


async def _has_failed(load: Load) -> bool:
    return len(load.failed) > 0
