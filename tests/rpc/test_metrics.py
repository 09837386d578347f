"""Metrics of instances: what proxies report is shown to whoever may see the instance, for a day."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import api_keys_pb2, instances_pb2, runs_pb2
from orch8cloud.v1 import metrics_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.metrics_pb2_grpc import MetricsServiceStub
from orch8cloud.v1.runs_pb2_grpc import RunsServiceStub

from server.app import App
from server.domain.answers import ERROR, LAST, bucket_of, minute_of
from server.services.identifiers import utc_now
from server.workers.housekeeping import sweep
from tests.support.calls import eventually, failure
from tests.support.runtime import MemoryRuntime
from tests.support.server import DATAPLANE_TOKEN

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = (("x-orch8-dataplane-token", DATAPLANE_TOKEN),)


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return MetricsServiceStub


async def create(channel: Any, who: Any, name: str) -> str:
    request = instances_pb2.CreateInstanceRequest(name=name, region="iad")
    made: Any = await InstancesServiceStub(channel).CreateInstance(request, metadata=who)
    return str(made.id)


@pytest_asyncio.fixture(loop_scope="module")
async def instance_id(grpc_channel: Any, owner: Any) -> str:
    return await create(grpc_channel, owner, "production")


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def counted(instance_id: str, at: datetime, status: int, requests: int) -> Any:
    return dataplane_pb2.TrafficCount(instance_id=instance_id, status=status, requests=requests, last_at=stamp(at))


def answered(instance_id: str, at: datetime, kinds: dict[str, int], latency: dict[float, int]) -> Any:
    buckets = {bucket_of(milliseconds): many for milliseconds, many in latency.items()}
    return dataplane_pb2.AnswerCounts(
        instance_id=instance_id, minute=stamp(minute_of(at)), kinds=kinds, latency=buckets
    )


async def report(channel: Any, counts: list[Any], answers: list[Any]) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    for proxy_id in ("a", "b"):
        request = dataplane_pb2.ReportTrafficRequest(proxy_id=proxy_id, counts=counts, answers=answers)
        await stub.ReportTraffic(request, metadata=TOKEN)


async def metrics(stub: Any, instance_id: str, who: Any, **times: datetime) -> Any:
    times_asked = {name: stamp(at) for name, at in times.items()}
    request = pb.GetInstanceMetricsRequest(instance_id=instance_id, **times_asked)
    return await stub.GetInstanceMetrics(request, metadata=who)


async def test_what_proxies_report_adds_up_by_the_minute(
    grpc_stub: Any, grpc_channel: Any, instance_id: str, owner: Any
) -> None:
    now = utc_now()
    before = now - timedelta(minutes=30)
    await report(
        grpc_channel,
        [
            counted(instance_id, before, 200, 10),
            counted(instance_id, before, 401, 2),
            counted(instance_id, before, 429, 1),
            counted(instance_id, now, 403, 4),
        ],
        [answered(instance_id, before, {"2xx": 8, "5xx": 1, "none": 1}, {1.0: 5, 20.0: 4, 3000.0: 1})],
    )
    found = await metrics(grpc_stub, instance_id, owner)
    assert (found.instance_id, found.step) == (instance_id, "60s")
    earlier, later = found.buckets
    assert earlier.at.ToDatetime(tzinfo=UTC) == minute_of(before)
    assert (earlier.requests, earlier.allowed, earlier.denied, earlier.errors) == (26, 20, 6, 4)
    assert dict(earlier.answers) == {"2xx": 16, "5xx": 2, "none": 2}
    latencies = [earlier.p50_ms.number_value, earlier.p90_ms.number_value, earlier.p99_ms.number_value]
    assert latencies == [pytest.approx(exact, rel=ERROR * 1.01) for exact in (1.0, 20.0, 3000.0)]
    assert (later.requests, later.allowed, later.denied, later.errors, dict(later.answers)) == (8, 0, 8, 0, {})
    shown = MessageToDict(later, preserving_proto_field_name=True)
    assert (shown["p50_ms"], shown["p90_ms"], shown["p99_ms"]) == (None, None, None)


def run_event(run_id: str, state: str, at: datetime) -> dict[str, Any]:
    """As an engine exports it."""
    return {"instance_id": run_id, "state": state, "at": at.isoformat(), "sequence_name": "s", "sequence_version": 1}


async def test_runs_are_shown_where_they_started_in_the_state_they_are_in(
    grpc_stub: Any, grpc_channel: Any, runtime: MemoryRuntime, instance_id: str, owner: Any
) -> None:
    await eventually(lambda: _is_running(InstancesServiceStub(grpc_channel), instance_id, owner))
    (key,) = {one.ingest_key for one in runtime.started if one.instance_id == instance_id}
    now = utc_now()
    before = minute_of(now) - timedelta(minutes=30)
    second = timedelta(seconds=1)
    events = [
        run_event("a", "scheduled", before),
        run_event("a", "completed", before + 70 * second),
        run_event("b", "running", before + 59 * second),
        run_event("c", "completed", before + 30 * second),
        run_event("d", "waiting", before + 60 * second),
    ]
    body = HttpBody(data=json.dumps({"engine_id": "e", "events": events}).encode())
    runs: Any = RunsServiceStub(grpc_channel)
    who = (("authorization", f"Bearer {key}"),)
    assert (await runs.IngestRuns(runs_pb2.IngestRunsRequest(body=body), metadata=who)).accepted == len(events)
    await report(grpc_channel, [counted(instance_id, before, 200, 1)], [])
    first, second_one = (await metrics(grpc_stub, instance_id, owner)).buckets
    assert first.at.ToDatetime(tzinfo=UTC) == before
    assert (first.requests, dict(first.runs)) == (2, {"completed": 2, "running": 1})
    assert (second_one.requests, dict(second_one.runs)) == (0, {"waiting": 1})
    part = await metrics(grpc_stub, instance_id, owner, since=before + 60 * second)
    assert [dict(bucket.runs) for bucket in part.buckets] == [{"waiting": 1}]


async def test_a_part_of_the_time_can_be_asked_for(
    grpc_stub: Any, grpc_channel: Any, instance_id: str, owner: Any
) -> None:
    now = utc_now()
    middle = minute_of(now) - timedelta(minutes=10)
    minutes = [middle + timedelta(minutes=number) for number in (-2, -1, 0, 1)]
    await report(grpc_channel, [counted(instance_id, at, 200, 1) for at in minutes], [])

    async def shown(**times: datetime) -> list[datetime]:
        found = await metrics(grpc_stub, instance_id, owner, **times)
        first, end = (getattr(found, name).ToDatetime(tzinfo=UTC) for name in ("from", "to"))
        at = [bucket.at.ToDatetime(tzinfo=UTC) for bucket in found.buckets]
        assert all(first <= one < end for one in at)
        return at

    second = timedelta(seconds=1)
    assert await shown() == minutes
    assert await shown(since=middle) == minutes[2:]
    assert await shown(since=middle + 5 * second, until=middle + 6 * second) == [middle]
    assert await shown(until=middle) == minutes[:2]
    assert await shown(until=middle + second) == minutes[:3]
    assert await shown(since=now - timedelta(days=300), until=now + timedelta(days=300)) == minutes
    whole = await metrics(grpc_stub, instance_id, owner, since=now - timedelta(days=300))
    since = getattr(whole, "from").ToDatetime(tzinfo=UTC)
    assert minute_of(now) - timedelta(hours=24) <= since <= minute_of(utc_now()) - timedelta(hours=24)
    old = await metrics(grpc_stub, instance_id, owner, until=now - timedelta(days=300))
    assert list(old.buckets) == []
    assert getattr(old, "from") == old.to


async def test_times_that_make_no_sense_are_refused(grpc_stub: Any, instance_id: str, owner: Any) -> None:
    now = utc_now()
    hour = timedelta(hours=1)
    for times in ({"since": now, "until": now - hour}, {"since": now, "until": now}, {"since": now + hour}):
        failed = await failure(metrics(grpc_stub, instance_id, owner, **times))
        assert (failed.reason, failed.http, failed.fields) == ("INVALID_ARGUMENT", 400, ("since",))
    request = pb.GetInstanceMetricsRequest(instance_id=instance_id, until=Timestamp(seconds=2**60))
    failed = await failure(grpc_stub.GetInstanceMetrics(request, metadata=owner))
    assert (failed.reason, failed.fields) == ("INVALID_ARGUMENT", ("until",))


async def test_a_report_that_makes_no_sense_does_not_spoil_the_rest(
    grpc_stub: Any, grpc_channel: Any, instance_id: str, owner: Any
) -> None:
    now = utc_now()
    odd = [
        answered(instance_id, now, {"2xx": -1, "6xx": 4, "": 1}, {}),
        dataplane_pb2.AnswerCounts(instance_id=instance_id, minute=Timestamp(seconds=2**60), kinds={"2xx": 1}),
        answered(instance_id, now - timedelta(hours=25), {"2xx": 1}, {1.0: 1}),
    ]
    good = answered(instance_id, now + timedelta(days=1), {"2xx": 3}, {5.0: 3})
    good.latency.update({-1: 5, LAST + 1: 5, 3: -2})
    await report(grpc_channel, [counted(instance_id, now, 200, -3)], [*odd, good, good])
    # The clock of a proxy may be fast: nothing happens in the future. A minute may have passed between the two reports.
    buckets = (await metrics(grpc_stub, instance_id, owner)).buckets
    assert all(minute_of(now) <= one.at.ToDatetime(tzinfo=UTC) <= utc_now() for one in buckets)
    assert sum(one.answers["2xx"] for one in buckets) == 12
    for one in buckets:
        assert (one.requests, set(one.answers)) == (0, {"2xx"})
        assert one.p99_ms.number_value == pytest.approx(5.0, rel=ERROR * 1.01)


async def test_who_may_see_the_instance_sees_its_metrics(
    grpc_stub: Any, grpc_channel: Any, instance_id: str, owner: Any, signed_in: Any
) -> None:
    stub: Any = InstancesServiceStub(grpc_channel)
    await eventually(lambda: _is_running(stub, instance_id, owner))
    suspend = instances_pb2.ActOnInstanceRequest(instance_id=instance_id, action="suspend")
    await stub.ActOnInstance(suspend, metadata=owner)
    other = await create(grpc_channel, owner, "other")
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="test", instance_id=instance_id)
    made: Any = await ApiKeysServiceStub(grpc_channel).CreateApiKey(request, metadata=owner)
    key = (("authorization", f"Bearer {made.key}"),)
    assert (await metrics(grpc_stub, instance_id, key)).instance_id == instance_id
    for call in (
        metrics(grpc_stub, other, key),
        metrics(grpc_stub, instance_id, signed_in("org_strangers")),
        metrics(grpc_stub, "inst_00000000000000000000", owner),
    ):
        failed = await failure(call)
        assert (failed.http, failed.reason) == (404, "NOT_FOUND")
    assert (await failure(metrics(grpc_stub, instance_id, ()))).http == 401


async def _is_running(stub: Any, instance_id: str, who: Any) -> bool:
    found = await stub.GetInstance(instances_pb2.GetInstanceRequest(instance_id=instance_id), metadata=who)
    return bool(found.status == "running")


async def test_a_day_is_kept(grpc_server: App, grpc_stub: Any, grpc_channel: Any, instance_id: str, owner: Any) -> None:
    now = utc_now()
    await report(grpc_channel, [counted(instance_id, now - timedelta(hours=2), 200, 1)], [])
    assert len((await metrics(grpc_stub, instance_id, owner)).buckets) == 1

    async def is_forgotten() -> bool:
        # The server's own housekeeping may have the turn.
        await sweep(grpc_server.database, lambda: utc_now() + timedelta(hours=22, minutes=1))
        return not (await metrics(grpc_stub, instance_id, owner)).buckets

    await eventually(is_forgotten)
