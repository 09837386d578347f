"""Records of decisions, for the organization whose instance was called. A request pays for a tuple in a queue."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from orch8cloud.v1 import decisions_pb2 as pb
from structlog.typing import FilteringBoundLogger

from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.record_messages import record
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.trail import Trail

INTERVAL = 1.0
# What one instance may have recorded in a minute, refusals and passes each. An ordinary record is one unit, and large
# ones are more, so that nobody fills memory and disk with the rules or claims of its own choice.
UNITS_PER_MINUTE = 600
CONDITIONS_PER_UNIT = 64
BYTES_PER_UNIT = 4 * 1024
# Beyond it one refusal in so many is still recorded, up to as many again.
ONE_IN = 100
# Units too: what one second may leave to be written.
MAX_WAITING = 2_000
MAX_READY = 16 * 1024 * 1024
MAX_FIRSTS = 10_000
RECORDS_PER_REPORT = 500
BYTES_PER_REPORT = 1024 * 1024

Report = Callable[[Sequence[pb.Decision], Mapping[str, int]], Awaitable[None]]
_Entry: TypeAlias = tuple[Trail, int, str | None, float]


@dataclass(slots=True)
class _Minute:
    """What one instance has had recorded, and how many of its decisions were not, since the minute began."""

    spent: int = 0
    dropped: int = 0


class Records:
    """Collects what is to be recorded, and reports it. What cannot be reported for long makes room for what is newer.

    Every refusal about an instance that exists is recorded, up to a bound; of the requests that pass, the share
    `sample`, and the first of each policy and subject that is asked about in a minute.
    """

    def __init__(
        self,
        report: Report,
        *,
        sample: float,
        log: FilteringBoundLogger,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._report = report
        self._sample = sample
        self._log = log
        self._draw = draw
        self._clock = clock
        self._minute = 0
        self._minutes: dict[tuple[str, bool], _Minute] = {}
        self._firsts: set[int] = set()
        self._waiting: deque[_Entry] = deque()
        self._waiting_units = 0
        self._ready: deque[pb.Decision] = deque()
        self._ready_bytes = 0
        self._dropped: dict[str, int] = {}
        self.lost = 0
        self._flushing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Records that are not reported yet."""
        return len(self._waiting) + len(self._ready)

    @property
    def sample(self) -> float:
        """The share of the requests that pass which is recorded."""
        return self._sample

    def note(self, trail: Trail, refusal: Refusal | None, at: float, *, drawn: bool = False) -> None:
        """Takes note of a decision about an instance that exists, made at a time (seconds since 1970).

        `drawn`: whoever asked has drawn this one for the sample.
        """
        if at // 60 != self._minute:
            self._turn(at)
        if refusal is not None:
            if self._admits(trail, passed=False):
                self._waiting.append((trail, refusal.status, refusal.reason, at))
        elif (self._chosen(trail) or drawn) and self._admits(trail, passed=True):
            self._waiting.append((trail, 200, None, at))

    async def run(self) -> None:
        """Reports for as long as the proxy lives."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()

    async def flush(self, *, last: bool = False) -> None:
        """Reports what was noted since the last report. `last`: also what was dropped in this minute."""
        async with self._flushing:
            now = self._clock()
            if last or now // 60 != self._minute:
                self._turn(now)
            await self._write()
            with suppress(ServerAway):
                await self._send()

    def _chosen(self, trail: Trail) -> bool:
        """Whether a request that passes is recorded."""
        decision = trail.decision
        guard = decision.guard if decision is not None else None
        if decision is None or guard is None:
            return False
        first = hash((trail.path.instance_id, guard.policy_id, decision.subject))
        if first not in self._firsts and len(self._firsts) < MAX_FIRSTS:
            self._firsts.add(first)
            return True
        return self._draw() < self._sample

    def _admits(self, trail: Trail, *, passed: bool) -> bool:
        """Whether there is room for a record, which is then taken."""
        minute = self._of(trail, passed=passed)
        if self._waiting_units >= MAX_WAITING or not self._affords(minute, passed=passed):
            # Of what passes a sample is kept anyway: nobody misses one that is smaller.
            minute.dropped += not passed
            return False
        units = _units(trail)
        minute.spent += units
        self._waiting_units += units
        return True

    def _affords(self, minute: _Minute, *, passed: bool) -> bool:
        if minute.spent < UNITS_PER_MINUTE:
            return True
        return not passed and minute.spent < 2 * UNITS_PER_MINUTE and self._draw() * ONE_IN < 1

    def _of(self, trail: Trail, *, passed: bool) -> _Minute:
        key = (trail.path.instance_id, passed)
        found = self._minutes.get(key)
        if found is None:
            found = self._minutes[key] = _Minute()
        return found

    def _turn(self, now: float) -> None:
        """Begins a minute: what was dropped in the last one is put down, and said once for each instance."""
        dropped = {instance_id: one.dropped for (instance_id, _), one in self._minutes.items() if one.dropped}
        self._minute = int(now // 60)
        self._minutes.clear()
        self._firsts.clear()
        for instance_id, count in dropped.items():
            self._log.warning("decisions_not_recorded", instance_id=instance_id, decisions=count)
            self._drop(instance_id, count)

    async def _write(self) -> None:
        """Writes what is waiting as records. Requests have their turn after each, since one may take a millisecond."""
        for _ in range(len(self._waiting)):
            entry = self._waiting.popleft()
            self._waiting_units -= _units(entry[0])
            try:
                written = record(*entry)
            except Exception:  # noqa: BLE001 - one that cannot be written must not end the others
                self._log.exception("record_fault", decision_id=entry[0].decision_id.decode())
                continue
            size = written.ByteSize()
            self._of(entry[0], passed=entry[2] is None).spent += size // BYTES_PER_UNIT
            self._keep(written, size)
            await asyncio.sleep(0)

    def _keep(self, written: pb.Decision, size: int) -> None:
        self._ready.append(written)
        self._ready_bytes += size
        while self._ready_bytes > MAX_READY:
            oldest = self._ready.popleft()
            self._ready_bytes -= oldest.ByteSize()
            self._drop(oldest.instance_id, 1)

    def _drop(self, instance_id: str, count: int) -> None:
        self._dropped[instance_id] = self._dropped.get(instance_id, 0) + count
        self.lost += count

    async def _send(self) -> None:
        while self._ready or self._dropped:
            batch, size = self._batch()
            dropped = dict(list(self._dropped.items())[:RECORDS_PER_REPORT])
            await self._report(batch, dropped)
            for _ in batch:
                self._ready.popleft()
            self._ready_bytes -= size
            for instance_id, count in dropped.items():
                # More may have been dropped meanwhile.
                self._dropped[instance_id] -= count
                if not self._dropped[instance_id]:
                    del self._dropped[instance_id]

    def _batch(self) -> tuple[list[pb.Decision], int]:
        """The oldest records that fit into one report, and their size in bytes."""
        batch: list[pb.Decision] = []
        size = 0
        for one in self._ready:
            more = one.ByteSize()
            if batch and (len(batch) == RECORDS_PER_REPORT or size + more > BYTES_PER_REPORT):
                break
            batch.append(one)
            size += more
        return batch, size


def _units(trail: Trail) -> int:
    """What a record weighs in memory before it is written: its explanation may hold very many conditions."""
    attempts = trail.decision.attempts if trail.decision is not None else ()
    conditions = sum(len(rule.conditions) for attempt in attempts for rule in attempt.rules)
    return 1 + conditions // CONDITIONS_PER_UNIT
