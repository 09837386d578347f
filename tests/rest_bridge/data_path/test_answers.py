"""What is told of answers: the same on both paths, and no more than what the engine was asked."""

import asyncio
import time
from collections import Counter
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from rest_bridge.answers import from_messages
from server.domain.answers import FIRST_MS, PER_OCTAVE, Answers
from tests.rest_bridge.data_path.conftest import BUSY, PATHS, World
from tests.rest_bridge.data_path.wire import PATIENCE, connected, request, send
from tests.rest_bridge.proxy.cases import KEY, Instance, bearer
from tests.rest_bridge.proxy.conftest import route_message
from tests.support.calls import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Longer than Envoy keeps its lines, the edge its sums and the proxy its report, one after the other.
TOLD_WITHIN_S = 60.0
ALL = (*PATHS, BUSY)


def put(world: World, instance_id: str, instance: Instance | None = None) -> str:
    made = instance or Instance()
    world.service.routes[instance_id] = route_message(instance_id, made, engine_port=world.engine.port)
    return instance_id


def told(world: World, instance_id: str) -> Answers:
    """All that was reported about an instance so far."""
    found = Answers()
    for report in world.service.reports:
        for row in from_messages(report.answers):
            if row.instance_id == instance_id:
                assert row.minute % 60 == 0
                assert row.minute <= time.time()
                found.add(row.answers)
    return found


async def until_told(world: World, instance_id: str, many: int) -> Answers:
    async def is_told() -> bool:
        return told(world, instance_id).kinds.total() >= many

    await eventually(is_told, TOLD_WITHIN_S)
    return told(world, instance_id)


async def leave(world: World, port: int, target: str) -> None:
    """Asks, and hangs up before there is an answer."""
    world.engine.reached.clear()
    world.engine.cancelled.clear()
    async with asyncio.timeout(PATIENCE):
        async with connected(port) as (_, writer):
            writer.write(request(target, [bearer(KEY)]))
            await world.engine.reached.wait()
        await world.engine.cancelled.wait()


async def ask_for_everything(world: World, path: str) -> str:
    """Every kind of answer. Gives the instance that was called."""
    port = world.ports[path]
    instance_id = put(world, f"inst_answers{path}")
    tunnel = f"/api/tunnel/{instance_id}"

    async def call(path: str, *headers: tuple[str, str]) -> int:
        return (await send(port, request(tunnel + path, headers))).status

    assert [await call("/x", bearer(KEY)) for _ in range(5)] == [200] * 5
    for status in (204, 404, 429, 500, 503):
        assert await call(f"/x?answer={status}", bearer(KEY)) == status
    assert await call("/redirect", bearer(KEY)) == 302
    assert await call("/reset", bearer(KEY)) in (502, 503)
    assert await call("/x") == 401
    assert (
        await send(port, request(f"/api/gateway/{instance_id}/none", [bearer(KEY)], b"{}", method="POST"))
    ).status == 404
    async with connect(f"ws://127.0.0.1:{port}{tunnel}/socket", additional_headers=dict([bearer(KEY)])) as socket:
        await socket.send("bye")
        with suppress(ConnectionClosed):
            await socket.recv()
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await call("/broken?length=1", bearer(KEY))
    await leave(world, port, f"{tunnel}/silent")
    # What comes last is told last: nothing of the above can still be under way.
    assert await call("/x?answer=418", bearer(KEY)) == 418
    return instance_id


async def test_every_kind_of_answer_is_told_once(world: World) -> None:
    called = [await ask_for_everything(world, path) for path in ALL]
    expected = {"1xx": 1, "2xx": 7, "3xx": 1, "4xx": 3, "5xx": 2, "none": 1}
    for instance_id in called:
        answers = await until_told(world, instance_id, sum(expected.values()))
        assert answers.kinds == Counter(expected)
        assert answers.latency.total() == answers.kinds.total()


async def test_an_engine_that_nobody_reaches_does_not_answer(world: World) -> None:
    called = [put(world, f"inst_nobody{path}", Instance(engine="refusing")) for path in ALL]
    for path, instance_id in zip(ALL, called, strict=True):
        answer = await send(world.ports[path], request(f"/api/tunnel/{instance_id}/x", [bearer(KEY)]))
        assert answer.status in (502, 503)
    for instance_id in called:
        assert (await until_told(world, instance_id, 1)).kinds == Counter({"none": 1})


async def ask_slowly(world: World, path: str) -> tuple[str, float, float]:
    """The instance, how long its engine made the caller wait, and how long the whole answer took, in milliseconds."""
    instance_id = put(world, f"inst_slow{path}")
    world.engine.reached.clear()
    world.engine.release.clear()
    began = time.perf_counter()
    sending = asyncio.create_task(send(world.ports[path], request(f"/api/tunnel/{instance_id}/held", [bearer(KEY)])))
    async with asyncio.timeout(PATIENCE):
        await world.engine.reached.wait()
    asked = time.perf_counter()
    await asyncio.sleep(0.3)  # how slow the engine is
    held_ms = (time.perf_counter() - asked) * 1000
    world.engine.release.set()
    assert (await sending).body == b"late"
    took_ms = (time.perf_counter() - began) * 1000
    return instance_id, held_ms, took_ms


async def test_latency_is_how_long_the_caller_waits_for_the_beginning(world: World) -> None:
    for instance_id, held_ms, took_ms in [await ask_slowly(world, path) for path in ALL]:
        ((bucket, many),) = (await until_told(world, instance_id, 1)).latency.items()
        assert many == 1
        above, below = (FIRST_MS * 2 ** (step / PER_OCTAVE) for step in (bucket, bucket - 1))
        assert above >= held_ms
        assert below <= took_ms
