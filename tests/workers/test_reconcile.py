"""Deadlines, opposite wishes, and engines that end by themselves, with a clock that the test moves."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from server.domain.instances import Deadlines, Phase, Status
from server.domain.restarts import RestartPolicy
from server.providers.runtime.base import EngineState, Observation, RuntimeFailed
from server.store.instances import Claim
from tests.support.calls import eventually
from tests.support.lifecycle import OWNER, World, world

DEADLINES = Deadlines(provisioning=timedelta(seconds=600), transition=timedelta(seconds=300))
RESTARTS = RestartPolicy(most=3, window=timedelta(seconds=600))


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, DEADLINES, RESTARTS) as made:
        yield made


async def running(life: World) -> str:
    """An instance that runs."""
    instance_id = await life.create()
    await life.until(instance_id, lambda found: found.phase is Phase.RUNNING)
    return instance_id


async def test_provisioning_past_its_deadline_has_failed_and_its_engine_is_stopped(life: World) -> None:
    with life.runtime.hold():
        instance_id = await life.create()
        await life.when(lambda: life.runtime.states.get(instance_id) is EngineState.STARTING)
        await life.advance(601)
        failed = await life.until(instance_id, lambda found: found.status is Status.FAILED)
        assert failed.error == "the engine did not become ready in time"
        await life.when(lambda: life.runtime.states[instance_id] is EngineState.STOPPED)
    assert await life.kinds(instance_id) == ["instance.created", "instance.failed"]


async def test_why_provisioning_failed_stays_though_what_is_left_of_the_engine_cannot_be_stopped(life: World) -> None:
    life.runtime.failing = "no room in iad"
    stop, tried = life.runtime.stop, 0

    async def unstoppable(instance_id: str) -> Observation:
        nonlocal tried
        tried += 1
        if tried < 4:
            raise RuntimeFailed("will not stop")
        return await stop(instance_id)

    life.runtime.stop = unstoppable  # type: ignore[method-assign]
    instance_id = await life.create()
    life.runtime.states[instance_id] = EngineState.STARTING
    await life.until(instance_id, lambda found: found.status is Status.FAILED)
    await life.advance(601)
    await life.when(lambda: life.runtime.states[instance_id] is EngineState.STOPPED, step=5)
    assert (await life.find(instance_id)).error == "no room in iad"


@pytest.mark.parametrize("unreachable", [True, False])
async def test_deadline_of_a_new_instance_runs_only_while_the_runtime_can_be_reached(
    life: World, unreachable: bool
) -> None:
    life.runtime.unreachable, life.runtime.unavailable = unreachable, 10**9
    instance_id = await life.create()
    await life.when(lambda: life.runtime.unavailable < 10**9)
    before = life.runtime.unavailable
    await life.advance(601)
    if not unreachable:
        failed = await life.until(instance_id, lambda found: found.status is Status.FAILED)
        assert failed.error == "not ready in time: not now"
        return

    async def tried_often() -> bool:
        await life.advance(30)
        return life.runtime.unavailable < before - 8

    await eventually(tried_often)
    held_up = await life.find(instance_id)
    assert (held_up.status, held_up.error) == (Status.PROVISIONING, "not ready yet, and tried again: not now")
    life.runtime.unavailable = 0
    assert (await life.until(instance_id, lambda found: found.status is Status.RUNNING, step=0.5)).error is None


async def test_suspend_past_its_deadline_says_so_and_goes_on(life: World) -> None:
    instance_id = await running(life)
    life.runtime.stubborn = True
    life.act(instance_id, "suspend")
    shown = await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDING)
    assert (shown.status, shown.error) == (Status.SUSPENDED, None)
    await life.advance(301)
    late = await life.until(instance_id, lambda found: found.error is not None)
    assert late.phase is Phase.SUSPENDING
    assert late.error == "not suspended yet, and tried again: the engine has not stopped yet"
    life.runtime.stubborn = False
    done = await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDED, step=5)
    assert done.error is None
    assert (await life.kinds(instance_id))[-3:] == ["instance.suspending", "instance.late", "instance.suspended"]


async def test_resume_past_its_deadline_says_so_and_goes_on(life: World) -> None:
    instance_id = await running(life)
    life.act(instance_id, "suspend")
    await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDED)
    with life.runtime.hold():
        life.act(instance_id, "resume")
        await life.until(instance_id, lambda found: found.phase is Phase.RESUMING)
        await life.advance(301)
        late = await life.until(instance_id, lambda found: found.error is not None)
        assert late.error == "not resumed yet, and tried again: the engine is not ready"
    assert (await life.until(instance_id, lambda found: found.phase is Phase.RUNNING, step=5)).error is None


async def test_what_fails_for_good_while_resuming_is_shown_at_once_and_tried_again(life: World) -> None:
    instance_id = await running(life)
    life.act(instance_id, "suspend")
    await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDED)
    life.runtime.failing = "no room in iad"
    life.act(instance_id, "resume")
    shown = await life.until(instance_id, lambda found: found.error is not None)
    assert (shown.status, shown.error) == (Status.RUNNING, "not resumed yet, and tried again: no room in iad")
    life.runtime.failing = None
    assert (await life.until(instance_id, lambda found: found.phase is Phase.RUNNING, step=5)).error is None


@pytest.mark.parametrize("phase", [Phase.PROVISIONING, Phase.SUSPENDING, Phase.RESUMING, Phase.FAILED, Phase.SUSPENDED])
async def test_an_instance_can_be_deleted_in_every_phase(life: World, phase: Phase) -> None:
    instance_id = await life.create() if phase in (Phase.PROVISIONING, Phase.FAILED) else await running(life)
    if phase in (Phase.PROVISIONING, Phase.RESUMING):
        life.runtime.held = True
    if phase is Phase.FAILED:
        life.runtime.failing = "no"
    if phase in (Phase.SUSPENDING, Phase.SUSPENDED, Phase.RESUMING):
        life.runtime.stubborn = phase is Phase.SUSPENDING
        life.act(instance_id, "suspend")
    if phase is Phase.RESUMING:
        await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDED)
        life.act(instance_id, "resume")
    if phase is not Phase.PROVISIONING:
        await life.until(instance_id, lambda found: found.phase is phase)
    await life.service.delete(caller=OWNER, instance_id=instance_id)
    life.runtime.stubborn = False
    await life.when(lambda: instance_id not in life.runtime.states)

    async def gone() -> bool:
        await life.advance(0.02)
        return (await life.kinds(instance_id))[-2:] == ["instance.deleting", "instance.deleted"]

    await eventually(gone)


async def test_resume_while_suspending_is_carried_out_after_it(life: World) -> None:
    instance_id = await running(life)
    life.runtime.stubborn = True
    life.act(instance_id, "suspend")
    await life.when(lambda: life.runtime.states[instance_id] is EngineState.STOPPING)
    life.act(instance_id, "resume")
    shown = await life.until(instance_id, lambda found: found.phase is Phase.RESUMING)
    assert shown.status is Status.RUNNING
    starts = len(life.runtime.started)
    life.runtime.stubborn = False
    await life.until(instance_id, lambda found: found.phase is Phase.RUNNING)
    assert len(life.runtime.started) == starts + 1, "it went down first"
    assert (await life.kinds(instance_id))[2:] == ["instance.suspending", "instance.resuming", "instance.running"]


async def test_of_many_opposite_wishes_the_last_one_counts(life: World) -> None:
    instance_id = await running(life)
    life.runtime.stubborn = True
    life.act(instance_id, "suspend")
    await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDING)
    life.act(instance_id, "resume")
    await life.until(instance_id, lambda found: found.phase is Phase.RESUMING)
    life.act(instance_id, "suspend")
    await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDING)
    life.runtime.stubborn = False
    await life.until(instance_id, lambda found: found.phase is Phase.SUSPENDED)
    assert life.runtime.states[instance_id] is EngineState.STOPPED


async def test_a_step_that_found_what_was_wanted_before_writes_nothing(life: World) -> None:
    """Also where the wish has gone there and back meanwhile: the revision tells it, not the phase."""
    instance_id = await running(life)
    before = await life.find(instance_id)
    async with life.database.write() as tx:
        claims = await tx.instances.claim_due("slow", life.clock() + timedelta(days=1), timedelta(seconds=30), 10)
        await tx.commit()
    claim = Claim(instance=before, attempts=0, deadline_at=None)
    assert [one.instance.id for one in claims] == [instance_id]
    life.act(instance_id, "suspend")
    await life.until(instance_id, lambda found: found.revision == before.revision + 1)
    life.act(instance_id, "resume")
    await life.until(instance_id, lambda found: found.revision == before.revision + 2)
    async with life.database.write() as tx:
        assert await tx.instances.record(claim, "slow", before) is None


async def test_engine_that_ends_is_started_again_and_it_is_told(life: World) -> None:
    instance_id = await running(life)
    life.runtime.crash(instance_id)
    back = await life.until(instance_id, lambda found: found.restarts.count == 1 and found.restarts.down_since is None)
    assert (back.status, back.error, len(life.runtime.started)) == (Status.RUNNING, None, 2)
    down, up = (await life.events(instance_id))[-2:]
    assert (str(down.kind), str(up.kind)) == ("engine.down", "engine.restarted")
    assert up.details["down_seconds"] == pytest.approx((up.at - down.at).total_seconds(), abs=0.1)


async def test_engine_that_is_not_there_any_more_is_made_again(life: World) -> None:
    instance_id = await running(life)
    del life.runtime.states[instance_id]
    life.runtime.looks.pop(instance_id)
    await life.when(lambda: life.runtime.states.get(instance_id) is EngineState.RUNNING)
    assert life.runtime.started[0] == life.runtime.started[1], "with the same keys"


async def test_engine_that_ends_again_and_again_is_started_slowly(life: World) -> None:
    instance_id = await running(life)
    with life.runtime.hold():
        began = life.clock()
        for start in range(2, 5):
            life.runtime.crash(instance_id)
            await life.when(lambda expected=start: len(life.runtime.started) == expected)  # type: ignore[misc]
        assert life.clock() - began >= timedelta(seconds=1 + 2), "each pause is twice the one before"
        slow = await life.until(instance_id, lambda found: found.error is not None)
        assert slow.status is Status.RUNNING
        assert slow.error == "the engine ended 3 times within 600 s; it is started every 60 s"

        life.runtime.crash(instance_id)
        failing = life.clock()
        await life.when(lambda: len(life.runtime.started) == 5, step=1)
        assert life.clock() - failing >= timedelta(seconds=30), "slowly now"
    back = await life.until(instance_id, lambda found: found.restarts.down_since is None)
    assert back.error is None
    kinds = (await life.kinds(instance_id))[2:]
    assert kinds == ["engine.down", "engine.failing", "engine.restarted"]


async def test_engine_that_does_not_come_back_says_so(life: World) -> None:
    instance_id = await running(life)
    with life.runtime.hold():
        life.runtime.crash(instance_id)
        await life.when(lambda: len(life.runtime.started) == 2)
        await life.advance(301)
        shown = await life.until(instance_id, lambda found: found.error is not None)
    assert shown.error == "not restarted yet, and tried again: the engine is not ready"
    assert (await life.until(instance_id, lambda found: found.error is None, step=5)).status is Status.RUNNING
