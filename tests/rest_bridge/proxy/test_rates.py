"""Rates of requests, through the proxy that carries the bytes itself and through the questions that Envoy asks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from server.domain import keys
from server.identity.turns import Turns
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import ANONYMOUS, API_KEY, KEY, OTHER_ORG_KEY, Instance
from tests.rest_bridge.proxy.conftest import Running, World, route_message
from tests.rest_bridge.proxy.fake_engine import FakeEngine

BURST = 4
LIMITS = {"organization": {"per_second": 2, "burst": BURST}}
TRIO = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")


class FrozenClock:
    """A clock that moves when a test says so: what was charged stays charged."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["direct", "decide"])
async def proxy(
    request: pytest.FixtureRequest, start_proxy: Callable[..., Any], clock: FrozenClock
) -> AsyncIterator[Running]:
    direct = request.param == "direct"
    async with start_proxy(direct=direct, clock=clock, edge_lease=0) as running:
        running.client.origin += "" if direct else "/decide"
        yield running


@pytest.fixture
def put(world: World, engine: FakeEngine) -> Callable[..., None]:
    def put(instance_id: str, **fields: Any) -> None:
        instance = Instance(**{"limits": LIMITS, **fields})
        world.service.routes[instance_id] = route_message(instance_id, instance, engine_port=engine.port)

    return put


async def statuses(proxy: Running, path: str, count: int, key: str | None = KEY) -> list[int]:
    found = []
    for _ in range(count):
        async with proxy.client.get(path, key=key) as answer:
            await answer.read()
            found.append(answer.status)
    return found


def trio(answer: aiohttp.ClientResponse) -> list[list[str]]:
    return [answer.headers.getall(name, []) for name in TRIO]


async def test_a_request_too_many_is_told_what_to_change_and_when_to_come_back(
    proxy: Running, put: Callable[..., None], clock: FrozenClock, engine: FakeEngine
) -> None:
    put("inst_plain")
    for left in (3, 2, 1, 0):
        async with proxy.client.get("/api/tunnel/inst_plain/x") as answer:
            assert (answer.status, trio(answer)[:2]) == (200, [[str(BURST)], [str(left)]])
    engine.seen.clear()
    async with proxy.client.get("/api/tunnel/inst_plain/x") as answer:
        error = await answer.json()
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"
        assert trio(answer) == [[str(BURST)], ["0"], ["1"]]
        assert answer.headers["x-orch8-decision-id"].startswith("dec_")
    info, retry = error["details"]
    assert (error["code"], info["reason"]) == (8, "RATE_LIMITED")
    assert info["metadata"] == {"scope": "organization", "limit": "2", "burst": "4"}
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"}
    assert "Send fewer" in error["message"]
    assert engine.seen == []
    clock.now += 1
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 3) == [200, 200, 429]


async def test_without_a_limit_nothing_is_said(proxy: Running) -> None:
    async with proxy.client.get("/api/tunnel/inst_plain/x") as answer:
        assert (answer.status, trio(answer)) == (200, [[], [], []])


async def test_a_noisy_organization_leaves_another_what_it_has(proxy: Running, put: Callable[..., None]) -> None:
    put("inst_plain")
    put("inst_scoped", org_id="org_b")
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 30) == [200] * BURST + [429] * (30 - BURST)
    async with proxy.client.get("/api/tunnel/inst_scoped/x", key=OTHER_ORG_KEY) as answer:
        assert (answer.status, trio(answer)[:2]) == (200, [[str(BURST)], [str(BURST - 1)]])


async def test_all_instances_of_an_organization_and_both_ways_in_share_its_rate(
    proxy: Running, put: Callable[..., None]
) -> None:
    put("inst_plain")
    put("inst_hooks", policies=[{**ANONYMOUS, "slug": "plain"}])
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 2) == [200, 200]
    assert await statuses(proxy, "/api/gateway/inst_hooks/plain", 3, key=None) == [200, 200, 429]
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 1) == [429]


async def test_a_noisy_key_leaves_the_others_of_its_organization_what_they_have(
    proxy: Running, put: Callable[..., None]
) -> None:
    put("inst_plain", limits={"key": {"per_second": 1, "burst": 2}, "organization": {"per_second": 50, "burst": 50}})
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 5) == [200, 200, 429, 429, 429]
    async with proxy.client.get("/api/tunnel/inst_plain/x") as answer:
        info = (await answer.json())["details"][0]
        assert info["metadata"] == {"scope": "key", "limit": "1", "burst": "2"}
    async with proxy.client.get("/api/tunnel/inst_plain/x", key=cases.ENDING_KEY) as answer:
        assert (answer.status, trio(answer)[:2]) == (200, [["2"], ["1"]])


