"""The proof of "once": whatever is killed or lost, each Idempotency-Key has led to one instance, machine and volume.

`make chaos` runs it with more of all: CHAOS_CREATES keys over CHAOS_SECONDS, and CHAOS_SEED for the same faults again.
"""

import asyncio
import os
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.store.dialects import create_engine
from tests.chaos.audit import Books, audit, books, misled, stock
from tests.chaos.checker import Violation, check
from tests.chaos.creates import Client, Order
from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.support.databases import databases
from tests.support.fly.faults import Faults
from tests.support.fly.rates import Rates
from tests.support.fly.server import running_fly

CREATES = int(os.environ.get("CHAOS_CREATES", "40"))
SECONDS = float(os.environ.get("CHAOS_SECONDS") or 6)
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
ORGS = ("org_one", "org_two")
# Of each organization.
CLIENTS = 12
# In each lane.
FAULTS = 2
# Longer than the lease of a killed server, for which another one waits, and than the pause after many failures.
SETTLE_S = 120.0 + CREATES / 5


class Run:
    """One run: the fleet, the clients, what they ordered, and what was seen of it."""

    def __init__(self, fleet: Fleet, database: str) -> None:
        self.fleet = fleet
        self.database = database
        self.history = History()
        rng = random.Random(f"{SEED}/clients")
        self.clients = [Client(fleet.entrance, org, self.history, rng) for org in ORGS for _ in range(CLIENTS)]
        self.orders = [Order(ORGS[number % 2], number // 2) for number in range(CREATES)]
        self.settled_s = 0.0

    async def strike(self) -> None:
        """Everything at once; at the end every client has its answers, and all parts run."""
        self.fleet.lose()
        nemesis = Nemesis(self.fleet, self.fleet.lanes, self.history, SEED)
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(self._work(client, place)) for place, client in enumerate(self.clients)]
            await nemesis.run(FAULTS, lambda: not all(one.done() for one in working))
        self.fleet.heal()

    async def _work(self, client: Client, place: int) -> None:
        await client.work(self._orders_of(client.org_id)[place % CLIENTS :: CLIENTS], SECONDS)

    async def settle(self) -> Books:
        """What the database says when nothing is in transit any more, or after SETTLE_S."""
        began = time.monotonic()
        engine = create_engine(self.database)
        try:
            found = await books(engine)
            while time.monotonic() - began < SETTLE_S and not all(row.is_settled for row in found.instances):
                await asyncio.sleep(0.2)
                found = await books(engine)
        finally:
            await engine.dispose()
        self.settled_s = time.monotonic() - began
        return found

    async def look(self) -> list[Violation]:
        """Asks for each order again, and compares everything."""
        askers = {client.org_id: client for client in self.clients}
        for org, asker in askers.items():
            await asker.replay(self._orders_of(org))
        found = await self.settle()
        reached: dict[str, str] = {}
        for org, asker in askers.items():
            reached |= await asker.reach(self._orders_of(org), self.fleet.parts.port)
        violations = audit(self.orders, found, stock(self.fleet.fly), datetime.now(UTC))
        return [*violations, *check(self.history), *misled(reached, self.fleet.fly)]

    def _orders_of(self, org_id: str) -> list[Order]:
        return [order for order in self.orders if order.org_id == org_id]

    def summary(self) -> str:
        """Figures of the run, for people."""
        history, fly = self.history, self.fleet.fly
        kinds = Counter(change.kind for change in history.changes if change.status < 300)
        answers = Counter(f"{one.status} {one.reason}".strip() for one in history.changes)
        faults = Counter(f"{fault.part} {fault.kind}" for fault in history.faults)
        wanted = Counter(str(order.wanted) for order in self.orders)
        unanswered = sum(client.unanswered for client in self.clients)
        lost = sum(call.status == 0 for call in fly.calls)
        return "\n".join(
            [
                f"seed           {SEED}, servers {len(self.fleet.servers)}",
                f"keys           {len(self.orders)} by {len(self.clients)} clients: {dict(wanted)}",
                f"done           {dict(kinds.most_common())}",
                f"answers        {dict(answers.most_common())}",
                f"lost replies   {self.fleet.clients.lost} to clients, without an answer {unanswered}",
                f"lost by Fly    {lost} of {len(fly.calls)} replies",
                f"faults         {len(history.faults)}: {dict(sorted(faults.items()))}",
                f"slowest answer {max(client.slowest for client in self.clients):.1f} s",
                f"settled after  {self.settled_s:.1f} s",
            ]
        )


@asynccontextmanager
async def running_fleet(kind: str, folder: Path) -> AsyncIterator[Run]:
    """A fleet on a database of this kind, and everybody who calls it."""
    database = databases.url(folder)
    async with running_fly(folder, runs_engines=False, rates=Rates(factor=1000), faults=Faults(SEED)) as fly:
        fleet = Fleet(folder, kind, database, fly, random.Random(f"{SEED}/lost"))
        async with fleet.running():
            yield Run(fleet, database)


@pytest.mark.timeout(2 * SECONDS + CREATES + 600)
async def test_each_key_makes_one_instance(database_kind: str) -> None:
    # pytest's own folders are too deep for the path of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="orch8-chaos-") as folder:
        async with running_fleet(database_kind, Path(folder)) as run:
            await run.strike()
            violations = await run.look()
            print(run.summary())
    assert not violations, "\n".join([f"{len(violations)} violations", *(str(one) for one in violations[:9])])
