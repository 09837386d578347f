"""Starts sequences when their schedules say so."""

import asyncio
import time
from dataclasses import replace

from server.providers.runtime.devengine import cron, log
from server.providers.runtime.devengine.engine import Engine, context_of
from server.providers.runtime.devengine.models import Schedule

TICK_S = 0.5


async def keep_schedules(engine: Engine) -> None:
    """Looks twice a second, until it is cancelled. What came due while the engine was off is made up for once."""
    while True:
        for schedule in engine.store.due_schedules(time.time()):
            try:
                _fire(engine, schedule)
            except Exception:  # noqa: BLE001 one schedule must not hold up the others
                log.LOGGER.exception("a schedule has failed by a fault of the engine")
        await asyncio.sleep(TICK_S)


def _fire(engine: Engine, schedule: Schedule) -> None:
    """The start and the next time are stored together, so that no time is used twice."""
    now = time.time()
    next_at = cron.parse(schedule.cron_expr, schedule.timezone).after(now)
    sequence = engine.store.sequence(schedule.sequence_id)
    instance = None
    if sequence is None:
        log.warn("a schedule's sequence does not exist any more", schedule=schedule.id)
    else:
        fields = {"metadata": schedule.metadata, "timezone": schedule.timezone}
        instance = engine.new_instance(sequence, context=context_of({}), **fields)
    with engine.store.transaction():
        engine.store.put_schedule(replace(schedule, last_triggered_at=now, next_fire_at=next_at, updated_at=now))
        if instance is not None:
            engine.store.add_instance(instance)
    if instance is not None:
        engine.runner.start(instance.id)
