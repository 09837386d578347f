"""The sweep for engines that are nobody's, and for instances whose engine is gone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from server.domain.instances import Deadlines, Phase
from server.domain.restarts import RestartPolicy
from server.operations import Observers
from server.providers.runtime.base import EngineState, FoundEngine, RuntimeUnavailable
from server.telemetry.server_metrics import ServerMetrics
from server.workers.orphans import GRACE, MOST_REMOVED, OrphanSweeper
from tests.support.calls import eventually
from tests.support.lifecycle import OWNER, World, world
from tests.support.runtime import MemoryRuntime


class AgedRuntime(MemoryRuntime):
    """Knows how old its engines are, and has some of another installation."""

    extra: tuple[FoundEngine, ...] = ()
    away = False

    async def engines(self) -> list[FoundEngine]:
        if self.away:
            raise RuntimeUnavailable("not now")
        return [*await super().engines(), *self.extra]


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, Deadlines(), RestartPolicy(), AgedRuntime()) as made:
        yield made


def sweeper(life: World, *, remove: bool = True, metrics: ServerMetrics | None = None) -> OrphanSweeper:
    swept = Observers(metrics or ServerMetrics(), None).swept
    return OrphanSweeper(database=life.database, runtime=life.runtime, clock=life.clock, remove=remove, swept=swept)


async def test_engine_of_no_instance_is_reported_and_only_removed_where_that_was_chosen(life: World) -> None:
    life.runtime.states["inst_nobodys"] = EngineState.RUNNING
    reporter, remover = sweeper(life, remove=False), sweeper(life)
    for one in (reporter, remover):
        assert (await one.sweep()).orphans == (), "it may be that of an instance that is just being made"
    await life.advance((GRACE + timedelta(seconds=1)).total_seconds())
    found = await reporter.sweep()
    assert [one.instance_id for one in found.orphans] == ["inst_nobodys"]
    assert (found.removed, found.new) == ((), ("inst_nobodys",))
    assert (await reporter.sweep()).new == ()
    assert life.runtime.states == {"inst_nobodys": EngineState.RUNNING}
    assert (await remover.sweep()).removed == ("inst_nobodys",)
    assert life.runtime.states == {}
    assert (await remover.sweep()).orphans == ()


async def test_it_is_counted(life: World) -> None:
    metrics = ServerMetrics()
    value = metrics.registry.get_sample_value
    life.runtime.states["inst_nobodys"] = EngineState.RUNNING
    reporter, remover = sweeper(life, remove=False, metrics=metrics), sweeper(life, metrics=metrics)
    for one in (reporter, remover):
        await one.sweep()
    assert value("orch8_orphans_found_total") == 0
    await life.advance((GRACE + timedelta(seconds=1)).total_seconds())
    for _ in range(2):
        await reporter.sweep()
    assert value("orch8_orphans_found_total") == 1
    assert value("orch8_orphans") == 1
    await remover.sweep()
    assert value("orch8_orphans_removed_total") == 1
    assert value("orch8_orphans") == 0


async def test_age_that_the_runtime_knows_counts(life: World) -> None:
    assert isinstance(life.runtime, AgedRuntime)
    old, young = life.clock() - GRACE, life.clock() - GRACE + timedelta(seconds=1)
    life.runtime.extra = (
        FoundEngine(instance_id="inst_old", name="old", state=EngineState.STOPPED, created_at=old),
        FoundEngine(instance_id="inst_young", name="young", state=EngineState.STOPPED, created_at=young),
    )
    assert [one.name for one in (await sweeper(life).sweep()).orphans] == ["old"]


async def test_engines_of_others_are_never_touched(life: World) -> None:
    assert isinstance(life.runtime, AgedRuntime)
    stranger = FoundEngine(instance_id=None, name="theirs", state=EngineState.RUNNING, created_at=life.clock() - GRACE)
    life.runtime.extra = (stranger,)
    found = await sweeper(life).sweep()
    assert (found.orphans, found.removed) == ((), ())


async def test_what_does_not_say_itself_whose_it_is_is_reported_and_stays(life: World) -> None:
    assert isinstance(life.runtime, AgedRuntime)
    old = life.clock() - GRACE
    volume = FoundEngine(
        instance_id="inst_gone", name="vol_1", state=EngineState.STOPPED, created_at=old, is_marked=False
    )
    life.runtime.extra = (volume,)
    found = await sweeper(life).sweep()
    assert (found.orphans, found.removed) == ((volume,), ())


async def test_engines_of_instances_are_not_orphans_until_the_delete_is_done(life: World) -> None:
    instance_id = await life.create()
    await life.until(instance_id, lambda found: found.phase is Phase.RUNNING)
    one = sweeper(life)
    await one.sweep()
    await life.advance(GRACE.total_seconds() + 1)
    assert (await one.sweep()).orphans == ()
    life.runtime.stubborn = True
    await life.service.delete(caller=OWNER, instance_id=instance_id)
    assert (await one.sweep()).orphans == (), "the reconciler is at it"
    life.runtime.stubborn = False
    await life.when(lambda: instance_id not in life.runtime.states, step=1)

    async def deleted() -> bool:
        await life.advance(1)
        async with life.database.read() as tx:
            return await tx.instances.phases([instance_id]) == {instance_id: Phase.DELETED}

    await eventually(deleted)
    life.runtime.states[instance_id] = EngineState.RUNNING
    await one.sweep()
    await life.advance(GRACE.total_seconds() + 1)
    assert (await one.sweep()).removed == (instance_id,), "somebody made it again after it was deleted"


async def test_only_a_few_are_removed_at_a_time(life: World) -> None:
    for number in range(MOST_REMOVED + 3):
        life.runtime.states[f"inst_{number}"] = EngineState.STOPPED
    one = sweeper(life)
    await one.sweep()
    await life.advance(GRACE.total_seconds() + 1)
    assert len((await one.sweep()).removed) == MOST_REMOVED
    assert len((await one.sweep()).removed) == 3


async def test_instance_whose_engine_is_gone_is_due_at_once(life: World) -> None:
    life.runtime.watch_interval = 3600
    instance_id = await life.create()
    await life.until(instance_id, lambda found: found.phase is Phase.RUNNING)
    life.runtime.states.clear()
    life.runtime.looks.clear()
    assert (await sweeper(life).sweep()).missing == (instance_id,)
    await life.when(lambda: life.runtime.states.get(instance_id) is EngineState.RUNNING)


async def test_runtime_that_cannot_say_which_there_are_removes_nothing(life: World) -> None:
    assert isinstance(life.runtime, AgedRuntime)
    life.runtime.states["inst_nobodys"] = EngineState.RUNNING
    life.runtime.away = True
    with pytest.raises(RuntimeUnavailable):
        await sweeper(life).sweep()
    assert life.runtime.states == {"inst_nobodys": EngineState.RUNNING}
