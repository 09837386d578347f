"""Decisions that Envoy repeats by itself: the same as if the proxy were asked, and never about what was."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import pytest_asyncio

from server.domain import keys
from tests.rest_bridge.data_path.conftest import BUSY, World
from tests.rest_bridge.data_path.wire import Answer, request, send
from tests.rest_bridge.proxy.cases import FUTURE, INSTANCES, KEY, KEYS, Instance, bearer
from tests.rest_bridge.proxy.conftest import key_message, route_message
from tests.support.calls import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAIN, OTHER = "inst_plain", "inst_plain2"
PATIENCE_S = 20.0
CAP = {"plan": "free", "quota": 1000, "until": FUTURE}


class Calls:
    """A caller of the busy edge."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def call(self, instance_id: str = PLAIN, *more: tuple[str, str], key: str = KEY) -> Answer:
        path = f"/api/tunnel/{instance_id}/x"
        return await send(self.world.ports[BUSY], request(path, [bearer(key), *more]))

    async def until_repeated(self, instance_id: str = PLAIN, *more: tuple[str, str]) -> list[Answer]:
        """Calls until the edge answers alone, and gives every answer."""
        answers: list[Answer] = []
        async with asyncio.timeout(PATIENCE_S):
            while not repeated(answers):
                answers.append(await self.call(instance_id, *more))
                assert answers[-1].status == 200, answers[-1].body
        return answers

    async def change(self, **what: object) -> None:
        """Tells the proxy of a change, and returns when it has acknowledged it. The edge is busy meanwhile."""
        service = self.world.service
        version = service.change(**what)  # type: ignore[arg-type]
        while service.acked_by.get(BUSY, 0) < version:
            await self.call("inst_anonymous")


def repeated(answers: list[Answer]) -> int:
    """How many answers the edge decided alone: the numbers of those begin alike within a lease."""
    begins = Counter((answer.header("x-orch8-decision-id") or "")[:16] for answer in answers)
    return sum(count for count in begins.values() if count > 1)


@pytest.fixture
def calls(world: World) -> Calls:
    return Calls(world)


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def restored(world: World) -> AsyncIterator[None]:
    """Leaves the world as it was."""
    yield
    service, port = world.service, world.engine.port
    service.keys[keys.digest(KEY)] = key_message(KEY, KEYS[KEY])
    service.routes[PLAIN] = route_message(PLAIN, INSTANCES[PLAIN], engine_port=port)
    service.routes.pop(OTHER, None)
    version = service.change()
    await service.until(lambda: service.acked_by.get(BUSY, 0) >= version)


@pytest.fixture
def put(world: World) -> Callable[[str, Instance], None]:
    def put(instance_id: str, instance: Instance) -> None:
        world.service.routes[instance_id] = route_message(instance_id, instance, engine_port=world.engine.port)

    return put


async def test_what_is_repeated_reaches_the_engine_as_what_was_asked(calls: Calls) -> None:
    answers = await calls.until_repeated()
    seen = calls.world.engine.seen
    assert len(seen) == len(answers)
    own = {"x-request-id", "traceparent"}
    assert len({tuple(sorted((k, v) for k, v in one.headers.items() if k not in own)) for one in seen}) == 1
    for name in own:
        assert len({one.headers[name] for one in seen}) == len(seen)
    assert len({answer.header("x-orch8-decision-id") for answer in answers}) == len(answers)


async def test_a_callers_trace_goes_on(calls: Calls) -> None:
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await calls.until_repeated(PLAIN, trace)
    assert {one.headers["traceparent"] for one in calls.world.engine.seen} == {trace[1]}


@pytest.mark.parametrize("spelling", ["Bearer", "bearer"])
async def test_a_revoked_key_is_refused_once_the_proxy_has_acknowledged(calls: Calls, spelling: str) -> None:
    await calls.until_repeated()
    service = calls.world.service
    path = request(f"/api/tunnel/{PLAIN}/x", [("authorization", f"{spelling} {KEY}")])
    for _ in range(5):
        assert (await send(calls.world.ports[BUSY], path)).status == 200
    service.keys[keys.digest(KEY)].revoked_at.FromSeconds(1)
    await calls.change(key=keys.digest(KEY))
    calls.world.clear()
    assert (await send(calls.world.ports[BUSY], path)).status == 401
    assert (await calls.call()).status == 401
    assert calls.world.engine.seen == []


