"""Use cases of usage: what an organization has used of its plan, and counting it again."""

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


async def compare(database: Database, since: datetime) -> list[Recount]:
    """Where the counts from `since` on are not what the rows of runs say."""
    async with database.read() as tx:
        return [one for org_id in await tx.usage.organizations() for one in await tx.usage.differences(org_id, since)]


async def recompute(database: Database, since: datetime, clock: Clock) -> list[Recount]:
    """Sets right where they are not, one organization after the other. The proxies hear of what follows from it."""
    async with database.read() as tx:
        org_ids = await tx.usage.organizations()
    changed: list[Recount] = []
    for org_id in org_ids:
        async with database.write(org_id) as tx:
            changed += await tx.usage.recount(org_id, since, clock())
            await tx.commit()
    return changed
