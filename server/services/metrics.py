"""Use cases of metrics: how an instance was used, and how it answered, minute by minute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.domain.access import Caller
from server.domain.answers import STEP, minute_of
from server.errors import FieldViolation, InvalidArgument
from server.services.identifiers import Clock
from server.services.instances import visible
from server.store.database import Database
from server.store.metrics import Minute

KEEP = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """One minute of an instance. `runs`: how many began in it, by the state that they are in now."""

    minute: Minute
    runs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceMetrics:
    """The minutes from one on and before another in which anything happened, oldest first."""

    instance_id: str
    since: datetime
    until: datetime
    buckets: tuple[Bucket, ...]


class MetricsService:
    """Shows what is kept for a day."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def of_instance(
        self, *, caller: Caller, instance_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> InstanceMetrics:
        """The minutes that are asked for, as far as they are kept. Raises NotFound, InvalidArgument."""
        first, end = self._range(since, until)
        async with self._database.read() as tx:
            await visible(tx, caller, instance_id)
            minutes = await tx.metrics.of_instance(instance_id, first, end)
            runs = await tx.metrics.runs_started(instance_id, first, end)
        buckets = _buckets(instance_id, minutes, runs)
        return InstanceMetrics(instance_id=instance_id, since=first, until=end, buckets=buckets)

    def _range(self, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
        """Whole minutes: the first one, and the end of the last one."""
        now = self._clock()
        if since is not None and since >= (until or now):
            what = "must be before `until`" if until is not None else "must be in the past"
            raise InvalidArgument([FieldViolation(field="since", description=what)])
        end = minute_of(min(until or now, now) - timedelta(microseconds=1)) + STEP
        first = minute_of(max(since or now - KEEP, now - KEEP))
        return min(first, end), end


def _buckets(
    instance_id: str, minutes: Sequence[Minute], runs: Sequence[tuple[datetime, str, int]]
) -> tuple[Bucket, ...]:
    """Each minute of which either tells something, in order."""
    known = {minute.at: minute for minute in minutes}
    started: dict[datetime, dict[str, int]] = {}
    for at, state, many in runs:
        started.setdefault(at, {})[state] = many
    return tuple(
        Bucket(minute=known.get(at) or Minute(instance_id=instance_id, at=at), runs=started.get(at, {}))
        for at in sorted(known.keys() | started.keys())
    )
