"""The proxies' side, spoken to as a proxy does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import api_keys_pb2, instances_pb2, policies_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from server.app import open_database, running
from server.domain.keys import digest
from server.providers.runtime.base import Upstream
from server.services.identifiers import utc_now
from server.services.peers import SILENT_S
from server.services.propagation import Heartbeat, Propagation, Welcome
from server.workers.housekeeping import sweep
from tests.support import sessions
from tests.support.calls import eventually, failure
from tests.support.runtime import MemoryRuntime
from tests.support.server import DATAPLANE_TOKEN, settings

TOKEN = (("x-orch8-dataplane-token", DATAPLANE_TOKEN),)
OWNER = (("authorization", f"Bearer {sessions.token()}"),)
STALE_MS = 1_000


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        yield channel


class Proxy:
    """A proxy that acknowledges only when it is told to."""

    def __init__(
        self, channel: grpc.aio.Channel, proxy_id: str = "p1", since: int = 0, stale_ms: int = STALE_MS
    ) -> None:
        stub: Any = DataPlaneServiceStub(channel)
        self.call = stub.Watch(metadata=TOKEN)
        self._hello = pb.ProxyHello(proxy_id=proxy_id, stale_limit_ms=stale_ms, since_version=since)

    async def hello(self) -> pb.ServerHello:
        await self.call.write(pb.WatchRequest(hello=self._hello))
        return (await self.read()).hello

    async def read(self) -> pb.WatchResponse:
        async with asyncio.timeout(5):
            found = await self.call.read()
        assert isinstance(found, pb.WatchResponse)
        return found

    async def ack(self, version: int) -> None:
        await self.call.write(pb.WatchRequest(acked_version=version))


async def new_key(channel: grpc.aio.Channel) -> Any:
    stub: Any = ApiKeysServiceStub(channel)
    return await stub.CreateApiKey(api_keys_pb2.CreateApiKeyRequest(name="ci", environment="live"), metadata=OWNER)


def revoke(channel: grpc.aio.Channel, key_id: str) -> Any:
    stub: Any = ApiKeysServiceStub(channel)
    return stub.RevokeApiKey(api_keys_pb2.RevokeApiKeyRequest(api_key_id=key_id), metadata=OWNER)


async def new_instance(channel: grpc.aio.Channel) -> str:
    stub: Any = InstancesServiceStub(channel)
    request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
    made = await stub.CreateInstance(request, metadata=OWNER)

    async def is_running() -> bool:
        found = await stub.GetInstance(instances_pb2.GetInstanceRequest(instance_id=made.id), metadata=OWNER)
        return bool(found.status == "running")

    await eventually(is_running)
    return str(made.id)


async def test_every_call_needs_the_token(channel: grpc.aio.Channel) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    for metadata in ((), (("x-orch8-dataplane-token", "wrong"),), OWNER):
        failed = await failure(stub.GetRoute(pb.GetRouteRequest(instance_id="x"), metadata=metadata))
        assert failed.reason == "UNAUTHENTICATED"


async def test_route_holds_what_a_decision_needs(channel: grpc.aio.Channel) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    instance_id = await new_instance(channel)
    policies: Any = PoliciesServiceStub(channel)
    for slug, enabled in (("hook", True), ("off", False)):
        request = policies_pb2.CreatePolicyRequest(instance_id=instance_id)
        request.provider.string_value = "anonymous"
        request.enabled.bool_value = enabled
        request.slug.string_value = slug
        request.config.struct_value.update({"trigger_secret": "the-secret"})
        await policies.CreatePolicy(request, metadata=OWNER)
    route = await stub.GetRoute(pb.GetRouteRequest(instance_id=instance_id), metadata=TOKEN)
    assert (route.org_id, route.status) == ("org_one", "running")
    assert (route.upstream.host, route.upstream.port) == ("127.0.0.1", 9)
    assert len(route.upstream.engine_key) >= 32
    (policy,) = route.policies
    assert (policy.slug, policy.provider, policy.trigger_secret) == ("hook", "anonymous", "the-secret")
    failed = await failure(stub.GetRoute(pb.GetRouteRequest(instance_id="inst_nothing"), metadata=TOKEN))
    assert failed.reason == "NOT_FOUND"


async def test_engine_that_moves_behind_one_address_is_told_to_the_proxies(tmp_path: Path) -> None:
    """Behind Fly's proxy all engines have one host: only the header says which one is meant."""
    runtime = MemoryRuntime(upstream=Upstream(host="h.example", port=443, tls=True, headers={"fly-x": "one"}))
    async with (
        running(settings(tmp_path), runtime) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        stub: Any = DataPlaneServiceStub(channel)
        instance_id = await new_instance(channel)
        proxy = Proxy(channel)
        await proxy.hello()
        runtime.upstream = replace(runtime.upstream, headers={"fly-x": "two"})
        while not (told := await proxy.read()).HasField("change"):
            pass
        assert told.change.instance_id == instance_id
        route = await stub.GetRoute(pb.GetRouteRequest(instance_id=instance_id), metadata=TOKEN)
        assert (route.upstream.host, route.upstream.tls, dict(route.upstream.headers)) == (
            "h.example",
            True,
            {"fly-x": "two"},
        )


async def test_route_holds_the_limits_of_the_organizations_plan(tmp_path: Path) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text("[free]\n[small]\nkey_requests_per_second = 7\nkey_request_burst = 9\nopen_streams = 3\n")
    async with (
        running(settings(tmp_path, plans_file=plans, default_plan="small"), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        stub: Any = DataPlaneServiceStub(channel)
        route = await stub.GetRoute(pb.GetRouteRequest(instance_id=await new_instance(channel)), metadata=TOKEN)
    assert route.limits == pb.Limits(key=pb.Rate(per_second=7, burst=9), open_streams=3)
    assert not route.limits.HasField("organization"), "no limit is not a limit of 0"


async def test_proxies_hear_how_many_they_are(tmp_path: Path) -> None:
    now = 0.0
    async with open_database(settings(tmp_path)) as database:
        propagation = Propagation(database, clock=utc_now, confirm_timeout=1, monotonic=lambda: now)
        await propagation.start()
        first = await propagation.join("p1", STALE_MS, 0)
        second = await propagation.join("p2", STALE_MS, 0)
        propagation.heartbeat(first, 1)
        heard = first.messages()
        assert [await anext(heard), await anext(heard)] == [Welcome(0, False, 1), Heartbeat(1, 2)]
        assert await anext(second.messages()) == Welcome(0, False, 2)
        # One that hangs still has its connection, but takes no requests.
        now += SILENT_S
        await propagation.check()
        propagation.heartbeat(first, 2)
        assert await anext(heard) == Heartbeat(2, 1)
        propagation.heartbeat(second, 1)
        await propagation.leave(second, goodbye=True)
        propagation.heartbeat(first, 3)
        assert await anext(heard) == Heartbeat(3, 1)


async def test_key_is_found_by_digest_and_use_is_noted(channel: grpc.aio.Channel) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    made = await new_key(channel)
    key = await stub.GetKey(pb.GetKeyRequest(sha256=digest(made.key)), metadata=TOKEN)
    assert (key.key_id, key.org_id, key.prefix) == (made.id, "org_one", made.prefix)
    assert not key.HasField("revoked_at")
    assert not key.HasField("instance_id")

    for seconds in (0, -60):
        at = Timestamp()
        at.FromDatetime(datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC) + timedelta(seconds=seconds))
        count = pb.TrafficCount(instance_id="i", key_id=made.id, status=200, requests=3, last_at=at)
        await stub.ReportTraffic(pb.ReportTrafficRequest(proxy_id="p", counts=[count]), metadata=TOKEN)
    keys: Any = ApiKeysServiceStub(channel)
    (listed,) = (await keys.ListApiKeys(api_keys_pb2.ListApiKeysRequest(), metadata=OWNER)).api_keys
    assert listed.last_used_at.string_value == "2026-05-04T03:02:01Z"


async def test_counts_are_kept_by_the_minute(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        stub: Any = DataPlaneServiceStub(channel)
        # The clock of a proxy may be fast: nothing happens in the future.
        for at, requests in (
            (now - timedelta(hours=1), 3),
            (now, 4),
            (now + timedelta(days=1), 5),
            (now, 0),
            (now, -7),
        ):
            stamp = Timestamp()
            stamp.FromDatetime(at)
            count = pb.TrafficCount(instance_id="i", policy_id="p", status=200, requests=requests, last_at=stamp)
            for proxy_id in ("a", "b"):
                report = pb.ReportTrafficRequest(proxy_id=proxy_id, counts=[count])
                await stub.ReportTraffic(report, metadata=TOKEN)
        async with app.database.read() as tx:
            (recent,) = await tx.traffic.totals(["i"], minute)
            (whole,) = await tx.traffic.totals(["i"], minute - timedelta(hours=2))
        assert (recent.requests, whole.requests) == (18, 24)
        assert (recent.key_id, recent.policy_id, recent.status) == (None, "p", 200)

        async def is_forgotten() -> bool:
            # The server's own housekeeping may have the turn.
            await sweep(app.database, lambda: datetime.now(UTC) + timedelta(hours=25))
            async with app.database.read() as tx:
                return await tx.traffic.totals(["i"], minute - timedelta(hours=2)) == []

        await eventually(is_forgotten)


async def test_revocation_answers_after_every_proxy_has_acknowledged(channel: grpc.aio.Channel) -> None:
    made = await new_key(channel)
    proxies = [Proxy(channel, f"p{number}", stale_ms=60_000) for number in range(3)]
    for proxy in proxies:
        await proxy.hello()
    revocation = asyncio.ensure_future(revoke(channel, made.id))
    for proxy in proxies:
        change = (await proxy.read()).change
        assert change.key_sha256 == digest(made.key)
        assert not revocation.done()
        await proxy.ack(change.version)
    await revocation


async def test_silent_proxy_leaves_a_change_unconfirmed_until_its_time_is_over(channel: grpc.aio.Channel) -> None:
    made = await new_key(channel)
    proxy = Proxy(channel, stale_ms=60_000)
    await proxy.hello()
    before = datetime.now(UTC)
    failed = await failure(revoke(channel, made.id))
    assert (failed.http, failed.reason) == (503, "CHANGE_UNCONFIRMED")
    certain = datetime.fromisoformat(failed.metadata["certain_at"])
    assert timedelta(seconds=58) < certain - before < timedelta(seconds=64)
    assert failed.trailers["retry-after"] == "1"
    stub: Any = DataPlaneServiceStub(channel)
    key = await stub.GetKey(pb.GetKeyRequest(sha256=digest(made.key)), metadata=TOKEN)
    assert key.HasField("revoked_at"), "the change stands"

    await proxy.ack((await proxy.read()).change.version)
    again = asyncio.ensure_future(revoke(channel, made.id))
    await proxy.ack((await proxy.read()).change.version)
    await again


async def test_lost_proxy_counts_until_its_time_is_over_and_one_that_took_leave_does_not(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path, confirm_timeout=5), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        made = await new_key(channel)
        lost, gone = Proxy(channel, "lost", stale_ms=STALE_MS), Proxy(channel, "gone", stale_ms=60_000)
        asked = asyncio.get_running_loop().time()
        await lost.hello()
        await gone.hello()
        await gone.call.write(pb.WatchRequest(goodbye=pb.ProxyGoodbye()))
        lost.call.cancel()
        await eventually(lambda: _connected(app, 0))
        await revoke(channel, made.id)
        assert asyncio.get_running_loop().time() - asked >= STALE_MS / 1000


async def _connected(app: Any, count: int) -> bool:
    return bool(app.propagation.connected == count)


async def test_restarted_server_waits_for_the_proxies_of_the_one_before(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        made = await new_key(channel)
        await Proxy(channel, "p1", stale_ms=60_000).hello()
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        assert (await failure(revoke(channel, made.id))).reason == "CHANGE_UNCONFIRMED"
        proxy = Proxy(channel, "p1", stale_ms=60_000)
        hello = await proxy.hello()
        await proxy.ack(hello.version)
        revocation = asyncio.ensure_future(revoke(channel, made.id))
        await proxy.ack((await proxy.read()).change.version)
        await revocation


async def test_returning_proxy_hears_what_it_missed(channel: grpc.aio.Channel) -> None:
    made = await new_key(channel)
    first = Proxy(channel)
    await first.hello()
    revocation = asyncio.ensure_future(revoke(channel, made.id))
    seen = (await first.read()).change.version
    await first.ack(seen)
    await revocation
    first.call.cancel()
    await new_instance(channel)

    back = Proxy(channel, since=seen)
    hello = await back.hello()
    assert not hello.reset
    assert hello.version > seen
    missed = (await back.read()).change
    assert missed.version == seen + 1
    assert missed.instance_id.startswith("inst_")


async def test_heartbeats_are_answered_in_order_with_changes(channel: grpc.aio.Channel) -> None:
    proxy = Proxy(channel)
    await proxy.hello()
    for number in (1, 2):
        await proxy.call.write(pb.WatchRequest(heartbeat=number))
        answer = await proxy.read()
        assert (answer.heartbeat, answer.proxies) == (number, 1)


async def test_stream_without_a_hello_is_refused(channel: grpc.aio.Channel) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    call = stub.Watch(metadata=TOKEN)
    await call.write(pb.WatchRequest(heartbeat=1))
    assert (await failure(call.read())).reason == "INVALID_ARGUMENT"
