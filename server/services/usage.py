"""Use cases of usage: what an organization has used of its plan, and counting it again."""

from dataclasses import dataclass
from datetime import datetime

from server.domain.access import Caller, KeyHolder
from server.domain.plans import Plan, Plans
from server.domain.usage import Usage
from server.errors import NotFound, PermissionDenied
from server.services.identifiers import Clock
from server.store.database import Database
from server.store.usage import Recount


class UsageService:
    """Shows the executions of the current period."""

    def __init__(self, *, database: Database, plans: Plans, clock: Clock) -> None:
        self._database = database
        self._plans = plans
        self._clock = clock

    async def current(self, *, caller: Caller) -> tuple[Usage, Plan]:
        """The usage of the caller's organization in its current period, and its plan."""
        if isinstance(caller, KeyHolder) and caller.instance_id is not None:
            raise PermissionDenied("This API key is for one instance; usage is that of all. Use a key of all of them.")
        async with self._database.read() as tx:
            organization = await tx.organizations.get(caller.org_id)
            if organization is None:
                raise NotFound("organization", caller.org_id)
            usage = await tx.usage.current(caller.org_id, self._clock())
        return usage, self._plans[organization.plan]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Where counts were not what the rows of runs say, and how many periods nobody can tell about any more."""

    differences: tuple[Recount, ...]
    left_alone: int


async def recompute(database: Database, since: datetime, clock: Clock, *, check: bool = False) -> Recomputed:
    """Counts the runs of each organization again, and sets right what differs; `check`: says so only.

    Only periods that began at `since` or later are looked at: see countable_since. The proxies hear of what follows.
    """
    async with database.read() as tx:
        org_ids, left_alone = await tx.usage.organizations(since), await tx.usage.periods_before(since)
    differences: list[Recount] = []
    for org_id in org_ids:
        if check:
            async with database.read() as tx:
                differences += await tx.usage.differences(org_id, since)
            continue
        async with database.write(org_id) as tx:
            differences += await tx.usage.recount(org_id, since, clock())
            await tx.commit()
    return Recomputed(tuple(differences), left_alone)
