"""Two servers and two proxies behind one Envoy: whom it asks, and when it asks a second one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from orch8cloud.v1 import instances_pb2

from rest_bridge.envoy.descriptors import bindings
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.envoy.replicas import ELSEWHERE, QUESTION, UNSEEN
from rest_bridge.envoy.routes import routes
from rest_bridge.errors import error_body
from rest_bridge.proxy.processor import Processor
from server.domain.addresses import Address
from tests.rest_bridge.envoy.conftest import settings
from tests.rest_bridge.envoy.fakes import (
    FakeDecisions,
    FakeEngine,
    FakeServer,
    FakeStreams,
    Receive,
    Scope,
    Send,
    answering,
    assert_error,
    reply,
    serving,
)
from tests.support.calls import eventually

TUNNEL = "/api/tunnel/inst_1/x"
BOTH = ("1", "2")
NOT_IN_TOUCH = error_body("DATA_PLANE_NOT_READY", "This proxy is not in touch with the server.", {}, 2)
FINAL = {"x-orch8-decision-id": "dec_1", "content-type": "application/json", "retry-after": "2"}
AWAY = {**FINAL, ELSEWHERE: "1"}


@dataclass
class Decisions(FakeDecisions):
    """One that says apart from its answers whether it is ready."""

    ready: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/readyz":
            await reply(send, 200 if self.ready else 503, {})
        else:
            await super().__call__(scope, receive, send)


@dataclass
class Pair:
    """An Envoy and two of each that it asks; each of them can be ended by itself, by its part and number."""

    process: EnvoyProcess
    http: httpx.AsyncClient
    decisions: dict[str, Decisions]
    servers: dict[str, FakeServer]
    running: dict[str, AsyncExitStack] = field(default_factory=dict)

    async def end(self, name: str) -> None:
        await self.running[name].aclose()

    async def until_healthy(self, cluster: str, count: int) -> None:
        wanted = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}} {count}'

        async def seen() -> bool:
            return wanted in await self.process.statistics()

        await eventually(seen)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(serving(FakeEngine()))
        decisions = {number: Decisions(f"127.0.0.1:{engine}") for number in BOTH}
        servers = {number: FakeServer() for number in BOTH}
        running: dict[str, AsyncExitStack] = {}
        for number in BOTH:
            streams = Processor(cast("Any", FakeStreams()), lambda: True)
            for name, context in {
                "server": servers[number].serving(Address(path=f"{tmp_path}/server{number}")),
                "proxy": serving(decisions[number], uds=f"{tmp_path}/proxy{number}"),
                "streams": streams.listening(Address(path=f"{tmp_path}/streams{number}")),
            }.items():
                running[name + number] = await stack.enter_async_context(AsyncExitStack())
                await running[name + number].enter_async_context(cast("Any", context))
            servers[number].answers["ListInstances"] = answering(instances_pb2.ListInstancesResponse())
            servers[number].answers["CreateInstance"] = answering(instances_pb2.Instance(id=f"inst_{number}"))
        where = {
            f"{name}_addr": ",".join(f"unix:{tmp_path}/{name}{number}" for number in BOTH)
            for name in ("server", "proxy", "streams")
        }
        process = await stack.enter_async_context(EnvoyProcess(settings(tmp_path, **where)))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{await process.address()}", timeout=10)
        )
        pair = Pair(process, http, decisions, servers, running)
        for name in ("proxy", "streams"):
            await pair.until_healthy(name, 2)
        yield pair


async def test_both_are_asked(pair: Pair) -> None:
    for _ in range(6):
        assert (await pair.http.get(TUNNEL)).status_code == 200
        assert (await pair.http.get("/api/instances")).status_code == 200
    assert all(pair.decisions[number].asked for number in BOTH)
    assert all(pair.servers[number].seen for number in BOTH)


@pytest.mark.parametrize("part", ["server", "proxy", "streams"])
async def test_another_one_is_asked_where_one_is_gone(pair: Pair, part: str) -> None:
    """At once, before it is known that it is gone: nobody has seen what was sent there."""
    for _ in range(4):
        assert (await pair.http.get(TUNNEL)).status_code == 200
    await pair.end(f"{part}1")
    for _ in range(10):
        assert (await pair.http.get(TUNNEL)).status_code == 200
        assert (await pair.http.get("/api/instances")).status_code == 200
        made = await pair.http.post("/api/instances", json={"name": "a", "region": "iad"})
        assert made.status_code == 201


async def test_another_proxy_is_asked_where_one_cannot_know(pair: Pair) -> None:
    pair.decisions["1"].answer = (503, AWAY, NOT_IN_TOUCH)
    for _ in range(6):
        assert (await pair.http.get(TUNNEL)).status_code == 200
    assert pair.decisions["1"].asked
    pair.decisions["2"].answer = (503, AWAY, NOT_IN_TOUCH)
    answer = await pair.http.get(TUNNEL)
    assert_error(answer, 503, "DATA_PLANE_NOT_READY")
    assert (answer.content, ELSEWHERE in answer.headers) == (NOT_IN_TOUCH, False)


async def test_a_refusal_is_final(pair: Pair) -> None:
    for number in BOTH:
        pair.decisions[number].answer = (503, FINAL, NOT_IN_TOUCH)
    assert_error(await pair.http.get(TUNNEL), 503, "DATA_PLANE_NOT_READY")
    assert sum(len(pair.decisions[number].asked) for number in BOTH) == 1


async def test_one_that_stops_is_not_asked_again(pair: Pair) -> None:
    pair.decisions["1"].ready = False
    await pair.until_healthy("proxy", 1)
    before = len(pair.decisions["1"].asked)
    for _ in range(6):
        assert (await pair.http.get(TUNNEL)).status_code == 200
    assert len(pair.decisions["1"].asked) == before


async def test_where_none_is_ready_their_own_words_are_heard(pair: Pair) -> None:
    for number in BOTH:
        pair.decisions[number].ready = False
        pair.decisions[number].answer = (503, AWAY, NOT_IN_TOUCH)
    await pair.until_healthy("proxy", 0)
    assert (await pair.http.get(TUNNEL)).content == NOT_IN_TOUCH


def test_only_what_reads_is_sent_again_once_somebody_may_have_seen_it() -> None:
    methods = {f"rest:{one.rpc}": one.method for one in bindings()}
    found = {one["name"]: one["route"].get("retry_policy") for one in routes(Limits()) if "route" in one}
    assert set(methods) <= set(found)
    for name, policy in found.items():
        if name in methods:
            assert policy["retry_on"] == (QUESTION if methods[name] == "GET" else UNSEEN), name
        else:
            assert policy is None or policy["retry_on"] == UNSEEN, name
