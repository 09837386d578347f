"""Clients that make instances on a network that loses answers, and ask again with the same Idempotency-Key."""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import Any

from server.domain.instances import Desired
from tests.chaos.history import Change, History
from tests.chaos.http import Answer, Caller
from tests.chaos.management import REGION, bearer
from tests.support import sessions

# Some give up before the work is done, and then it is asked for twice at once. The others wait for longer than a call
# works, and for the first of two calls.
HASTY, HASTE_S, PATIENCE_S = 0.2, (0.001, 0.2), 40.0
RETRY_S = (0.02, 0.4)
# A client that has no answer by then has none at all.
GIVE_UP_S = 240.0
AGAIN = frozenset({429, 502, 503, 504})
IN_PROGRESS = "IDEMPOTENCY_IN_PROGRESS"
TWINS, DELETES, MOST_CHANGES = 0.15, 0.2, 3
WITH_ENGINE = ("running", "suspended")
ACTIONS = {"suspend": Desired.SUSPENDED, "resume": Desired.RUNNING}


class NoAnswer(AssertionError):
    """A client was left without a final answer."""


@dataclass(slots=True)
class Order:
    """An Idempotency-Key and what it stands for: every instance that it was answered, and what is wanted of that."""

    org_id: str
    number: int
    ids: set[str] = field(default_factory=set)
    wanted: Desired = Desired.RUNNING

    @property
    def key(self) -> str:
        """Two organizations use the same ones: they are not the same."""
        return f"order-{self.number}"

    @property
    def body(self) -> dict[str, str]:
        return {"name": f"i-{self.number}", "region": REGION}

    @property
    def path(self) -> str:
        """Where its instance is found; nothing where there is not exactly one, which the audit will say."""
        return f"/api/instances/{next(iter(self.ids))}" if len(self.ids) == 1 else ""


class Client:
    """Works through orders, one connection and one call at a time, and changes what it has made before."""

    def __init__(self, port: int, org_id: str, history: History, rng: random.Random) -> None:
        self.org_id = org_id
        self.unanswered = 0
        self.slowest = 0.0
        self._port, self._history, self._rng = port, history, rng
        self._headers = bearer(sessions.token(org_id=org_id))
        self._caller = Caller(port)
        self._made: list[Order] = []
        self._changes = itertools.count(1)

    async def work(self, orders: list[Order], seconds: float) -> None:
        """Makes what is ordered, spread over about so many seconds."""
        pause = 2 * seconds / max(1, len(orders))
        with self._caller:
            for order in orders:
                await asyncio.sleep(self._rng.uniform(0, pause))
                await self.create(order)
                self._made.append(order)
                for _ in range(self._rng.randint(0, MOST_CHANGES)):
                    await self._change(self._rng.choice(self._made))

    async def create(self, order: Order) -> None:
        """Asks for an instance until it is there; some do so twice over at the same time."""
        twins = [Caller(self._port)] if self._rng.random() < TWINS else []
        answers = await asyncio.gather(*(self._order(one, order) for one in (self._caller, *twins)))
        for twin in twins:
            twin.close()
        order.ids.update(str(answer.json()["id"]) for answer in answers if answer.status == 201)

    async def replay(self, orders: list[Order]) -> None:
        """Asks for all of them once more, long after: the answers must be the same."""
        with self._caller:
            for order in orders:
                order.ids.add(str((await self._order(self._caller, order)).json().get("id")))

    async def reach(self, orders: list[Order], port: int) -> dict[str, str]:
        """Which machine the tunnel of each instance leads to that should run, at another port where nothing is lost."""
        with self._caller, Caller(port) as caller:
            made = await self.call("key.create", "POST", "/api/api-keys", {"name": "k", "environment": "live"})
            key = bearer(made.json()["key"])
            wanted = [one for order in orders if order.wanted is Desired.RUNNING for one in order.ids]
            answers = {one: await caller.call("GET", f"/api/tunnel/{one}/info", key) for one in wanted}
        return {one: _machine(answer) for one, answer in answers.items()}

    async def call(self, kind: str, method: str, path: str, body: Any = None) -> Answer:
        """One call, again and again until its answer is final."""
        return await self._final(self._caller, kind, method, path, {}, body)

    async def _order(self, caller: Caller, order: Order) -> Answer:
        key = {"idempotency-key": order.key}
        return await self._final(caller, "instance.create", "POST", "/api/instances", key, order.body)

    async def _change(self, order: Order) -> None:
        """Suspends, resumes or deletes what is not gone yet; suspends only what has a machine already."""
        if order.wanted is Desired.DELETED or not order.path:
            return
        if self._rng.random() < DELETES:
            await self._delete(order)
        elif (await self.call("instance.get", "GET", order.path)).json().get("status") in WITH_ENGINE:
            await self._act(order)

    async def _delete(self, order: Order) -> None:
        answer = await self.call("instance.delete", "DELETE", order.path)
        # Not found: an attempt has done it whose answer was lost.
        if answer.status in (204, 404):
            order.wanted = Desired.DELETED

    async def _act(self, order: Order) -> None:
        action = "suspend" if order.wanted is Desired.RUNNING else "resume"
        key = {"idempotency-key": f"{order.key}, change {next(self._changes)}"}
        kind = f"instance.{action}"
        answer = await self._final(self._caller, kind, "POST", order.path, key, {"action": action})
        if answer.status == 200:
            order.wanted = ACTIONS[action]

    async def _final(
        self, caller: Caller, kind: str, method: str, path: str, headers: dict[str, str], body: Any
    ) -> Answer:
        began = time.monotonic()
        while time.monotonic() - began < GIVE_UP_S:
            answer = await self._attempt(caller, method, path, headers, body)
            if answer is not None and answer.status is not None:
                times = answer.times
                self._history.changes.append(Change(kind, times.started, times.ended, answer.status, answer.reason))
                if answer.status not in AGAIN and answer.reason != IN_PROGRESS:
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    return answer
            else:
                self.unanswered += 1
            await asyncio.sleep(self._rng.uniform(*RETRY_S))
        raise NoAnswer(f"{method} {path} {headers} had no final answer within {GIVE_UP_S:.0f} s")

    async def _attempt(
        self, caller: Caller, method: str, path: str, headers: dict[str, str], body: Any
    ) -> Answer | None:
        patience = self._rng.uniform(*HASTE_S) if self._rng.random() < HASTY else PATIENCE_S
        try:
            async with asyncio.timeout(patience):
                return await caller.call(method, path, self._headers | headers, body)
        except TimeoutError:
            caller.close()
            return None


def _machine(answer: Answer) -> str:
    """The machine that answered; the answer itself where none did."""
    return str(answer.json().get("machine", answer)) if answer.status == 200 else str(answer)
