"""What the proxy tells those who run it, and what telling it costs."""

import time
from collections.abc import Callable
from typing import Any

from rest_bridge.proxy.app import metrics_of
from rest_bridge.proxy.decision_counts import DecisionCounts
from rest_bridge.proxy.refusals import not_in_touch
from server.domain.addresses import Address
from server.telemetry.listener import listening
from server.telemetry.stopping import Stopping
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import Instance
from tests.rest_bridge.proxy.conftest import Running, World, route_message
from tests.rest_bridge.proxy.fake_engine import FakeEngine
from tests.support.calls import eventually
from tests.support.metrics import Metrics, scrape
from tests.support.stack import free_port

PATH = "/api/tunnel/inst_plain/x"


async def told(running: Running) -> Metrics:
    """What its listener tells."""
    address = Address(host="127.0.0.1", port=free_port())
    async with listening(address, "proxy", metrics_of(running.proxy).probes(Stopping())):
        return await scrape(address)


async def test_decisions_are_counted_by_their_outcome(start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=True) as running:
        for _ in range(3):
            assert await running.client.status(PATH) == (200, None)
        assert (await running.client.status(PATH, None))[0] == 401
        assert (await running.client.status("/api/tunnel/inst_nobody/x"))[0] == 404
        metrics = await told(running)
    decisions = "orch8_decisions_total"
    assert metrics.value(decisions, outcome="allowed", status="200") == 3
    assert metrics.value(decisions, outcome="refused", reason="UNAUTHENTICATED", status="401") == 1
    assert metrics.value(decisions, outcome="refused", reason="NOT_FOUND", status="404") == 1
    assert metrics.value("orch8_decision_duration_seconds_count") == 5
    assert metrics.value("orch8_decision_duration_seconds_bucket", le="+Inf") == 5
    assert metrics.value("orch8_proxy_cache_misses_total", cache="routes") == 2
    assert metrics.value("orch8_proxy_cache_hits_total", cache="routes") >= 2
    assert metrics.value("orch8_proxy_cache_entries", cache="routes", kind="unknown") == 1
    assert metrics.value("orch8_proxy_counts_waiting") == 2
    assert metrics.value("orch8_build_info", part="proxy") == 1
    assert "inst_" not in metrics.text
    assert cases.KEY not in metrics.text


async def test_what_is_limited_keeps_its_reason(
    start_proxy: Callable[..., Any], world: World, engine: FakeEngine
) -> None:
    limits = {"organization": {"per_second": 1, "burst": 1}}
    world.service.routes["inst_plain"] = route_message("inst_plain", Instance(limits=limits), engine_port=engine.port)
    async with start_proxy(direct=True, clock=lambda: 1000.0) as running:
        assert await running.client.status(PATH) == (200, None)
        assert await running.client.status(PATH) == (429, "RATE_LIMITED")
        metrics = await told(running)
    assert metrics.value("orch8_decisions_total", reason="RATE_LIMITED", status="429") == 1


async def test_it_tells_of_the_server_and_its_lease(start_proxy: Callable[..., Any], world: World) -> None:
    async with start_proxy(direct=False, stale_limit=30) as running:
        before = await told(running)
        assert before.value("orch8_proxy_fresh") == 1
        assert 0 < before.value("orch8_proxy_lease_remaining_seconds") <= 30
        assert before.value("orch8_proxy_watch_connected") == 1
        version = before.value("orch8_proxy_watch_server_version")
        assert before.value("orch8_proxy_watch_applied_version") == version
        running.proxy.watcher.leave()

        async def is_alone() -> Metrics | None:
            metrics = await told(running)
            return metrics if metrics.value("orch8_proxy_watch_connected") == 0 else None

        after = await eventually(is_alone)
        assert after.value("orch8_proxy_fresh") == 0
        assert after.values("orch8_proxy_watch_server_version") == []


async def test_the_worlds_listener_tells_no_metrics(start_proxy: Callable[..., Any]) -> None:
    for direct in (True, False):
        async with start_proxy(direct=direct) as running, running.client.request("GET", "/metrics") as answer:
            assert answer.status == 404


async def test_a_proxy_that_stops_is_not_ready_and_still_decides(start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=True) as running:
        running.proxy.knowledge.stopping = True
        await running.client.until_ready(503)
        assert await running.client.status(PATH) == (200, None)


def test_counting_costs_a_decision_less_than_three_microseconds() -> None:
    """It is about a third of one; the bound leaves room for a busy machine."""
    counts, refusal = DecisionCounts(), not_in_touch()
    rounds = [_cost(counts, answer) for answer in (object(), refusal) for _ in range(20)]
    assert min(rounds[:20]) < 3e-6
    assert min(rounds[20:]) < 3e-6


def _cost(counts: DecisionCounts, answer: object) -> float:
    began = time.perf_counter()
    for _ in range(1_000):
        counts.decided(answer, time.perf_counter())
    return (time.perf_counter() - began) / 1_000
