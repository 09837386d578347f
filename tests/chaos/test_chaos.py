"""The proof of "at once": whatever happens to server and proxies, what was taken away is gone when that has answered.

`make chaos` runs it for longer: CHAOS_SECONDS and CHAOS_RESTRICTIONS, and CHAOS_SEED for the same faults again.
"""

import asyncio
import os
import random
import secrets
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import engine
from tests.chaos.changers import Changer, InstanceChanger, KeyChanger, LockChanger, PolicyChanger
from tests.chaos.checker import DECIDED_AGAINST, check
from tests.chaos.entrances import LANES, Entrances
from tests.chaos.history import History, WallClock
from tests.chaos.load import Load, until_each
from tests.chaos.management import Management
from tests.chaos.nemesis import Nemesis
from tests.chaos.world import EDGE
from tests.support.issuer import running_issuer

SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))
# At least so many things are taken away, however long it takes.
RESTRICTIONS = int(os.environ.get("CHAOS_RESTRICTIONS", "200"))
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
# Per entrance.
CALLERS = 6
KEY_CHANGERS = 20
# In each of the three lanes.
FAULTS = 3
RECOVERY_S = 120.0
CLOSE_S = 0.1


class Run:
    """One run: the world, those who call, those who change, and what was seen of it."""

    def __init__(self, world: Entrances) -> None:
        self.world = world
        self.history = History()
        self.load = Load(world.entrances, self.history, SEED)
        self.wall = WallClock()
        self.changers: list[Changer] = []
        self.closing = ExitStack()

    def api(self) -> Management:
        made = Management(self.world.entrances[EDGE], self.history, self.wall)
        self.closing.callback(made.caller.close)
        return made

    @property
    def restrictions(self) -> int:
        return sum(changer.restrictions for changer in self.changers)

    async def prepare(self, issuer: Any) -> None:
        """An instance, and everybody who changes something."""
        rng = random.Random(SEED)
        main = await self.api().new_instance(rng)
        key, token = await self.api().new_key(), issuer.sign(exp=int(time.time()) + 36_000)

        def parts() -> tuple[Any, ...]:
            return self.api(), self.load, random.Random(rng.random()), main

        oidc = {"provider": "oidc", "issuer": issuer.name, "audience": "orch8"}
        self.changers = [
            *(KeyChanger(*parts()) for _ in range(KEY_CHANGERS)),
            PolicyChanger(*parts(), policy={"provider": "anonymous"}, credential=None),
            PolicyChanger(*parts(), policy={"provider": "api-key"}, credential=key),
            PolicyChanger(*parts(), policy=oidc, credential=token),
            LockChanger(*parts()),
            InstanceChanger(*parts()),
            InstanceChanger(*parts()),
        ]

    async def strike(self) -> None:
        """Load, changes and faults at once; at the end everything runs, and nothing is under way."""
        until = time.monotonic() + SECONDS
        nemesis = Nemesis(self.world, LANES, self.history, SEED)
        async with asyncio.TaskGroup() as group:
            calling = group.create_task(self.load.run(CALLERS))
            changing = [group.create_task(changer.run()) for changer in self.changers]
            await nemesis.run(FAULTS, lambda: time.monotonic() < until or self.restrictions < RESTRICTIONS)
            for changer in self.changers:
                changer.stopping = True
            await asyncio.wait(changing)
            self.load.stop()
            await asyncio.wait([calling])

    async def recover(self) -> None:
        """What is granted passes at every entrance again, and what was taken away is still refused."""
        await until_each(self.load, self.load.live.values(), frozenset({200}), RECOVERY_S)
        now = time.monotonic()
        dead = [call for call in self.load.dead if self._is_dead(call.needs, now)]
        await until_each(self.load, dead, DECIDED_AGAINST, RECOVERY_S)
        self.history.reached = engine.reached(self.world.folder)

    def _is_dead(self, needs: tuple[str, ...], now: float) -> bool:
        return not all(self.history.grants[name].may_be(True, now, now) for name in needs)

    def summary(self) -> str:
        """Figures of the run, for people."""
        history = self.history
        kinds = Counter(change.kind for change in history.changes if change.status < 300)
        faults = Counter(fault.kind for fault in history.faults)
        answers = Counter(f"{one.status or 'broken'} {one.reason}".strip() for one in history.requests)
        unconfirmed = sum(change.reason == "CHANGE_UNCONFIRMED" for change in history.changes)
        unanswered = sum(change.status in (503, 504) for change in history.changes) - unconfirmed
        close = sum(history.follows_a_promise(request, CLOSE_S) for request in history.requests)
        slowest = max(change.answered - change.began for change in history.changes if change.kind == "key.revoke")
        return "\n".join(
            [
                f"seed           {SEED}",
                f"seconds        {history.requests[-1].ended - history.requests[0].started:.0f}",
                f"requests       {len(history.requests)}: {dict(answers.most_common())}",
                f"taken away     {self.restrictions} (in force or certain): {dict(kinds.most_common())}",
                f"close calls    {close} requests began within {CLOSE_S} s after something they need was gone",
                f"unconfirmed    {unconfirmed}, without an answer {unanswered}",
                f"faults         {len(history.faults)}: {dict(faults.most_common())}",
                f"slowest revoke {slowest:.1f} s",
            ]
        )


@pytest.mark.timeout(SECONDS + RESTRICTIONS + 600)
async def test_nothing_passes_that_was_taken_away() -> None:
    # pytest's own folders are too deep for the path of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="orch8-chaos-") as folder:
        world = Entrances(Path(folder))
        async with running_issuer() as issuer, world.running():
            run = Run(world)
            with run.closing:
                await run.prepare(issuer)
                await run.strike()
                await run.recover()
                print(run.summary())
        violations = check(run.history)
        assert not violations, "\n".join([f"{len(violations)} violations", *(str(one) for one in violations[:5])])
