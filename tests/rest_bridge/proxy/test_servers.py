"""Several servers: the proxy works with one, and goes on to the next when that one is away."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.rest_bridge.proxy import fake_server
from tests.rest_bridge.proxy.conftest import World

PATH = "/decide/api/tunnel/inst_plain/x"
UNSEEN = "/decide/api/tunnel/inst_neverasked/x"


class Two:
    """The world's server, and a second one that knows the same."""

    def __init__(self, world: World, second: fake_server.FakeDataPlane, server: grpc.aio.Server, port: int) -> None:
        self.services = (world.service, second)
        self.server = server
        self.addresses = f"127.0.0.1:{world.port},127.0.0.1:{port}"

    @property
    def watched(self) -> list[fake_server.FakeDataPlane]:
        return [service for service in self.services if service.hellos]


@asynccontextmanager
async def second_of(world: World) -> AsyncIterator[Two]:
    second = fake_server.FakeDataPlane()
    second.routes, second.keys = world.service.routes, world.service.keys
    server, port = await fake_server.serve(second)
    try:
        yield Two(world, second, server, port)
    finally:
        await server.stop(0)


async def test_one_is_watched_and_then_the_other(world: World, start_proxy: Callable[..., Any]) -> None:
    async with second_of(world) as two, start_proxy(direct=False, server_addr=two.addresses) as running:
        (first,) = two.watched
        (second,) = (one for one in two.services if one is not first)
        assert await running.client.status(PATH) == (200, None)
        first.refuses = True
        first.drop_streams()
        await second.until(lambda: second.heartbeats > 0)
        assert second.hellos[0].since_version == first.version, "it goes on from what it has heard"
        reads = second.route_reads
        assert await running.client.status(UNSEEN) == (404, "NOT_FOUND")
        assert second.route_reads == reads + 1


@pytest.mark.parametrize("away", [0, 1])
async def test_a_question_goes_on_to_the_next(world: World, start_proxy: Callable[..., Any], away: int) -> None:
    """While the stream still stands: a question is not refused for what another server can answer."""
    async with second_of(world) as two, start_proxy(direct=False, server_addr=two.addresses) as running:
        two.services[away].refuses = True
        assert await running.client.status(PATH) == (200, None)
        assert two.services[1 - away].key_reads == 1
