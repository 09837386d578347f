"""Run events from engines, and what is seen of runs, over gRPC and on both databases."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1 import runs_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.runs_pb2_grpc import RunsServiceStub
from sqlalchemy import text

from server.app import App
from server.domain.plans import Plans
from server.domain.run_events import read_batch
from server.domain.runs import MOST, RANKS, Run, RunState, microseconds
from server.workers.housekeeping import KEEP_OPEN_RUNS, sweep_runs
from tests.support.calls import eventually, failure
from tests.support.run_model import expected
from tests.support.runtime import MemoryRuntime

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
Metadata = Sequence[tuple[str, str]]
NewEngine = Callable[..., Awaitable[tuple[str, Metadata]]]


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return RunsServiceStub


@pytest_asyncio.fixture(loop_scope="module")
async def new_engine(grpc_channel: Any, runtime: MemoryRuntime, owner: Any) -> NewEngine:
    """Makes an instance. Gives its id, and the metadata with which its engine reports."""

    async def make(who: Any = owner) -> tuple[str, Metadata]:
        request = instances_pb2.CreateInstanceRequest(name=f"i-{uuid4().hex[:8]}", region="iad")
        instances: Any = InstancesServiceStub(grpc_channel)
        made = await instances.CreateInstance(request, metadata=who)
        running = instances_pb2.GetInstanceRequest(instance_id=made.id, wait=Duration(seconds=30))
        assert (await instances.GetInstance(running, metadata=who)).status == "running"
        (key,) = (one.ingest_key for one in runtime.started if one.instance_id == made.id)
        return made.id, bearer(key)

    return make


@pytest_asyncio.fixture(loop_scope="module")
async def engine(new_engine: NewEngine) -> tuple[str, Metadata]:
    return await new_engine()


@pytest.fixture
def pro(grpc_server: App, org: str) -> Callable[[], Awaitable[None]]:
    """Lets the organization have several instances."""

    async def change() -> None:
        async with grpc_server.database.engine.begin() as connection:
            await connection.execute(text("UPDATE organizations SET plan = 'pro' WHERE id = :org"), {"org": org})

    return change


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


def event(run_id: str, state: str = "running", at: float = 0.0, **more: Any) -> dict[str, Any]:
    moment = (NOW + timedelta(seconds=at)).isoformat().replace("+00:00", "Z")
    named = {"sequence_name": "mail", "sequence_version": 1}
    return {"instance_id": run_id, "state": state, "at": moment, **named, **more}


async def send(stub: Any, who: Metadata, *events: Any) -> tuple[int, int, int]:
    """Reports events. Says how many were accepted, known already, and wrong."""
    body = HttpBody(data=json.dumps({"engine_id": "e", "events": events}).encode())
    taken = await stub.IngestRuns(pb.IngestRunsRequest(body=body), metadata=who)
    return taken.accepted, taken.duplicates, taken.rejected


async def listed(stub: Any, who: Any, **wanted: Any) -> list[str]:
    return [one.id for one in (await stub.ListRuns(pb.ListRunsRequest(**wanted), metadata=who)).items]


async def api_key(channel: Any, owner: Any, instance_id: str) -> Metadata:
    request = api_keys_pb2.CreateApiKeyRequest(name="k", environment="live", instance_id=instance_id)
    return bearer((await ApiKeysServiceStub(channel).CreateApiKey(request, metadata=owner)).key)


async def test_run_is_followed_to_its_end(grpc_stub: Any, owner: Any, engine: Any) -> None:
    instance_id, who = engine
    assert await send(grpc_stub, who, event("a", "scheduled"), event("a", "running", 0.25, step_id="one")) == (2, 0, 0)
    (shown,) = (await grpc_stub.ListRuns(pb.ListRunsRequest(), metadata=owner)).items
    assert (shown.state, shown.step_id.string_value, shown.instance_id) == ("running", "one", instance_id)
    assert shown.duration_ms.WhichOneof("kind") == shown.ended_at.WhichOneof("kind") == "null_value"
    ended = event("a", "failed", 2, error_kind="timeout", duration_ms=1999)
    assert await send(grpc_stub, who, event("a", "scheduled"), ended) == (1, 1, 0)
    run = await grpc_stub.GetRun(pb.GetRunRequest(run_id="a"), metadata=owner)
    assert (run.state, run.error_kind.string_value, run.duration_ms.number_value) == ("failed", "timeout", 1999)
    assert run.ended_at.string_value == f"{NOW + timedelta(seconds=2):%Y-%m-%dT%H:%M:%SZ}"
    assert run.started_at.ToDatetime(tzinfo=UTC) == NOW
    passed = [(one.state, one.step_id.string_value, one.duration_ms.number_value) for one in run.transitions]
    assert passed == [("scheduled", "", 250), ("running", "one", 1750), ("failed", "", 0)]
    assert run.transitions[-1].duration_ms.WhichOneof("kind") == "null_value"
    assert run.transitions[1].at.ToMilliseconds() == microseconds(NOW) // 1000 + 250


async def test_wrong_events_are_counted_and_stop_nothing(grpc_stub: Any, owner: Any, engine: Any) -> None:
    wrong = [None, event("b", "exploded"), event("c", sequence_version="one"), event("d", step_id="nul \0")]
    assert await send(grpc_stub, engine[1], *wrong, event("a", surprise={"new": True})) == (1, 0, 4)
    assert await send(grpc_stub, engine[1], *wrong) == (0, 0, 4)
    assert await send(grpc_stub, engine[1]) == (0, 0, 0)
    assert await listed(grpc_stub, owner) == ["a"]


async def test_what_is_no_batch_is_refused(grpc_stub: Any, engine: Any) -> None:
    for body in (b"", b"{", b"{}", json.dumps({"events": [event("a")] * 501}).encode()):
        call = grpc_stub.IngestRuns(pb.IngestRunsRequest(body=HttpBody(data=body)), metadata=engine[1])
        assert (await failure(call)).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("seed", range(4))
async def test_replayed_exports_end_as_the_plain_model_says(
    grpc_stub: Any, grpc_server: App, owner: Any, engine: Any, org: str, seed: int
) -> None:
    random = Random(seed)
    recorded = [one for number in range(40) for one in history(f"run-{number:02}", random)]
    replay = recorded * 2
    random.shuffle(replay)
    # What the engine has sent and did not hear the answer to is sent again with what came meanwhile.
    batches = [replay[start : start + 61] for start in range(0, len(replay), 47)]
    for pair in zip(batches[::2], [*batches[1::2], []], strict=False):
        await asyncio.gather(*(send(grpc_stub, engine[1], *one) for one in pair))
    read = read_batch(json.dumps({"events": recorded}).encode(), datetime.now(UTC))
    async with grpc_server.database.read() as tx:
        found = await tx.runs.load(engine[0], [f"run-{number:02}" for number in range(40)])
    assert len(recorded) <= 500
    assert {run_id: shown(run) for run_id, run in found.items()} == expected(one for one in read if one is not None)
    assert len(await listed(grpc_stub, owner, page_size=500)) == 40


def history(run_id: str, random: Random) -> list[dict[str, Any]]:
    """What an engine reports of one run, from its start to wherever it was when the recording ended."""
    steps = random.randint(0, 4 if random.random() < 0.95 else MOST)
    states = ["scheduled", *("running", "waiting") * steps, random.choice(["completed", "failed", "cancelled"])]
    at = random.random() * 100
    found = []
    for number, state in enumerate(states):
        at += random.choice([0, 0.001, 1.5])
        is_end = RANKS[state] >= RANKS[RunState.COMPLETED]
        more = {"duration_ms": number * 10 if is_end else None, "error_kind": "timeout" if state == "failed" else None}
        found.append(event(run_id, state, at, step_id=f"s{number}" if state != "scheduled" else None, **more))
    return found[: random.randint(1, len(found))]


def shown(run: Run) -> dict[str, object]:
    return {
        "state": run.state,
        "step_id": run.last.step_id,
        "sequence": (run.sequence, run.sequence_version),
        "duration_ms": run.duration_ms,
        "error_kind": run.error_kind,
        "sub_tenant": run.sub_tenant,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "ended_at": run.ended_at,
        "transitions": run.transitions,
        "cut": run.cut,
    }


async def test_pages_go_from_new_to_old_and_miss_nothing(grpc_stub: Any, owner: Any, engine: Any) -> None:
    await send(grpc_stub, engine[1], *(event(f"r{number:03}", at=number // 7) for number in range(120)))
    found: list[str] = []
    token = ""
    for size in (50, 50, 20):
        page = await grpc_stub.ListRuns(pb.ListRunsRequest(page_token=token), metadata=owner)
        assert len(page.items) == size
        found, token = found + [one.id for one in page.items], page.next_page_token
        # What comes meanwhile is newer, and moves nothing.
        await send(grpc_stub, engine[1], event(f"late-{size}-{len(found)}", at=60))
    assert token == ""
    assert found == sorted((f"r{number:03}" for number in range(120)), reverse=True)


async def test_runs_are_filtered(
    grpc_stub: Any, owner: Any, engine: Any, new_engine: NewEngine, pro: Callable[[], Awaitable[None]]
) -> None:
    await pro()
    other, reports = await new_engine()
    await send(grpc_stub, engine[1], event("a"), event("b", "failed", 5, sequence_name="post"), event("c", at=9))
    await send(grpc_stub, reports, event("d", "failed", 7))
    assert await listed(grpc_stub, owner) == ["c", "d", "b", "a"]
    assert await listed(grpc_stub, owner, instance_id=other) == ["d"]
    assert await listed(grpc_stub, owner, state="failed") == ["d", "b"]
    assert await listed(grpc_stub, owner, sequence="post", state="failed") == ["b"]
    assert await listed(grpc_stub, owner, since=Timestamp(seconds=int(NOW.timestamp()) + 7)) == ["c", "d"]
    assert await listed(grpc_stub, owner, instance_id="inst_nobody") == []


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"state": "exploded"}, "state"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "?"}, "page_token"),
        ({"page_token": "AAAA"}, "page_token"),
        ({"since": Timestamp(seconds=2**60)}, "since"),
    ],
)
async def test_bad_filters_are_named(grpc_stub: Any, owner: Any, wanted: Any, field: str) -> None:
    failed = await failure(grpc_stub.ListRuns(pb.ListRunsRequest(**wanted), metadata=owner))
    assert (failed.reason, failed.fields) == ("INVALID_ARGUMENT", (field,))


async def test_each_sees_what_is_in_reach(
    grpc_stub: Any,
    grpc_channel: Any,
    owner: Any,
    engine: Any,
    signed_in: Any,
    new_engine: NewEngine,
    pro: Callable[[], Awaitable[None]],
) -> None:
    await pro()
    other, reports = await new_engine()
    await send(grpc_stub, engine[1], event("a"), event("same"))
    await send(grpc_stub, reports, event("b"), event("same", at=1))
    key, stranger = await api_key(grpc_channel, owner, engine[0]), signed_in(f"org_{uuid4().hex}")
    assert sorted(await listed(grpc_stub, key)) == ["a", "same"]
    assert await listed(grpc_stub, key, instance_id=other) == []
    assert await listed(grpc_stub, stranger) == []
    same = pb.GetRunRequest(run_id="same")
    assert (await grpc_stub.GetRun(same, metadata=owner)).instance_id == other
    assert (await grpc_stub.GetRun(same, metadata=key)).instance_id == engine[0]
    named = pb.GetRunRequest(run_id="same", instance_id=engine[0])
    assert (await grpc_stub.GetRun(named, metadata=owner)).instance_id == engine[0]
    hidden: list[tuple[Any, pb.GetRunRequest]] = [
        (stranger, pb.GetRunRequest(run_id="a")),
        (key, pb.GetRunRequest(run_id="b")),
        (key, pb.GetRunRequest(run_id="b", instance_id=other)),
        (owner, pb.GetRunRequest(run_id="a", instance_id=other)),
    ]
    for who, request in hidden:
        assert (await failure(grpc_stub.GetRun(request, metadata=who))).reason == "NOT_FOUND"


async def test_only_an_ingest_key_reports_and_it_does_nothing_else(
    grpc_stub: Any, grpc_channel: Any, owner: Any, engine: Any
) -> None:
    key = await api_key(grpc_channel, owner, engine[0])
    body = HttpBody(data=json.dumps({"events": []}).encode())
    for who in (owner, key, bearer("orc8_ingest_x"), bearer(""), (), bearer(engine[1][0][1][7:] + "x")):
        failed = await failure(grpc_stub.IngestRuns(pb.IngestRunsRequest(body=body), metadata=who))
        assert failed.code is grpc.StatusCode.UNAUTHENTICATED
    assert (await failure(grpc_stub.ListRuns(pb.ListRunsRequest(), metadata=engine[1]))).http == 401
    listing = InstancesServiceStub(grpc_channel).ListInstances(instances_pb2.ListInstancesRequest(), metadata=engine[1])
    assert (await failure(listing)).http == 401


async def test_last_events_of_an_instance_that_goes_are_taken_and_none_once_it_is_gone(
    grpc_stub: Any, grpc_channel: Any, runtime: MemoryRuntime, owner: Any, engine: Any
) -> None:
    instances, instance_id = InstancesServiceStub(grpc_channel), engine[0]
    await send(grpc_stub, engine[1], event("a"))
    runtime.stubborn = True
    try:
        await instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(instance_id=instance_id), metadata=owner)
        assert await send(grpc_stub, engine[1], event("a", "cancelled", 1)) == (1, 0, 0)
    finally:
        runtime.stubborn = False

    async def refused() -> bool:
        try:
            await send(grpc_stub, engine[1])
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    await eventually(refused)
    assert (await grpc_stub.GetRun(pb.GetRunRequest(run_id="a"), metadata=owner)).state == "cancelled"


async def test_instance_of_before_there_were_ingest_keys_is_given_one_when_its_engine_starts(
    grpc_stub: Any, grpc_server: App, grpc_channel: Any, runtime: MemoryRuntime, owner: Any, engine: Any
) -> None:
    instances, instance_id = InstancesServiceStub(grpc_channel), engine[0]
    async with grpc_server.database.engine.begin() as connection:
        forget = text("UPDATE instances SET ingest_key = NULL, ingest_sha256 = NULL WHERE id = :id")
        await connection.execute(forget, {"id": instance_id})
    for action in ("suspend", "resume"):
        request = instances_pb2.ActOnInstanceRequest(instance_id=instance_id, action=action)
        await instances.ActOnInstance(request, metadata=owner)
    given = [one.ingest_key for one in runtime.started if one.instance_id == instance_id]
    assert len(given) == len(set(given)) == 2
    assert await send(grpc_stub, bearer(given[1]), event("a")) == (1, 0, 0)
    assert (await failure(send(grpc_stub, engine[1], event("b")))).http == 401


async def test_runs_are_kept_as_long_as_the_plan_says(
    grpc_stub: Any, grpc_server: App, owner: Any, engine: Any
) -> None:
    ended = (event(f"ended-{number}", "completed", number) for number in range(5))
    await send(grpc_stub, engine[1], *ended, event("waits", "waiting"))
    plans = Plans.parse("[free]\nruns_days = 40")
    for days, left in (
        (39, 6),
        (41, 1),
        (KEEP_OPEN_RUNS.days - 1, 1),
        (KEEP_OPEN_RUNS.days + 1, 0),
    ):
        at = NOW + timedelta(days=days)
        await sweep_runs(grpc_server.database, plans, partial(datetime.astimezone, at), rows=2)
        assert len(await listed(grpc_stub, owner)) == left


async def test_plan_without_a_limit_keeps_what_has_ended(
    grpc_stub: Any, grpc_server: App, owner: Any, engine: Any
) -> None:
    await send(grpc_stub, engine[1], event("a", "completed"))
    await sweep_runs(grpc_server.database, Plans.parse("[free]"), lambda: NOW + timedelta(days=9999))
    assert await listed(grpc_stub, owner) == ["a"]
