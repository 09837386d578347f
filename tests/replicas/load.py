"""Callers of both Envoys who keep their connections, and a load balancer that knows which of the Envoys are ready."""

import asyncio
import itertools
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx

from tests.replicas.world import MEMBER, REPLICAS, World
from tests.support.calls import eventually

CALLERS = 10
RATE = 200
# From time to time callers come anew, so that an Envoy that has started again gets its share.
KEPT = 40
LOOK_S = 0.02
PATIENCE_S = 60
# Unused, and slow to make anew for each connection.
_TLS = ssl.create_default_context()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of request that is made again and again."""

    name: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A request without a success: its number, its Envoy, and the answer, or None where the connection broke."""

    number: int
    kind: str
    edge: str
    answer: httpx.Response | None
    problem: str


class Load:
    """What callers do, and what came of it. `started` numbers the requests; `refused` are connections.

    `nowhere` counts callers who looked for an Envoy that is ready and found none.
    """

    def __init__(self, world: World, edges: tuple[str, ...]) -> None:
        self._world, self._edges = world, edges
        key = {"Authorization": f"Bearer {world.key}"}
        tunnel = f"/api/tunnel/{world.instance_id}"
        self._kinds = [
            Kind(name="tunnel", path=f"{tunnel}/info", headers=key),
            Kind(name="tunnel", path=f"{tunnel}/sequences", headers=key),
            Kind(name="tunnel", path=f"{tunnel}/info", headers=key),
            Kind(name="management", path=f"/api/instances/{world.instance_id}", headers=MEMBER),
        ]
        self._ready: set[str] = set(edges)
        self._on: dict[int, str] = {}
        self.started = 0
        self.refused = 0
        self.nowhere = 0
        self.succeeded: Counter[str] = Counter()
        self.through: Counter[str] = Counter()
        self.failed: list[Failed] = []

    @property
    def ready(self) -> set[str]:
        """The Envoys to which new connections go."""
        return self._ready

    def is_left(self, edge: str) -> bool:
        """Whether no caller has a connection to this Envoy, and no new one would get it."""
        return edge not in self._ready and edge not in self._on.values()

    async def until_more(self, count: int, kind: str = "") -> None:
        """Waits for so many more successes, of this kind or any."""
        kinds = [kind] if kind else ["tunnel", "management"]
        before = sum(self.succeeded[name] for name in kinds)

        async def done() -> bool:
            return sum(self.succeeded[name] for name in kinds) >= before + count

        await eventually(done, PATIENCE_S)

    async def balance(self) -> None:
        """Asks the Envoys whether they are ready, as a load balancer does."""
        while True:
            answers = await asyncio.gather(*map(self._world.is_ready, self._edges))
            self._ready = {edge for edge, ready in zip(self._edges, answers, strict=True) if ready}
            await asyncio.sleep(LOOK_S)

    async def call(self, caller: int) -> None:
        """One caller, one request after the other."""
        kinds = itertools.cycle(random.sample(self._kinds, len(self._kinds)))
        now = asyncio.get_running_loop().time
        due = now()
        while True:
            edge = await self._chosen()
            self._on[caller] = edge
            async with httpx.AsyncClient(base_url=self._world.url(edge), timeout=PATIENCE_S, verify=_TLS) as http:
                for _ in range(KEPT):
                    # What took too long is made up for, unless it was a whole second.
                    due = max(due, now() - 1) + CALLERS / RATE * random.uniform(0.5, 1.5)
                    if not await self._request(http, edge, next(kinds)):
                        break
                    await asyncio.sleep(due - now())
            del self._on[caller]

    async def _chosen(self) -> str:
        while not self._ready:
            self.nowhere += 1
            await asyncio.sleep(LOOK_S)
        return random.choice(sorted(self._ready))

    async def _request(self, http: httpx.AsyncClient, edge: str, kind: Kind) -> bool:
        """One request; says whether its connection can be used again."""
        self.started += 1
        number, answer, problem = self.started, None, ""
        try:
            answer = await http.get(kind.path, headers=kind.headers)
        except httpx.ConnectError:
            # Nothing was sent: a load balancer goes on to the next one.
            self.refused += 1
            self._ready = self._ready - {edge}
            return False
        except httpx.TransportError as error:
            problem = repr(error)
        if answer is not None and answer.status_code == 200:
            self.succeeded[kind.name] += 1
            self.through[edge] += 1
        else:
            problem = problem or f"{answer.status_code} {answer.text}" if answer is not None else problem
            self.failed.append(Failed(number=number, kind=kind.name, edge=edge, answer=answer, problem=problem))
        return answer is not None and answer.headers.get("connection") != "close"


@asynccontextmanager
async def running_load(world: World, *edges: str) -> AsyncIterator[Load]:
    """Callers at work, for as long as the context lasts. What they were about to do at its end does not count.

    They call these edges, or all replicas.
    """
    load = Load(world, edges or REPLICAS["edge"])
    tasks = [asyncio.create_task(load.balance())]
    tasks += [asyncio.create_task(load.call(number)) for number in range(CALLERS)]
    try:
        yield load
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