@pytest.mark.parametrize(
    ("credential", "policy", "status"),
    [
        (None, API_KEY, 401),
        (cases.UNKNOWN_KEY, API_KEY, 401),
        (cases.REVOKED_KEY, API_KEY, 401),
        (OTHER_ORG_KEY, API_KEY, 403),
        (KEY, {**API_KEY, "allow": [{"sub": "nobody"}]}, 403),
    ],
)
async def test_what_is_refused_costs_the_organization_nothing(
    proxy: Running, put: Callable[..., None], credential: str | None, policy: Any, status: int
) -> None:
    put("inst_closed", policies=[policy])
    put("inst_plain")
    assert await statuses(proxy, "/api/tunnel/inst_closed/x", 3 * BURST, key=credential) == [status] * 3 * BURST
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", BURST + 1) == [200] * BURST + [429]


async def test_an_engine_that_does_not_run_costs_nothing(proxy: Running, put: Callable[..., None]) -> None:
    put("inst_suspended", status="suspended")
    put("inst_plain")
    assert await statuses(proxy, "/api/tunnel/inst_suspended/x", 2 * BURST) == [409] * 2 * BURST
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", BURST + 1) == [200] * BURST + [429]


async def test_proxies_share_a_rate(proxy: Running, put: Callable[..., None], world: World) -> None:
    put("inst_plain")
    world.service.proxies = 2
    world.service.drop_streams()
    await world.service.until(lambda: len(world.service.hellos) == 2)
    await world.service.until_acked(world.service.change())
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", BURST) == [200, 200, 429, 429]


async def test_a_new_plan_is_in_force_when_the_change_is_acknowledged(
    proxy: Running, put: Callable[..., None], world: World
) -> None:
    put("inst_plain")
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", BURST + 1) == [200] * BURST + [429]
    put("inst_plain", limits={"organization": {"per_second": 2, "burst": 100}})
    await world.service.until_acked(world.service.change(instance_id="inst_plain"))
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 10) == [200] * 10


async def test_a_rate_that_makes_no_sense_lets_nobody_in(proxy: Running, put: Callable[..., None]) -> None:
    put("inst_plain", limits={"organization": {"per_second": 0, "burst": 5}})
    assert await statuses(proxy, "/api/tunnel/inst_plain/x", 1) == [503]


async def test_streams_are_carried_to_whom_it_concerns(proxy: Running, put: Callable[..., None]) -> None:
    put("inst_plain", limits={"open_streams": 5})
    put("inst_scoped", limits={})
    found = [await proxy.proxy.knowledge.route(name) for name in ("inst_plain", "inst_scoped")]
    assert [route.limits.open_streams for route in found if route] == [5, None]


async def test_a_websocket_counts_as_a_request(put: Callable[..., None], start_proxy: Callable[..., Any]) -> None:
    put("inst_plain", limits={"organization": {"per_second": 1, "burst": 1}})
    async with start_proxy(direct=True, clock=FrozenClock()) as running:
        url = running.client.origin + "/api/tunnel/inst_plain/socket"
        headers = dict([cases.bearer(KEY)])
        async with running.client.session.ws_connect(url, headers=headers) as socket:
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await running.client.session.ws_connect(url, headers=headers)
        assert (refused.value.status, refused.value.headers and refused.value.headers["retry-after"]) == (429, "1")


async def test_new_keys_of_one_instance_wait_in_a_line_of_their_own(
    world: World, start_proxy: Callable[..., Any]
) -> None:
    new_keys = [keys.new_key("test", bytes([number]) * 32) for number in range(3)]
    async with start_proxy(direct=False) as running:
        path = "/decide/api/tunnel/{}/x"
        running.proxy.knowledge._keys._turns = Turns(at_once=1, most_waiting=1)
        assert await running.client.status(path.format("inst_plain")) == (200, None)
        world.service.key_gate.shut()
        flood = [asyncio.create_task(running.client.status(path.format("inst_plain"), key)) for key in new_keys]
        done, waiting = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [(429, "RATE_LIMITED")]
        async with running.client.get(path.format("inst_plain"), key=keys.new_key("test", bytes([9]) * 32)) as answer:
            info, retry = (await answer.json())["details"]
            assert (answer.status, answer.headers["retry-after"]) == (429, "2")
            assert (info["metadata"], retry["retry_delay"]) == ({"scope": "instance"}, "2s")
        # Unseen instances have a line too, and whoever finds it full is told that the proxy cannot tell now.
        running.proxy.knowledge._routes._turns = Turns(at_once=0, most_waiting=0)
        assert await running.client.status(path.format("inst_unseen")) == (503, "DATA_PLANE_NOT_READY")
        running.proxy.knowledge._routes._turns = Turns(at_once=1, most_waiting=0)
        # A key that was seen needs no turn, and another instance has its own.
        assert await running.client.status(path.format("inst_plain")) == (200, None)
        other = asyncio.create_task(running.client.status(path.format("inst_scoped"), cases.SCOPED_KEY))
        world.service.key_gate.open()
        assert await other == (200, None)
        assert {await task for task in waiting} == {(401, "UNAUTHENTICATED")}
