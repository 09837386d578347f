"""Records of decisions: taken from the proxies, shown to members of the organization, for a day."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import structlog.testing
from google.protobuf.json_format import MessageToDict, ParseDict
from orch8cloud.dataplane.v1 import dataplane_pb2
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import api_keys_pb2, instances_pb2
from orch8cloud.v1 import decisions_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.decisions_pb2_grpc import DecisionsServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub

from server.app import App
from server.services.identifiers import utc_now
from server.store.decisions import DecisionRecord
from server.workers.housekeeping import sweep
from tests.support.calls import failure
from tests.support.server import DATAPLANE_TOKEN

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = (("x-orch8-dataplane-token", DATAPLANE_TOKEN),)
WHY = {
    "policies": [
        {
            "policy_id": "pol_1",
            "provider": "api-key",
            "applicable": True,
            "accepted": True,
            "why": "no rule matches",
            "rules": [
                {
                    "matched": False,
                    "conditions": [{"claim": "sub", "expected": ["a", 1], "actual": None, "matched": False}],
                }
            ],
        }
    ],
    "nearest_miss": {"policy_id": "pol_1", "rule": 0, "message": "the claim sub is missing.", "conditions": []},
}


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return DecisionsServiceStub


@pytest_asyncio.fixture(loop_scope="module")
async def instance_id(grpc_channel: Any, owner: Any) -> str:
    request = instances_pb2.CreateInstanceRequest(name="production", region="iad")
    made: Any = await InstancesServiceStub(grpc_channel).CreateInstance(request, metadata=owner)
    return str(made.id)


def new_id() -> str:
    return f"dec_{uuid4().hex[:20]}"


def decision(instance_id: str, at: datetime | None = None, **fields: Any) -> pb.Decision:
    values = {
        "id": new_id(),
        "time": (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "instance_id": instance_id,
        "method": "GET",
        "path": f"/api/tunnel/{instance_id}/x",
        "slug": None,
        "provider": "api-key",
        "subject": "orc8_live_abcdefgh",
        "claims": {"sub": "orc8_live_abcdefgh"},
        "allowed": False,
        "status": 403,
        "reason": "RULE_MISMATCH",
        **WHY,
    }
    return ParseDict(values | fields, pb.Decision())


async def report(channel: Any, *found: pb.Decision, **dropped: int) -> None:
    stub: Any = DataPlaneServiceStub(channel)
    rows = [dataplane_pb2.DroppedDecisions(instance_id=name, decisions=count) for name, count in dropped.items()]
    request = dataplane_pb2.ReportDecisionsRequest(proxy_id="p", decisions=found, dropped=rows)
    await stub.ReportDecisions(request, metadata=TOKEN)


async def get(stub: Any, who: Any, decision_id: str) -> pb.Decision:
    found = await stub.GetDecision(pb.GetDecisionRequest(decision_id=decision_id), metadata=who)
    assert isinstance(found, pb.Decision)
    return found


async def test_members_read_what_was_reported(
    grpc_stub: Any, grpc_channel: Any, owner: Any, org: str, signed_in: Any, instance_id: str
) -> None:
    one = decision(instance_id)
    await report(grpc_channel, one)
    assert await get(grpc_stub, owner, one.id) == one
    assert await get(grpc_stub, signed_in(org, role="member"), one.id) == one
    shown = MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert {name: shown[name] for name in WHY} == WHY


async def test_strangers_keys_and_nobody_get_nothing(
    grpc_stub: Any, grpc_channel: Any, owner: Any, signed_in: Any, instance_id: str
) -> None:
    one = decision(instance_id)
    await report(grpc_channel, one)
    stranger = await failure(get(grpc_stub, signed_in(f"org_{uuid4().hex}"), one.id))
    unknown = await failure(get(grpc_stub, owner, new_id()))
    assert (stranger.http, stranger.reason) == (unknown.http, unknown.reason) == (404, "NOT_FOUND")
    assert stranger.message.replace(one.id, "") == unknown.message.replace(unknown.metadata["id"], "")
    keys: Any = ApiKeysServiceStub(grpc_channel)
    made = await keys.CreateApiKey(api_keys_pb2.CreateApiKeyRequest(name="k", environment="live"), metadata=owner)
    program = await failure(get(grpc_stub, (("authorization", f"Bearer {made.key}"),), one.id))
    assert (program.http, program.reason) == (403, "PERMISSION_DENIED")
    assert (await failure(get(grpc_stub, (), one.id))).http == 401


async def test_a_record_outlives_its_instance(grpc_stub: Any, grpc_channel: Any, owner: Any, instance_id: str) -> None:
    instances: Any = InstancesServiceStub(grpc_channel)
    before, after = decision(instance_id), decision(instance_id)
    await report(grpc_channel, before)
    await instances.DeleteInstance(instances_pb2.DeleteInstanceRequest(instance_id=instance_id), metadata=owner)
    await report(grpc_channel, after)
    for one in (before, after):
        assert await get(grpc_stub, owner, one.id) == one


async def test_bad_records_are_left_out_and_the_others_stored(
    grpc_stub: Any, grpc_channel: Any, owner: Any, instance_id: str
) -> None:
    good = [decision(instance_id), decision(instance_id)]
    no_calendar = decision(instance_id)
    no_calendar.time.seconds = -(2**62)
    far = decision(instance_id)
    far.time.seconds = 2**62
    bad = [
        decision("inst_nobody"),
        decision(instance_id, id="dec_1"),
        decision(instance_id, id=""),
        decision(instance_id, datetime.now(UTC) - timedelta(hours=25)),
        decision(instance_id, path="p" * 130 * 1024),
        no_calendar,
        far,
    ]
    with structlog.testing.capture_logs() as logs:
        await report(grpc_channel, good[0], *bad, good[1])
        await report(grpc_channel, *bad)
    assert [one["decisions"] for one in logs if one["event"] == "decisions.left_out"] == [len(bad), len(bad)]
    for one in good:
        assert await get(grpc_stub, owner, one.id) == one
    for one in bad:
        assert (await failure(get(grpc_stub, owner, one.id))).reason == "NOT_FOUND"


async def test_a_record_that_comes_twice_stays_as_it_was_first(
    grpc_stub: Any, grpc_channel: Any, owner: Any, signed_in: Any, instance_id: str
) -> None:
    first = decision(instance_id)
    await report(grpc_channel, first, first)
    other = signed_in(f"org_{uuid4().hex}")
    request = instances_pb2.CreateInstanceRequest(name="theirs", region="iad")
    theirs: Any = await InstancesServiceStub(grpc_channel).CreateInstance(request, metadata=other)
    await report(grpc_channel, decision(theirs.id, id=first.id), decision(instance_id, id=first.id, status=401))
    assert await get(grpc_stub, owner, first.id) == first
    assert (await failure(get(grpc_stub, other, first.id))).reason == "NOT_FOUND"


async def test_a_report_is_bounded_and_tells_what_was_dropped(grpc_channel: Any, instance_id: str) -> None:
    failed = await failure(report(grpc_channel, *(decision(instance_id) for _ in range(1001))))
    assert failed.fields == ("decisions",)
    with structlog.testing.capture_logs() as logs:
        await report(grpc_channel, inst_a=7)
    (line,) = [one for one in logs if one["event"] == "decisions.dropped"]
    assert (line["proxy_id"], line["instance_id"], line["decisions"]) == ("p", "inst_a", 7)


def stored(org: str, at: datetime, record: bytes = b"") -> DecisionRecord:
    return DecisionRecord(id=new_id(), org_id=org, instance_id="inst_1", at=at, record=record)


async def store(app: App, *found: DecisionRecord) -> None:
    async with app.database.write() as tx:
        await tx.decisions.add(found)
        await tx.commit()


async def is_there(app: App, one: DecisionRecord) -> bool:
    async with app.database.read() as tx:
        return await tx.decisions.get(one.org_id, one.id, datetime(2000, 1, 1, tzinfo=UTC)) == one


async def test_a_record_ends_after_a_day_whether_or_not_it_was_swept(
    grpc_stub: Any, grpc_server: App, owner: Any, org: str
) -> None:
    now = utc_now()
    old, young = stored(org, now - timedelta(hours=24)), stored(org, now - timedelta(hours=23, minutes=59))
    await store(grpc_server, old, young)
    assert (await failure(get(grpc_stub, owner, old.id))).reason == "NOT_FOUND"
    await get(grpc_stub, owner, young.id)
    more = [stored(org, now - timedelta(days=2)) for _ in range(25)]
    await store(grpc_server, *more)
    await sweep(grpc_server.database, lambda: now, rows=10)
    assert [await is_there(grpc_server, one) for one in (old, young, *more)] == [False, True] + [False] * 25


async def test_the_records_of_one_organization_are_bounded_and_the_newest_stay(grpc_server: App, org: str) -> None:
    now = utc_now()
    noisy = [stored(org, now - timedelta(minutes=minute), bytes(1000)) for minute in range(30)]
    quiet = stored(f"org_{uuid4().hex}", now - timedelta(hours=5), bytes(1000))
    await store(grpc_server, *noisy, quiet)
    await sweep(grpc_server.database, lambda: now, org_records=10_000, rows=7)
    assert [await is_there(grpc_server, one) for one in noisy] == [True] * 10 + [False] * 20
    assert await is_there(grpc_server, quiet)
