"""Streams of events: what is told to whom, from where on, and how they end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from orch8cloud.v1 import api_keys_pb2, instances_pb2, policies_pb2
from orch8cloud.v1 import events_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.events_pb2_grpc import EventsServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub

from server.app import App, running
from server.domain.events import Event, EventKind
from server.services import event_feed
from server.store.database import Database
from tests.support.calls import eventually, failure
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Of today: housekeeping drops what is older than its time.
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return EventsServiceStub


class Following:
    """A stream, event by event, and where it is."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.place = ""
        self.resets: list[str] = []
        self._events: list[pb.Event] = []

    async def next(self) -> pb.Event:
        while not self._events:
            await self.read()
        return self._events.pop(0)

    async def read(self) -> None:
        async with asyncio.timeout(30):
            answer = await self.call.read()
        assert answer is not grpc.aio.EOF
        self._events += answer.events
        self.place = answer.last_event_id
        self.resets += [answer.reset] if answer.reset else []

    async def many(self, count: int) -> list[pb.Event]:
        return [await self.next() for _ in range(count)]

    async def end(self) -> Any:
        """The failure with which it ends."""

        async def drain() -> None:
            while await self.call.read() is not grpc.aio.EOF:
                pass

        async with asyncio.timeout(30):
            return await failure(drain())


@asynccontextmanager
async def following(stub: Any, who: Any, **request: Any) -> AsyncIterator[Following]:
    """A stream that has begun."""
    call = stub.WatchEvents(pb.WatchEventsRequest(**request), metadata=who)
    try:
        found = Following(call)
        await found.read()
        yield found
    finally:
        call.cancel()


def event(org_id: str, number: int, instance_id: str | None = "inst_1", kind: EventKind = EventKind.LATE) -> Event:
    return Event(org_id=org_id, instance_id=instance_id, kind=kind, at=NOW, details={"n": number})


def run(org_id: str, number: int) -> Event:
    details = {"n": number, "state": "waiting"}
    about = {"instance_id": "inst_1", "run_id": f"run_{number}", "kind": EventKind.RUN_CHANGED}
    return Event(org_id=org_id, at=NOW, details=details, **about)  # type: ignore[arg-type]


async def happen(database: Database, *events: Event) -> None:
    async with database.write() as tx:
        await tx.events.append(events)
        await tx.commit()


def numbers(events: list[pb.Event]) -> list[Any]:
    return [one.details["n"] for one in events]


async def test_an_event_says_what_happened_to_what(grpc_stub: Any, grpc_server: App, owner: Any, org: str) -> None:
    async with following(grpc_stub, owner) as found:
        await happen(grpc_server.database, run(org, 7))
        told = await found.next()
    assert MessageToDict(told, preserving_proto_field_name=True) == {
        "id": found.place,
        "type": "run.changed",
        "time": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "instance_id": "inst_1",
        "run_id": "run_7",
        "details": {"n": 7.0, "state": "waiting"},
    }


async def test_services_tell_of_instances_and_policies(
    grpc_stub: Any, grpc_channel: grpc.aio.Channel, owner: Any
) -> None:
    instances: Any = InstancesServiceStub(grpc_channel)
    policies: Any = PoliciesServiceStub(grpc_channel)
    async with following(grpc_stub, owner) as found:
        request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
        instance_id = (await instances.CreateInstance(request, metadata=owner)).id
        told = await found.many(2)
        made = policies_pb2.CreatePolicyRequest(instance_id=instance_id)
        made.provider.string_value = "api-key"
        policy = await policies.CreatePolicy(made, metadata=owner)
        which = {"instance_id": instance_id, "policy_id": policy.id}
        await policies.DeletePolicy(policies_pb2.DeletePolicyRequest(**which), metadata=owner)
        told += await found.many(2)
    assert [one.type for one in told] == ["instance.created", "instance.running", "policy.created", "policy.deleted"]
    assert {one.instance_id for one in told} == {instance_id}
    assert [one.policy_id for one in told] == ["", "", policy.id, policy.id]