@pytest.mark.parametrize(
    ("after", "status"),
    [
        (Instance(status="suspended"), 409),
        (Instance(policies=[{"provider": "api-key", "allow": [{"org_id": "org_other"}]}]), 403),
        (Instance(policies=[{"provider": "oidc", "issuer": "https://issuer.example.com"}]), 401),
    ],
)
async def test_a_changed_instance_is_decided_anew(
    calls: Calls, put: Callable[[str, Instance], None], after: Instance, status: int
) -> None:
    await calls.until_repeated()
    put(PLAIN, after)
    await calls.change(instance_id=PLAIN)
    calls.world.clear()
    assert (await calls.call()).status == status
    assert calls.world.engine.seen == []


async def test_a_change_of_anything_ends_all(calls: Calls) -> None:
    await calls.until_repeated()
    calls.world.service.keys[keys.digest(KEY)].revoked_at.FromSeconds(1)
    await calls.change()
    assert (await calls.call()).status == 401


async def test_a_change_of_something_else_ends_nothing(calls: Calls, put: Callable[[str, Instance], None]) -> None:
    put(OTHER, Instance())
    await calls.until_repeated()
    await calls.change(instance_id=OTHER)
    asked = calls.world.service.route_reads
    await calls.until_repeated()
    assert calls.world.service.route_reads == asked


@pytest.mark.parametrize(
    "header", [("cookie", "a=b"), ("accept", "text/event-stream"), ("authorization", "Basic eDp5")]
)
async def test_what_depends_on_more_is_asked_about(calls: Calls, header: tuple[str, str]) -> None:
    await calls.until_repeated()
    answers = [await calls.call(PLAIN, header) for _ in range(6)]
    assert not repeated(answers)


async def test_every_request_is_counted_once(calls: Calls, put: Callable[[str, Instance], None]) -> None:
    put(OTHER, Instance())
    service = calls.world.service

    def counted() -> int:
        return sum(
            count.requests for report in service.reports for count in report.counts if count.instance_id == OTHER
        )

    before = counted()
    sent = len(await calls.until_repeated(OTHER)) + 20
    for _ in range(20):
        await calls.call(OTHER)

    async def all_are_counted() -> bool:
        # Anything that passes this worker takes the rest along.
        await send(calls.world.ports[BUSY], request("/healthz"))
        return counted() - before >= sent

    await eventually(all_are_counted)
    assert counted() - before == sent


async def test_a_rate_holds(calls: Calls, put: Callable[[str, Instance], None]) -> None:
    """Not one request more than the plan allows, and each answer says how many are left."""
    burst = 40
    put(OTHER, Instance(limits={"organization": {"per_second": 1, "burst": burst}}, org_id="org_rated"))
    service = calls.world.service
    service.keys[keys.digest(KEY)].org_id = "org_rated"
    await calls.change()
    answers = [await calls.call(OTHER) for _ in range(burst + 10)]
    statuses = Counter(answer.status for answer in answers)
    assert statuses[429] >= 8
    assert burst <= statuses[200] <= burst + 2
    passed = [answer for answer in answers if answer.status == 200]
    assert repeated(passed)
    left = [int(answer.header("ratelimit-remaining") or "-1") for answer in passed]
    assert {answer.header("ratelimit-limit") for answer in passed} == {str(burst)}
    assert all(0 <= later <= earlier + 1 for earlier, later in pairwise(left)), left


async def test_an_engine_that_breaks_is_told_with_the_decisions_id(
    calls: Calls, put: Callable[[str, Instance], None]
) -> None:
    put(OTHER, Instance(engine="refusing"))
    answers: list[Answer] = []
    while not repeated(answers):
        answers.append(await calls.call(OTHER))
        assert answers[-1].status == 502
        assert (answers[-1].header("x-orch8-decision-id") or "").startswith("dec_")


