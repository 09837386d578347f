"""Use cases of usage: what an organization has used of its plan, and counting it again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from server.domain.access import Caller, KeyHolder
from server.domain.plans import Plan, Plans
from server.domain.usage import Usage
from server.errors import NotFound, PermissionDenied
from server.services.identifiers import Clock
from server.store.database import Database
from server.store.usage import Recount

# By plan, the moment since which all runs are kept that began then.
Since: TypeAlias = Callable[[str], datetime]


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


async def recompute(database: Database, since: Since, clock: Clock, *, check: bool = False) -> Recomputed:
    """Counts the runs of each organization again, and sets right what differs; `check`: says so only.

    Of a plan that keeps runs since a moment only periods are looked at that began then or later. The proxies hear of
    what follows.
    """
    async with database.read() as tx:
        organizations = await tx.usage.organizations()
    differences: list[Recount] = []
    left_alone = 0
    for org_id, plan in organizations:
        kept = since(plan)
        if not check:
            async with database.write(org_id) as tx:
                differences += await tx.usage.recount(org_id, kept, clock())
                await tx.commit()
        async with database.read() as tx:
            differences += await tx.usage.differences(org_id, kept) if check else ()
            left_alone += await tx.usage.periods_before(org_id, kept)
    return Recomputed(tuple(differences), left_alone)