async def test_who_comes_again_misses_nothing_while_many_write(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str
) -> None:
    """Readers that come and go, at every place in and between rows, hear of each event once."""
    many, writers = 40, 4

    async def write(writer: int) -> None:
        for number in range(many):
            told = [event(org, 1000 * writer + number)] if number % 2 else [run(org, number) for _ in range(3)]
            await happen(grpc_server.database, *told)
            await asyncio.sleep(0)

    async def read(every: int) -> list[str]:
        ids: list[str] = []
        while len(ids) < writers * many * 2:
            async with following(grpc_stub, owner, last_event_id=ids[-1] if ids else "0") as found:
                wanted = min(every, writers * many * 2 - len(ids))
                ids += [one.id for one in await found.many(wanted)]
                assert found.resets == []
        return ids

    reading = [asyncio.create_task(read(every)) for every in (7, 50, 10_000)]
    await asyncio.gather(*(write(writer) for writer in range(writers)))
    seen = [await one for one in reading]
    async with grpc_server.database.read() as tx:
        stored = [str(one.cursor) for one in await tx.events.of_org(org, limit=10_000)]
    assert seen == [stored, stored, stored]
    assert len(set(stored)) == writers * many * 2


async def test_only_what_is_asked_for_is_told(grpc_stub: Any, grpc_server: App, owner: Any, org: str) -> None:
    told = [
        event(org, 1, kind=EventKind.POLICY_CREATED),
        event(org, 2, instance_id="inst_2", kind=EventKind.POLICY_DELETED),
        event(org, 3, kind=EventKind.SUSPENDED),
        event(org, 4, instance_id=None, kind=EventKind.POLICY_DELETED),
        event("org_of_somebody_else", 5),
        run(org, 6),
        run(org, 7),
        event(org, 8, kind=EventKind.POLICY_DELETED),
    ]
    asked: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 2, 3, 4, 6, 7, 8]),
        ({"kinds": ["policy"]}, [1, 2, 4, 8]),
        ({"kinds": ["policy.deleted", "run"]}, [2, 4, 6, 7, 8]),
        ({"instance_id": "inst_1", "kinds": ["policy"]}, [1, 8]),
    ]
    for request, wanted in asked:
        async with following(grpc_stub, owner, **request) as live:
            await happen(grpc_server.database, *told)
            assert numbers(await live.many(len(wanted))) == wanted
    for request, wanted in asked:
        async with following(grpc_stub, owner, last_event_id="0", **request) as stored:
            assert numbers(await stored.many(len(wanted) * len(asked))) == wanted * len(asked)


async def test_a_key_of_one_instance_is_told_of_that_one(
    grpc_stub: Any, grpc_channel: grpc.aio.Channel, grpc_server: App, owner: Any, org: str
) -> None:
    instances: Any = InstancesServiceStub(grpc_channel)
    keys: Any = ApiKeysServiceStub(grpc_channel)
    request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
    instance_id = (await instances.CreateInstance(request, metadata=owner)).id
    made = api_keys_pb2.CreateApiKeyRequest(name="one", environment="live", instance_id=instance_id)
    key = (("authorization", f"Bearer {(await keys.CreateApiKey(made, metadata=owner)).key}"),)
    others = [event(org, 1, "inst_other"), event(org, 2, None)]
    async with following(grpc_stub, key, kinds=["instance.late"]) as live:
        await happen(grpc_server.database, *others, event(org, 3, instance_id))
        assert numbers(await live.many(1)) == [3]
    async with following(grpc_stub, key, last_event_id="0", kinds=["instance.late"]) as stored:
        assert numbers(await stored.many(1)) == [3]
        await happen(grpc_server.database, *others, event(org, 4, instance_id))
        assert numbers(await stored.many(1)) == [4]
    failed = await failure(_first(grpc_stub, key, instance_id="inst_other"))
    assert failed.reason == "NOT_FOUND"