class Storm:
    """Callers who never stop, and keys that are revoked under them."""

    LANES, EACH, CALLERS = 10, 12, 6

    def __init__(self, world: World) -> None:
        self.world = world
        self.live: set[str] = set()
        self.gone: dict[str, float] = {}
        self.wrong: list[str] = []
        self.passed = 0
        self.alone: list[Answer] = []

    async def call(self, key: str) -> int:
        began = time.monotonic()
        answer = await send(self.world.ports[BUSY], request(f"/api/tunnel/{PLAIN}/x", [bearer(key)]))
        if answer.status == 200:
            self.passed += 1
            self.alone.append(answer)
            if self.gone.get(key, began) < began:
                self.wrong.append(f"{key[:18]} passed {began - self.gone[key]:.3f} s after it was gone")
        return answer.status

    async def call_on(self, rng: random.Random) -> None:
        while True:
            known = sorted(self.live | self.gone.keys())
            if known:
                await self.call(rng.choice(known))
            await asyncio.sleep(0)

    async def lane(self, number: int) -> None:
        service = self.world.service
        for step in range(self.EACH):
            key = keys.new_key("live", bytes([number, step]) * 16)
            service.keys[keys.digest(key)] = key_message(key, {"org_id": "org_a"})
            self.live.add(key)
            for _ in range(4):
                assert await self.call(key) == 200
            service.keys[keys.digest(key)].revoked_at.FromSeconds(1)
            version = service.change(key=keys.digest(key))
            await service.until(lambda version=version: service.acked_by.get(BUSY, 0) >= version)  # type: ignore[misc]
            self.gone[key] = time.monotonic()
            self.live.discard(key)
            assert await self.call(key) == 401


async def test_no_key_passes_once_its_revocation_is_acknowledged(world: World) -> None:
    storm = Storm(world)
    callers = [asyncio.create_task(storm.call_on(random.Random(number))) for number in range(storm.CALLERS)]
    try:
        await asyncio.gather(*(storm.lane(number) for number in range(storm.LANES)))
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert storm.wrong == []
    assert len(storm.gone) == storm.LANES * storm.EACH
    assert repeated(storm.alone) > storm.passed / 10


async def test_once_runs_are_used_up_what_starts_one_is_refused_and_nothing_is_repeated(
    calls: Calls, put: Callable[[str, Instance], None]
) -> None:
    """What was learnt of a GET must not let a POST pass that starts a run: the question is the same."""
    starting = request(f"/api/tunnel/{PLAIN}/instances", [bearer(KEY)], b"{}", method="POST")
    await calls.until_repeated()
    port = calls.world.ports[BUSY]
    while not repeated([await send(port, starting) for _ in range(3)]):
        await calls.until_repeated()
    put(PLAIN, Instance(start_cap=CAP))
    await calls.change(instance_id=PLAIN)
    calls.world.clear()
    # So often that there would be a decision to repeat when the start comes.
    passed = [await calls.call() for _ in range(6)]
    answer = await send(port, starting)
    assert (answer.status, answer.reason) == (429, "QUOTA_EXCEEDED")
    for _ in range(6):
        passed.append(await calls.call())
        assert (await send(port, starting)).status == 429
    assert {answer.status for answer in passed} == {200}
    assert not repeated(passed)
    assert {seen.path for seen in calls.world.engine.seen} == {"/x"}


async def test_when_runs_may_be_started_again_decisions_are_repeated_again(
    calls: Calls, put: Callable[[str, Instance], None]
) -> None:
    put(PLAIN, Instance(start_cap=CAP))
    await calls.change(instance_id=PLAIN)
    assert not repeated([await calls.call() for _ in range(6)])
    put(PLAIN, Instance())
    await calls.change(instance_id=PLAIN)
    await calls.until_repeated()


async def test_when_the_period_ends_nobody_has_to_be_told(calls: Calls, put: Callable[[str, Instance], None]) -> None:
    starting = request(f"/api/tunnel/{PLAIN}/instances", [bearer(KEY)], b"{}", method="POST")
    ends = datetime.now(UTC) + timedelta(seconds=2)
    put(PLAIN, Instance(start_cap={**CAP, "until": ends.isoformat()}))
    await calls.change(instance_id=PLAIN)
    statuses = [(await send(calls.world.ports[BUSY], starting)).status]
    while statuses[-1] == 429:
        statuses.append((await send(calls.world.ports[BUSY], starting)).status)
    assert datetime.now(UTC) >= ends
    assert statuses[-1] == 200
    await calls.until_repeated()
