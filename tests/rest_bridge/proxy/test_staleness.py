"""Nothing that was changed is served: races, lost streams, and the lease."""

import asyncio
from collections.abc import Callable
from typing import Any

from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from server.domain import keys
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.conftest import World

PATH = "/decide/api/tunnel/inst_plain/x"
DIGEST = keys.digest(cases.KEY)
ALLOWED = (200, None)
REVOKED = (401, "KEY_REVOKED")
NOT_READY = (503, "DATA_PLANE_NOT_READY")


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def revoke(world: World) -> int:
    world.service.keys[DIGEST].revoked_at.GetCurrentTime()
    return world.service.change(key=DIGEST)


async def test_a_key_that_is_revoked_while_it_is_read_is_read_again(
    world: World, start_proxy: Callable[..., Any]
) -> None:
    async with start_proxy(direct=False) as running:
        world.service.key_gate.shut()
        before = asyncio.create_task(running.client.status(PATH))
        await world.service.key_gate.reached.wait()
        await world.service.until_acked(revoke(world))
        after = asyncio.create_task(running.client.status(PATH))
        world.service.key_gate.open()
        assert await after == REVOKED
        assert await before == REVOKED
        assert world.service.key_reads == 2
        assert await running.client.status(PATH) == REVOKED
        assert world.service.key_reads == 2


async def test_a_revoked_key_is_dead_once_the_change_is_acknowledged(
    world: World, start_proxy: Callable[..., Any]
) -> None:
    async with start_proxy(direct=False) as running:
        assert await running.client.status(PATH) == ALLOWED
        await world.service.until_acked(revoke(world))
        assert await running.client.status(PATH) == REVOKED


async def test_a_changed_instance_is_asked_for_again(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        assert await running.client.status(PATH) == ALLOWED
        world.service.routes["inst_plain"].status = "suspended"
        await world.service.until_acked(world.service.change(instance_id="inst_plain"))
        assert await running.client.status(PATH) == (409, "STATE_CONFLICT")
        del world.service.routes["inst_plain"]
        await world.service.until_acked(world.service.change(instance_id="inst_plain"))
        assert await running.client.status(PATH) == (404, "NOT_FOUND")


async def test_what_is_known_costs_no_question(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        for _ in range(3):
            assert await running.client.status(PATH) == ALLOWED
            assert await running.client.status(PATH, cases.UNKNOWN_KEY) == (401, "UNAUTHENTICATED")
            assert await running.client.status(PATH, cases.TYPO) == (401, "UNAUTHENTICATED")
        assert (world.service.route_reads, world.service.key_reads) == (1, 2)
        assert world.service.tokens == {"a-token-of-the-data-plane"}


async def test_without_the_server_the_lease_runs_out(world: World, start_proxy: Callable[..., Any]) -> None:
    clock = FakeClock()
    async with start_proxy(direct=False, clock=clock, stale_limit=60) as running:
        assert world.service.hellos[0].stale_limit_ms == 60_000
        assert await running.client.status(PATH) == ALLOWED
        world.service.refuses = True
        world.service.answers_heartbeats = False
        world.service.drop_streams()
        assert await running.client.status(PATH) == ALLOWED
        assert await running.client.status(PATH, cases.ENDING_KEY) == NOT_READY
        clock.now += 60
        assert await running.client.status(PATH) == ALLOWED
        clock.now += 0.001
        assert await running.client.status(PATH) == NOT_READY
        world.service.refuses, world.service.answers_heartbeats = False, True
        await running.client.until_ready()
        assert await running.client.status(PATH) == ALLOWED


async def test_a_stale_limit_of_zero_ends_with_the_stream(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False, stale_limit=0) as running:
        assert world.service.hellos[0].stale_limit_ms == 2000
        assert await running.client.status(PATH) == ALLOWED
        world.service.refuses = True
        world.service.drop_streams()
        await running.client.until_ready(503)
        assert await running.client.status(PATH) == NOT_READY


async def test_back_again_it_waits_for_the_changes_that_it_missed(
    world: World, start_proxy: Callable[..., Any]
) -> None:
    clock = FakeClock()
    async with start_proxy(direct=False, clock=clock, stale_limit=60) as running:
        assert await running.client.status(PATH) == ALLOWED
        world.service.replay_gate.shut()
        world.service.drop_streams()
        revoked = revoke(world)
        clock.now += 100
        await world.service.replay_gate.reached.wait()
        assert await running.client.status(PATH) == NOT_READY
        world.service.replay_gate.open()
        await world.service.until_acked(revoked)
        await running.client.until_ready()
        assert world.service.hellos[-1].since_version == 100
        assert await running.client.status(PATH) == REVOKED


async def test_a_reset_forgets_everything(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        assert await running.client.status(PATH) == ALLOWED
        world.service.keys[DIGEST].revoked_at.GetCurrentTime()
        world.service.resets = True
        world.service.version += 5
        world.service.drop_streams()
        await world.service.until_acked(105)
        assert await running.client.status(PATH) == REVOKED


async def test_a_change_of_an_unknown_kind_forgets_everything(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        assert await running.client.status(PATH) == ALLOWED
        world.service.keys[DIGEST].revoked_at.GetCurrentTime()
        await world.service.until_acked(world.service.change())
        assert await running.client.status(PATH) == REVOKED


async def test_an_unusable_answer_of_the_server_lets_nobody_in(world: World, start_proxy: Callable[..., Any]) -> None:
    policy = pb.RoutePolicy(policy_id="pol", provider="anonymous")
    policy.allow.add_struct()
    world.service.routes["inst_plain"].policies.append(policy)
    async with start_proxy(direct=False) as running:
        assert await running.client.status(PATH) == NOT_READY


async def test_traffic_is_reported_and_goodbye_is_said(world: World, start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        for key in (cases.KEY, cases.KEY, None):
            await running.client.status(PATH, key)
    counts = {(one.key_id, one.status): one.requests for report in world.service.reports for one in report.counts}
    assert counts == {(world.service.keys[DIGEST].key_id, 200): 2, ("", 401): 1}
    assert world.service.goodbyes == 1