async def _first(stub: Any, who: Any, **request: Any) -> Any:
    call = stub.WatchEvents(pb.WatchEventsRequest(**request), metadata=who)
    answer = await call.read()
    call.cancel()
    return answer


async def test_what_is_no_longer_kept_is_said(grpc_stub: Any, grpc_server: App, owner: Any, org: str) -> None:
    for number in range(10):
        await happen(grpc_server.database, event(org, number))
    async with following(grpc_stub, owner, last_event_id="0") as found:
        ids = [one.id for one in await found.many(10)]
    async with grpc_server.database.write() as tx:
        await tx.events.shrink(org, 4, 100, runs=False)
        await tx.commit()
    async with following(grpc_stub, owner, last_event_id=ids[2]) as found:
        assert numbers(await found.many(4)) == [6, 7, 8, 9]
        assert found.resets == ["dropped"]
    for last_event_id in (ids[5], "0"):
        async with following(grpc_stub, owner, last_event_id=last_event_id) as found:
            assert numbers(await found.many(4)) == [6, 7, 8, 9]
            assert found.resets == []
    async with following(grpc_stub, owner, last_event_id="999999999999") as found:
        assert found.resets == ["unknown"]
        await happen(grpc_server.database, event(org, 10))
        assert numbers(await found.many(1)) == [10]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"last_event_id": "x"}, "last_event_id"),
        ({"last_event_id": "1.2.3"}, "last_event_id"),
        ({"kinds": ["instance."]}, "kinds"),
        ({"kinds": ["policy"] * 51}, "kinds"),
    ],
)
async def test_requests_that_make_no_sense(grpc_stub: Any, owner: Any, request_: dict[str, Any], field: str) -> None:
    failed = await failure(_first(grpc_stub, owner, **request_))
    assert (failed.http, failed.fields) == (400, (field,))


async def test_the_header_counts_before_the_field(grpc_stub: Any, grpc_server: App, owner: Any, org: str) -> None:
    await happen(grpc_server.database, event(org, 1))
    async with following(grpc_stub, (*owner, ("last-event-id", "0")), last_event_id="999999999999") as found:
        assert numbers(await found.many(1)) == [1]


async def test_streams_are_bounded_for_each_organization_and_in_all(
    grpc_stub: Any, grpc_server: App, owner: Any, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventually(lambda: _alone(grpc_server))
    monkeypatch.setattr(grpc_server.jobs.feed, "_most", 3)
    monkeypatch.setattr(grpc_server.jobs.feed, "_most_of_one", 2)
    async with following(grpc_stub, owner), following(grpc_stub, owner):
        failed = await failure(_first(grpc_stub, owner))
        assert (failed.http, failed.reason, failed.metadata["scope"]) == (429, "RATE_LIMITED", "event streams")
        async with following(grpc_stub, signed_in("org_b")):
            assert (await failure(_first(grpc_stub, signed_in("org_c")))).http == 429
    await eventually(lambda: _alone(grpc_server))


async def _alone(app: App) -> bool:
    return app.jobs.feed.subscribers == 0


async def test_one_who_does_not_read_is_cut_off_and_holds_nobody_up(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str, signed_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "QUEUE", 50)
    large = {"why": "x" * 50_000}
    async with following(grpc_stub, owner) as slow, following(grpc_stub, owner) as fast:
        seats = grpc_server.jobs.feed.subscribers
        for number in range(500):
            one = Event(**{**_fields(event(org, 0)), "details": {"n": number, **large}})
            await happen(grpc_server.database, *[one] * 20)
            assert numbers(await fast.many(20)) == [number] * 20
            if _ended(grpc_server):
                break
        assert _ended(grpc_server), "what it may hold is bounded"
        assert grpc_server.jobs.feed.subscribers == seats
        failed = await slow.end()
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SUBSCRIBER_TOO_SLOW")
        await happen(grpc_server.database, event(org, 5000))
        assert numbers([await fast.next()]) == [5000]


def _fields(one: Event) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("org_id", "instance_id", "kind", "at")}


