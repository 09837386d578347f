"""One trace from the edge through proxy and server to the engine, every part a process of its own.

The engine says which trace it was told of.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import sessions
from tests.support.calls import eventually
from tests.support.collector import Collector, Span, collecting
from tests.support.parts import Parts
from tests.support.stack import free_port

MEMBER = {"Authorization": f"Bearer {sessions.token()}"}
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = SAMPLED[3:35]
CALLER = SAMPLED[36:52]
ENGINE = """#!{python}
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"traceparent": self.headers.get_all("traceparent")}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

host, _, port = os.environ["ORCH8_HTTP_ADDR"].rpartition(":")
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


class World:
    """The product, traced, with one instance whose engine keeps what it was told."""

    def __init__(self, parts: Parts, collector: Collector, http: httpx.AsyncClient) -> None:
        self.parts, self.collector, self.http = parts, collector, http
        self.instance_id, self.key = "", ""

    async def create(self) -> None:
        async def is_ready() -> bool:
            try:
                return (await self.http.get(f"{self.parts.url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready, 30)
        url = f"{self.parts.url}/api"
        made = await self.http.post(f"{url}/instances", json={"name": "prod", "region": "iad"}, headers=MEMBER)
        self.instance_id = made.json()["id"]
        body = {"name": "k", "environment": "live"}
        self.key = (await self.http.post(f"{url}/api-keys", json=body, headers=MEMBER)).json()["key"]

        async def is_running() -> bool:
            found = await self.http.get(f"{url}/instances/{self.instance_id}", headers=MEMBER)
            return bool(found.json()["status"] == "running")

        await eventually(is_running, 30)

    async def tunnel(self, base: str, path: str = "/info?token=hidden", **headers: str) -> httpx.Response:
        url = f"{base}/api/tunnel/{self.instance_id}{path}"
        return await self.http.get(url, headers={"Authorization": f"Bearer {self.key}", **headers})

    async def spans(self, trace: str, *names: str) -> dict[str, Span]:
        """The spans of these names (part/name) in a trace, once they have all arrived."""

        async def arrived() -> dict[str, Span] | None:
            found = {f"{one.part}/{one.name}": one for one in self.collector.of(trace)}
            return found if set(names) <= set(found) else None

        return dict(await eventually(arrived, 30))


@asynccontextmanager
async def traced(kind: str, *names: str, sample: str = "0") -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        # pytest's own folders are too deep for the path of a Unix socket.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="orch8-test-"))
        collector = await stack.enter_async_context(collecting(kind))
        engine = Path(folder) / "engine"
        engine.write_text(ENGINE.format(python=sys.executable))
        engine.chmod(0o700)
        settings = {"ORCH8_OTLP_ENDPOINT": collector.endpoint, "ORCH8_TRACE_SAMPLE": sample}
        parts = Parts(Path(folder), settings={**settings, "ORCH8_ENGINE_BIN": str(engine)})
        stack.push_async_callback(parts.close)
        await parts.start("serve", "proxy", "edge", *names)
        world = World(parts, collector, await stack.enter_async_context(httpx.AsyncClient(timeout=30)))
        await world.create()
        yield world


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_one_trace_leads_through_every_part(kind: str) -> None:
    async with traced(kind) as world:
        answer = await world.tunnel(world.parts.url, traceparent=SAMPLED)
        (told,) = answer.json()["traceparent"]
        route = "orch8-server/orch8cloud.dataplane.v1.DataPlaneService/GetRoute"
        spans = await world.spans(TRACE, "orch8-edge/ingress", "orch8-proxy/decide", route)
        edge, decide, asked = spans["orch8-edge/ingress"], spans["orch8-proxy/decide"], spans[route]
        assert told == f"00-{TRACE}-{edge.id}-01"
        assert edge.parent == CALLER
        assert decide.parent == spans["orch8-edge/async proxy egress"].id
        assert spans["orch8-edge/async proxy egress"].parent == edge.id
        assert asked.parent == decide.id
        assert decide.attributes["orch8.instance_id"] == world.instance_id
        assert decide.attributes["orch8.outcome"] == "allowed"
        assert asked.attributes["orch8.outcome"] == "ok"
        said = str(world.collector.spans)
        assert "hidden" not in said, "the query may hold secrets"
        assert world.key not in said


async def test_management_calls_are_traced_and_what_is_not_sampled_is_not() -> None:
    async with traced("http") as world:
        url = f"{world.parts.url}/api/instances"
        unsampled = SAMPLED.replace("4bf9", "aaaa")[:-1] + "0"
        await world.http.get(url, headers={**MEMBER, "traceparent": unsampled})
        await world.tunnel(world.parts.url, traceparent=unsampled)
        given = {**MEMBER, "traceparent": SAMPLED, "x-request-id": "6f1b7f5e-6a53-4b55-9c4f-0d6f2a0c1e11"}
        answer = await world.http.get(url, headers=given)
        assert answer.headers["x-request-id"] == given["x-request-id"], "a trace must not change it"
        method = "orch8-server/orch8cloud.v1.InstancesService/ListInstances"
        spans = await world.spans(TRACE, "orch8-edge/ingress", method)
        assert spans[method].parent == spans["orch8-edge/ingress"].id
        assert spans[method].attributes["orch8.org_id"] == "org_one"
        assert spans[method].attributes["orch8.request_id"] == given["x-request-id"]
        assert [span for span in world.collector.spans if span.trace != TRACE] == []


async def test_steps_of_the_reconciler_are_traces_of_their_own() -> None:
    async with traced("http", sample="1") as world:

        async def found() -> Any:
            names = [one for one in world.collector.spans if one.name == "reconcile running"]
            return next((one for one in names if one.attributes["orch8.instance_id"] == world.instance_id), None)

        step = await eventually(found, 30)
        assert (step.part, step.parent, step.attributes["orch8.org_id"]) == ("orch8-server", "", "org_one")


async def test_without_envoy_the_proxy_follows_and_begins_traces() -> None:
    async with traced("grpc", "direct", sample="1") as world:

        async def answers() -> bool:
            try:
                return (await world.tunnel(world.parts.direct_url)).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(answers, 30)
        answer = await world.tunnel(world.parts.direct_url, traceparent=SAMPLED)
        spans = await world.spans(TRACE, "orch8-proxy/decide")
        assert spans["orch8-proxy/decide"].parent == CALLER
        assert answer.json()["traceparent"] == [f"00-{TRACE}-{spans['orch8-proxy/decide'].id}-01"]

        async def begun() -> bool:
            return any(one.name == "decide" and one.parent == "" for one in world.collector.spans)

        await eventually(begun, 30)


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_a_collector_that_is_away_holds_nobody_up(kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="orch8-test-") as folder:
        parts = Parts(Path(folder), settings={"ORCH8_OTLP_ENDPOINT": f"{kind}://127.0.0.1:{free_port()}"})
        try:
            await parts.start("serve", "proxy", "edge")
            async with httpx.AsyncClient(timeout=30) as http:
                world = World(parts, Collector(), http)
                await world.create()
                assert (await world.tunnel(parts.url, traceparent=SAMPLED)).status_code == 200
            async with asyncio.timeout(15):
                assert [await parts.end(name, 15) for name in ("edge", "proxy", "serve")] == [0, 0, 0]
        finally:
            await parts.close()
