"""Compares the engines that exist with the instances that should have one, both ways.

Only an engine that carries the mark of this installation can be removed; the runtime tells which do. A database that
was restored from a backup has forgotten its newest instances: so removing is chosen, and done to a few at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from server.domain.instances import Phase
from server.errors import DatabaseUnavailable
from server.providers.runtime.base import EngineState, FoundEngine, Runtime, RuntimeFailed, RuntimeUnavailable
from server.services.identifiers import Clock
from server.store.database import Database

EVERY_S = 300.0
# Younger ones may belong to an instance that a slow replica is just making or deleting.
GRACE = timedelta(minutes=15)
MOST_REMOVED = 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What one round found: engines that are nobody's, those of them that it removed, instances without an engine.

    `new` are the names of the engines that were not found before.
    """

    orphans: tuple[FoundEngine, ...] = ()
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class OrphanSweeper:
    """Reports engines that belong to no instance, or removes them. Makes instances due whose engine is not there."""

    def __init__(
        self, *, database: Database, runtime: Runtime, clock: Clock, remove: bool, swept: Callable[[Sweep], None]
    ) -> None:
        """`swept` hears what each round found and did."""
        self._database = database
        self._runtime = runtime
        self._clock = clock
        self._remove = remove
        # The runtime may not know how old an engine is; then its age is how long we have known it.
        self._first_seen: dict[str, datetime] = {}
        self._known: frozenset[str] = frozenset()
        self._swept = swept

    async def run(self) -> None:
        """Works until it is cancelled. A round that fails is tried again with the next one."""
        while True:
            try:
                await self.sweep()
            except (RuntimeUnavailable, RuntimeFailed, DatabaseUnavailable, OSError) as error:
                log.warning("orphans.failed", error=repr(error))
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> Sweep:
        """One round. Raises RuntimeUnavailable."""
        # The runtime first: an instance is stored before its engine is made, so none is found that is not known yet.
        found = await self._runtime.engines()
        ids = [engine.instance_id for engine in found if engine.instance_id is not None]
        async with self._database.read() as tx:
            phases = await tx.instances.phases(ids)
            running = await tx.instances.running()
        orphans = self._old([one for one in found if _is_orphan(one, phases.get(one.instance_id or ""))])
        new = self._report(orphans)
        missing = tuple(sorted(set(running) - set(ids)))
        await self._make_again(missing)
        removed = await self._removed(orphans)
        result = Sweep(orphans=tuple(orphans), new=new, removed=tuple(removed), missing=missing)
        self._swept(result)
        return result

    def _old(self, candidates: Sequence[FoundEngine]) -> list[FoundEngine]:
        now = self._clock()
        self._first_seen = {one.name: self._first_seen.get(one.name, now) for one in candidates}
        return [one for one in candidates if now - (one.created_at or self._first_seen[one.name]) >= GRACE]

    def _report(self, orphans: Sequence[FoundEngine]) -> tuple[str, ...]:
        """Says which there are; the names of those that are new."""
        for one in orphans:
            log.warning("orphans.found", engine=one.name, instance_id=one.instance_id, state=one.state)
        before, self._known = self._known, frozenset(one.name for one in orphans)
        return tuple(sorted(self._known - before))

    async def _removed(self, orphans: Sequence[FoundEngine]) -> list[str]:
        """Those of which nothing is left now; the others are on their way, and looked at again in the next round."""
        removed = []
        ours = [one.instance_id for one in orphans if one.instance_id is not None and one.is_marked]
        for instance_id in ours[:MOST_REMOVED] if self._remove else ():
            log.warning("orphans.removing", instance_id=instance_id)
            if (await self._runtime.destroy(instance_id)).state is EngineState.ABSENT:
                removed.append(instance_id)
        return removed

    async def _make_again(self, missing: Sequence[str]) -> None:
        if not missing:
            return
        log.warning("orphans.missing", instance_ids=missing)
        async with self._database.write() as tx:
            await tx.instances.wake(missing, self._clock())
            await tx.commit()


def _is_orphan(engine: FoundEngine, phase: Phase | None) -> bool:
    """Whether no instance wants the engine. A stranger's never counts; one that is being deleted is not forgotten."""
    return engine.instance_id is not None and phase in (None, Phase.DELETED)