def _ended(app: App) -> bool:
    return any(one._end is not None for one in app.jobs.feed._seats)


async def test_streams_end_with_what_let_them_in(
    grpc_stub: Any, grpc_channel: grpc.aio.Channel, owner: Any, signed_in: Any, org: str
) -> None:
    keys: Any = ApiKeysServiceStub(grpc_channel)
    made = await keys.CreateApiKey(api_keys_pb2.CreateApiKeyRequest(name="one", environment="live"), metadata=owner)
    key = (("authorization", f"Bearer {made.key}"),)
    short = signed_in(org, exp=int(time.time()) + 3)
    async with (
        following(grpc_stub, key) as revoked,
        following(grpc_stub, short) as over,
        following(grpc_stub, owner) as stays,
    ):
        await keys.RevokeApiKey(api_keys_pb2.RevokeApiKeyRequest(api_key_id=made.id), metadata=owner)
        assert (await revoked.end()).reason == "KEY_REVOKED"
        assert (await over.end()).reason == "TOKEN_INVALID"
        assert not stays.call.done()


async def test_a_server_that_stops_sends_them_elsewhere(tmp_path: Path, database_kind: str, owner: Any) -> None:
    async with (
        running(settings(tmp_path), MemoryRuntime()) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        stub: Any = EventsServiceStub(channel)
        async with following(stub, owner) as found:
            app.jobs.feed.close()
            failed = await found.end()
        assert (failed.code, failed.http) == (grpc.StatusCode.UNAVAILABLE, 503)
        assert (await failure(_first(stub, owner))).http == 503


async def test_what_another_server_does_is_told_here(tmp_path: Path, database_kind: str, owner: Any, org: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("one server alone works on SQLite")
    async with (
        running(settings(tmp_path), MemoryRuntime()) as one,
        running(settings(tmp_path), MemoryRuntime()) as other,
        grpc.aio.insecure_channel(str(one.address)) as channel,
        following(EventsServiceStub(channel), owner) as found,
    ):
        for number in range(20):
            await happen(other.database, event(org, number))
            assert numbers([await found.next()]) == [number]


async def test_silence_is_filled_and_remembers_the_place(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.events.KEEP_ALIVE_S", 0.05)
    async with following(grpc_stub, owner, kinds=["policy"]) as found:
        before = found.place
        await happen(grpc_server.database, event(org, 1))
        async with grpc_server.database.read() as tx:
            (last,) = await tx.events.of_org(org, limit=10)

        async def passed() -> bool:
            await found.read()
            return found.place == str(last.cursor)

        await eventually(passed)
    assert before != found.place
    async with following(grpc_stub, owner, last_event_id=found.place) as again:
        await happen(grpc_server.database, event(org, 2))
        assert numbers(await again.many(1)) == [2]


async def test_rest_is_server_sent_events(grpc_stub: Any, grpc_server: App, owner: Any, org: str) -> None:
    """What Envoy passes on as it is; tests/e2e reads it there."""
    call = grpc_stub.StreamEvents(pb.StreamEventsRequest(last_event_id="999999999999"), metadata=owner)
    first = await call.read()
    assert first.content_type == "text/event-stream"
    place = first.data.decode().rpartition("id: ")[2].strip()
    reset = f'event: stream.reset\ndata: {{"reason": "unknown", "last_event_id": "{place}"}}\n\n'
    assert first.data.decode() == f"retry: 2000\n{reset}id: {place}\n\n"
    await happen(grpc_server.database, Event(**{**_fields(event(org, 1)), "details": {"why": "two\nlines ü"}}))
    (block, rest) = (await call.read()).data.decode().split("\n\n")
    assert rest == ""
    assert block.splitlines()[1] == "event: instance.late"
    assert block.splitlines()[2].endswith('"details":{"why":"two\\nlines ü"}}')
    assert len(block.splitlines()) == 3
    call.cancel()
