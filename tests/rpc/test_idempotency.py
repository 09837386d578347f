"""Idempotency-Key over gRPC: what is carried out once, what is answered again, and what is not."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from orch8cloud.v1 import api_keys_pb2, policies_pb2
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub
from sqlalchemy import text

from server.app import App
from server.errors import IdempotencyInProgress, InvalidArgument
from server.services import idempotency
from server.store.idempotency import CallKey, StoredAnswer
from server.workers.housekeeping import sweep
from tests.support.calls import eventually, failure

pytestmark = pytest.mark.asyncio(loop_scope="module")
CREATE = "/orch8cloud.v1.InstancesService/CreateInstance"


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return InstancesServiceStub


@pytest.fixture
def keyed(owner: Any) -> Any:
    """Metadata of the owner, with an Idempotency-Key."""
    return (*owner, ("idempotency-key", "first"))


def create(stub: Any, who: Any, name: str = "production") -> Any:
    return stub.CreateInstance(pb.CreateInstanceRequest(name=name, region="iad"), metadata=who)


async def told(call: Any) -> dict[str, Any]:
    """What an answer says beside its message."""
    return dict(await call.initial_metadata())


async def listed(stub: Any, who: Any) -> list[str]:
    return [one.id for one in (await stub.ListInstances(pb.ListInstancesRequest(), metadata=who)).instances]


async def test_the_same_call_is_answered_again_and_not_carried_out_again(
    grpc_stub: Any, owner: Any, keyed: Any
) -> None:
    first = create(grpc_stub, keyed)
    made = await first
    again = create(grpc_stub, keyed)
    assert (await again).SerializeToString() == made.SerializeToString()
    assert "idempotent-replayed" not in await told(first)
    assert (await told(again))["idempotent-replayed"] == "true"
    assert (await told(again))["etag"] == (await told(first))["etag"]
    assert await listed(grpc_stub, owner) == [made.id]


async def test_the_key_with_another_request_is_409_and_with_another_method_another_key(
    grpc_stub: Any, grpc_channel: Any, keyed: Any
) -> None:
    await create(grpc_stub, keyed)
    failed = await failure(create(grpc_stub, keyed, "other"))
    assert (failed.http, failed.reason, failed.metadata) == (409, "IDEMPOTENCY_MISMATCH", {"idempotency_key": "first"})
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="live")
    assert (await ApiKeysServiceStub(grpc_channel).CreateApiKey(request, metadata=keyed)).key


async def test_the_path_is_part_of_the_request(grpc_stub: Any, keyed: Any) -> None:
    for instance_id in ("inst_one", "inst_two"):
        request = pb.ActOnInstanceRequest(instance_id=instance_id, action="suspend")
        failed = await failure(grpc_stub.ActOnInstance(request, metadata=keyed))
        assert failed.reason == ("NOT_FOUND" if instance_id == "inst_one" else "IDEMPOTENCY_MISMATCH")


async def test_organizations_do_not_share_keys(grpc_stub: Any, keyed: Any, signed_in: Any) -> None:
    stranger = (*signed_in("org_of_a_stranger"), ("idempotency-key", "first"))
    assert (await create(grpc_stub, keyed)).id != (await create(grpc_stub, stranger)).id


async def test_two_at_once_are_one(grpc_stub: Any, owner: Any, keyed: Any) -> None:
    answers = await asyncio.gather(*(create(grpc_stub, keyed) for _ in range(12)))
    assert len({one.SerializeToString() for one in answers}) == 1
    assert await listed(grpc_stub, owner) == [answers[0].id]


async def test_refusals_that_the_state_causes_are_answered_again(grpc_stub: Any, owner: Any, keyed: Any) -> None:
    made = await create(grpc_stub, owner)
    first = await failure(create(grpc_stub, keyed))
    assert (first.reason, first.trailers.get("idempotent-replayed")) == ("NAME_TAKEN", None)
    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=made.id), metadata=owner)
    again = await failure(create(grpc_stub, keyed))
    assert again.trailers.pop("idempotent-replayed") == "true"
    assert (again.message, again.http, again.metadata) == (first.message, first.http, first.metadata)


async def test_what_is_wrong_in_itself_can_be_sent_right_with_the_same_key(grpc_stub: Any, keyed: Any) -> None:
    assert (await failure(create(grpc_stub, keyed, "A"))).http == 400
    assert (await create(grpc_stub, keyed)).id


async def test_refused_credential_uses_no_key_up(grpc_stub: Any, keyed: Any) -> None:
    stranger = (("authorization", "Bearer nonsense"), ("idempotency-key", "first"))
    assert (await failure(create(grpc_stub, stranger))).http == 401
    assert (await create(grpc_stub, keyed)).id


async def test_new_api_key_is_shown_again_and_is_stored_nowhere_in_plain(
    grpc_channel: Any, grpc_server: App, keyed: Any, org: str
) -> None:
    stub: Any = ApiKeysServiceStub(grpc_channel)
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="live")
    made, again = [await stub.CreateApiKey(request, metadata=keyed) for _ in range(2)]
    assert made.key == again.key
    assert len((await stub.ListApiKeys(api_keys_pb2.ListApiKeysRequest(), metadata=keyed)).api_keys) == 1
    async with grpc_server.database.engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT * FROM idempotency_keys")
        stored = [row for row in rows if row.org_id == org]
    assert len(stored) == 1
    assert not any(made.key[11:] in str(value) or made.key[11:].encode() in str(value).encode() for value in stored[0])


async def test_answer_whose_change_is_not_confirmed_is_not_given_before_it_is(
    grpc_stub: Any, grpc_channel: Any, grpc_server: App, owner: Any, keyed: Any
) -> None:
    """The change is stored with its answer, and the answer would say that it is in force."""
    made = await create(grpc_stub, owner)
    session = await grpc_server.propagation.join("deaf", 30_000, 0)
    stub: Any = PoliciesServiceStub(grpc_channel)
    request = policies_pb2.CreatePolicyRequest(instance_id=made.id)
    request.provider.string_value = "api-key"
    try:
        for _ in range(2):
            failed = await failure(stub.CreatePolicy(request, metadata=keyed))
            assert (failed.http, failed.reason) == (503, "CHANGE_UNCONFIRMED")
    finally:
        await grpc_server.propagation.leave(session, goodbye=True)
    call = stub.CreatePolicy(request, metadata=keyed)
    policy = await call
    headers = await told(call)
    assert (headers["idempotent-replayed"], headers["etag"]) == ("true", '"1"')
    assert int(headers["x-orch8-version"]) > 0
    found = await stub.ListPolicies(policies_pb2.ListPoliciesRequest(instance_id=made.id), metadata=owner)
    assert [one.id for one in found.items] == [policy.id]


async def test_suspend_is_carried_out_once(grpc_stub: Any, owner: Any, keyed: Any) -> None:
    """Sent again without the key it would be a conflict."""
    made = await create(grpc_stub, owner)
    await grpc_stub.GetInstance(
        ParseDict({"instance_id": made.id, "wait": "30s"}, pb.GetInstanceRequest()), metadata=owner
    )
    request = pb.ActOnInstanceRequest(instance_id=made.id, action="suspend")
    assert {(await grpc_stub.ActOnInstance(request, metadata=keyed)).status for _ in range(3)} == {"suspended"}
    assert (await failure(grpc_stub.ActOnInstance(request, metadata=owner))).reason == "STATE_CONFLICT"


async def test_explanations_are_answered_again_too(grpc_stub: Any, grpc_channel: Any, owner: Any, keyed: Any) -> None:
    made = await create(grpc_stub, owner)
    stub: Any = PoliciesServiceStub(grpc_channel)
    calls = [
        stub.ExplainPolicies(policies_pb2.ExplainPoliciesRequest(instance_id=made.id), metadata=keyed) for _ in "ab"
    ]
    first, again = [await call for call in calls]
    assert first == again
    assert [(await told(call)).get("idempotent-replayed") for call in calls] in (["true", None], [None, "true"])


async def test_key_of_one_instance_does_not_read_what_others_were_answered(
    grpc_stub: Any, grpc_channel: Any, owner: Any, keyed: Any
) -> None:
    made = await create(grpc_stub, owner)
    keys: Any = ApiKeysServiceStub(grpc_channel)
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="test", instance_id="inst_other")
    assert (await failure(keys.CreateApiKey(request, metadata=owner))).reason == "NOT_FOUND"
    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=made.id), metadata=owner)
    second = await create(grpc_stub, owner, "second")
    explain = policies_pb2.ExplainPoliciesRequest(instance_id=second.id)
    await PoliciesServiceStub(grpc_channel).ExplainPolicies(explain, metadata=keyed)
    request.instance_id = second.id
    key = await keys.CreateApiKey(request, metadata=owner)
    program = (("authorization", f"Bearer {key.key}"), ("idempotency-key", "first"))
    failed = await failure(PoliciesServiceStub(grpc_channel).ExplainPolicies(explain, metadata=program))
    assert failed.reason == "IDEMPOTENCY_MISMATCH"


@pytest.mark.parametrize("key", ["", "x" * 256, "\x7f", "tab\there"])
async def test_what_is_no_key_is_400(key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        idempotency.check_key(key)
    assert [one.field for one in caught.value.violations] == ["idempotency-key"]
    assert idempotency.check_key("x" * 255)


async def claim(app: App, key: CallKey, fingerprint: bytes, owner: str, now: datetime) -> None:
    """What a server wrote that was killed before its call had an answer."""
    lease = now + idempotency.LEASE
    async with app.database.write() as tx:
        await tx.idempotency.claim(
            key, fingerprint=fingerprint, owner=owner, now=now, lease_until=lease, forgotten=now - idempotency.KEEP
        )
        await tx.commit()


async def fingerprint(app: App, key: CallKey) -> bytes:
    async with app.database.engine.connect() as connection:
        query = text("SELECT fingerprint FROM idempotency_keys WHERE org_id = :org AND key = :key")
        return bytes((await connection.execute(query, {"org": key.org_id, "key": key.key})).scalar_one())


async def test_call_whose_server_died_is_carried_out_by_the_next_when_the_lease_is_over(
    grpc_stub: Any, grpc_server: App, owner: Any, keyed: Any, org: str
) -> None:
    made = await create(grpc_stub, keyed)
    dead = CallKey(org_id=org, method=CREATE, key="second")
    same = await fingerprint(grpc_server, CallKey(org_id=org, method=CREATE, key="first"))
    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=made.id), metadata=owner)
    almost = datetime.now(UTC) - idempotency.LEASE + timedelta(seconds=1)
    await claim(grpc_server, dead, same, "a-server-that-died", almost)
    second = await create(grpc_stub, (*owner, ("idempotency-key", "second")))
    assert await listed(grpc_stub, owner) == [second.id]


async def test_call_that_is_still_running_elsewhere_is_409_after_a_while(
    grpc_stub: Any, grpc_server: App, owner: Any, keyed: Any, org: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(grpc_stub, keyed)
    same = await fingerprint(grpc_server, CallKey(org_id=org, method=CREATE, key="first"))
    key = CallKey(org_id=org, method=CREATE, key="second")
    await claim(grpc_server, key, same, "another-server", datetime.now(UTC) + timedelta(hours=1))
    waiting = idempotency.Idempotency(
        database=grpc_server.database,
        propagation=grpc_server.propagation,
        waiters=grpc_server.jobs.waiters,
        clock=lambda: datetime.now(UTC),
        wait=0.1,
    )
    with pytest.raises(IdempotencyInProgress):
        await waiting.begin(key, same)


async def test_caller_who_hangs_up_leaves_the_key_free_and_nothing_twice(
    grpc_stub: Any, owner: Any, keyed: Any
) -> None:
    for delay in (0, 0.001, 0.003, 0.006, 0.01):
        call = create(grpc_stub, keyed)
        await asyncio.sleep(delay)
        call.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call
    made = await create(grpc_stub, keyed)
    assert await listed(grpc_stub, owner) == [made.id]


async def test_late_owner_commits_nothing_where_another_has_taken_over(grpc_server: App, org: str) -> None:
    key, now = CallKey(org_id=org, method=CREATE, key="k"), datetime.now(UTC)
    await claim(grpc_server, key, b"f", "slow", now - timedelta(seconds=60))
    await claim(grpc_server, key, b"f", "next", now)
    service = idempotency.Idempotency(
        database=grpc_server.database,
        propagation=grpc_server.propagation,
        waiters=grpc_server.jobs.waiters,
        clock=lambda: now,
    )
    answer = StoredAnswer(body=b"late")
    with pytest.raises(IdempotencyInProgress):
        await service.finish(idempotency.Claimed(key, "slow"), answer)
    await service.finish(idempotency.Claimed(key, "next"), answer)
    assert await service.begin(key, b"f") == answer


async def test_keys_are_forgotten_after_a_day(
    grpc_stub: Any, grpc_server: App, owner: Any, keyed: Any, org: str
) -> None:
    made = await create(grpc_stub, keyed)
    await grpc_stub.DeleteInstance(pb.DeleteInstanceRequest(instance_id=made.id), metadata=owner)

    async def used() -> int:
        async with grpc_server.database.read() as tx:
            return (await tx.idempotency.usage(org, datetime.now(UTC) - timedelta(days=2)))[0]

    await sweep(grpc_server.database, lambda: datetime.now(UTC) + timedelta(hours=23))
    assert await used() == 1
    await sweep(grpc_server.database, lambda: datetime.now(UTC) + timedelta(hours=25))
    assert await used() == 0
    assert (await create(grpc_stub, keyed)).id != made.id


async def test_an_old_key_is_as_good_as_none_before_it_is_swept(grpc_server: App, org: str) -> None:
    key, now = CallKey(org_id=org, method=CREATE, key="k"), datetime.now(UTC)
    await claim(grpc_server, key, b"old", "old", now - timedelta(hours=25))
    await claim(grpc_server, key, b"new", "new", now)
    async with grpc_server.database.read() as tx:
        assert (await tx.idempotency.usage(org, now - timedelta(hours=24)))[0] == 1


async def test_organization_has_so_many_keys_and_no_more(
    grpc_stub: Any, owner: Any, keyed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MOST_KEYS", 1)
    made = await create(grpc_stub, keyed)
    failed = await failure(create(grpc_stub, (*owner, ("idempotency-key", "second")), "other"))
    assert (failed.http, failed.reason) == (429, "RATE_LIMITED")
    assert failed.metadata == {"scope": "idempotency keys", "limit": "1"}
    assert int(failed.trailers["retry-after"]) > 0
    assert (await create(grpc_stub, keyed)).id == made.id, "those that are kept are answered"


async def test_keys_on_other_methods_are_not_heeded(grpc_stub: Any, owner: Any, keyed: Any) -> None:
    await create(grpc_stub, owner)
    for _ in range(2):
        call = grpc_stub.ListInstances(pb.ListInstancesRequest(), metadata=keyed)
        assert len((await call).instances) == 1
        assert "idempotent-replayed" not in await told(call)


async def test_waiting_ends_when_the_first_answers(grpc_server: App, org: str) -> None:
    """Woken, not found by looking: the look would come after half a second."""
    key, now = CallKey(org_id=org, method=CREATE, key="k"), datetime.now(UTC)
    service = idempotency.Idempotency(
        database=grpc_server.database,
        propagation=grpc_server.propagation,
        waiters=grpc_server.jobs.waiters,
        clock=lambda: now,
    )
    first = await service.begin(key, b"f")
    assert isinstance(first, idempotency.Claimed)
    second = asyncio.create_task(service.begin(key, b"f"))

    async def waits() -> bool:
        return bool(grpc_server.jobs.waiters.names)

    await eventually(waits)
    await service.finish(first, StoredAnswer(body=b"done"))
    assert await second == StoredAnswer(body=b"done")
    assert grpc_server.jobs.waiters.names == []
