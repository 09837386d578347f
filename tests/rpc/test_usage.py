"""Usage as its organization sees it, and what the proxies are told once it is used up."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import api_keys_pb2, policies_pb2
from orch8cloud.v1.api_keys_pb2_grpc import ApiKeysServiceStub
from orch8cloud.v1.policies_pb2_grpc import PoliciesServiceStub
from orch8cloud.v1.usage_pb2 import GetCurrentUsageRequest
from orch8cloud.v1.usage_pb2_grpc import UsageServiceStub

from server.app import App, running
from server.domain.usage import Period, calendar_month
from server.store.tables import OrganizationRow
from tests.rpc.test_dataplane import OWNER, TOKEN, Proxy, new_instance
from tests.support import sessions
from tests.support.calls import failure
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings

ORG = "org_one"
PLANS = """
[free]
executions_per_month = 3
executions_hard_cap = true
[unlimited]
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS)
    async with running(settings(tmp_path, plans_file=plans), MemoryRuntime()) as app:
        yield app


@pytest.fixture
async def channel(app: App) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(str(app.address)) as channel:
        yield channel


async def usage(channel: grpc.aio.Channel, metadata: Any = OWNER) -> Any:
    stub: Any = UsageServiceStub(channel)
    return await stub.GetCurrentUsage(GetCurrentUsageRequest(), metadata=metadata)


async def ran(app: App, starts: Sequence[datetime]) -> None:
    """What the ingest of run events does with runs that are new."""
    async with app.database.write() as tx:
        await tx.usage.add_starts(ORG, starts)
        await tx.commit()


async def subscribe(app: App, plan: str, period: Period | None = None) -> None:
    """What billing does: the plan, its period, and a word to the proxies."""
    async with app.database.write() as tx:
        row = await tx._session.get_one(OrganizationRow, ORG)
        row.plan = plan
        if period is not None:
            row.period_start, row.period_end = period.start, period.end
        await tx.usage.caps_changed(ORG, datetime.now(UTC))
        await tx.commit()


async def key_of(channel: grpc.aio.Channel, instance_id: str | None = None) -> Any:
    stub: Any = ApiKeysServiceStub(channel)
    request = api_keys_pb2.CreateApiKeyRequest(name="ci", environment="live", instance_id=instance_id)
    key = (await stub.CreateApiKey(request, metadata=OWNER)).key
    return (("authorization", f"Bearer {key}"),)


async def route(channel: grpc.aio.Channel, instance_id: str) -> pb.Route:
    stub: Any = DataPlaneServiceStub(channel)
    found: pb.Route = await stub.GetRoute(pb.GetRouteRequest(instance_id=instance_id), metadata=TOKEN)
    return found


async def test_usage_is_that_of_the_calendar_month(app: App, channel: grpc.aio.Channel) -> None:
    found = await usage(channel)
    month = calendar_month(datetime.now(UTC))
    assert (found.executions, found.quota.number_value, found.pct.number_value) == (0, 3, 0)
    assert found.period_start.ToDatetime(tzinfo=UTC) == month.start
    assert found.period_end.ToDatetime(tzinfo=UTC) == month.end - timedelta(seconds=1)
    await ran(app, [datetime.now(UTC)])
    found = await usage(channel)
    assert (found.executions, found.pct.number_value) == (1, 33.3)


async def test_usage_is_that_of_the_subscriptions_period(app: App, channel: grpc.aio.Channel) -> None:
    await usage(channel)
    now = datetime.now(UTC).replace(microsecond=0)
    period = Period(now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(app, "free", period)
    await ran(app, [now, period.start - timedelta(seconds=1)])
    found = await usage(channel)
    assert found.executions == 1
    assert found.period_start.ToDatetime(tzinfo=UTC) == period.start
    assert found.period_end.ToDatetime(tzinfo=UTC) == period.end - timedelta(seconds=1)


async def test_without_a_limit_quota_and_share_are_null(app: App, channel: grpc.aio.Channel) -> None:
    await usage(channel)
    await subscribe(app, "unlimited")
    await ran(app, [datetime.now(UTC)] * 5)
    found = await usage(channel)
    assert found.executions == 5
    assert found.quota.HasField("null_value")
    assert found.pct.HasField("null_value")


async def test_every_organization_has_its_own(app: App, channel: grpc.aio.Channel) -> None:
    await usage(channel)
    await ran(app, [datetime.now(UTC)])
    other = (("authorization", f"Bearer {sessions.token(org_id='org_other', role='member')}"),)
    assert (await usage(channel, other)).executions == 0


async def test_who_may_ask(channel: grpc.aio.Channel) -> None:
    assert (await usage(channel, await key_of(channel))).quota.number_value == 3
    scoped = await key_of(channel, await new_instance(channel))
    assert (await failure(usage(channel, scoped))).reason == "PERMISSION_DENIED"
    assert (await failure(usage(channel, ()))).reason == "UNAUTHENTICATED"
    assert (await failure(usage(channel, (("authorization", "Bearer orc8_live_nothing"),)))).reason == "UNAUTHENTICATED"


async def test_proxies_are_told_when_no_more_runs_may_be_started_and_when_they_may(
    app: App, channel: grpc.aio.Channel
) -> None:
    instance_id = await new_instance(channel)
    now = datetime.now(UTC)
    proxy = Proxy(channel)
    await proxy.hello()
    await ran(app, [now] * 2)
    assert not (await route(channel, instance_id)).HasField("start_cap")
    # The last one that is included. Nobody but the server's own rounds tells the proxies.
    await ran(app, [now])
    while not (told := await proxy.read()).HasField("change"):
        pass
    assert told.change.instance_id == instance_id
    cap = (await route(channel, instance_id)).start_cap
    assert (cap.plan, cap.quota) == ("free", 3)
    assert cap.until.ToDatetime(tzinfo=UTC) == calendar_month(now).end

    await subscribe(app, "unlimited")
    while not (told := await proxy.read()).HasField("change"):
        pass
    assert told.change.instance_id == instance_id
    assert not (await route(channel, instance_id)).HasField("start_cap")


async def test_a_new_instance_of_an_organization_that_is_used_up_is_capped_too(
    app: App, channel: grpc.aio.Channel
) -> None:
    await usage(channel)
    await ran(app, [datetime.now(UTC)] * 5)
    assert (await route(channel, await new_instance(channel))).HasField("start_cap")


async def test_explain_is_about_policies_and_says_the_same_when_all_is_used_up(
    app: App, channel: grpc.aio.Channel
) -> None:
    stub: Any = PoliciesServiceStub(channel)
    token = dict(await key_of(channel))["authorization"].removeprefix("Bearer ")
    request = policies_pb2.ExplainPoliciesRequest(instance_id=await new_instance(channel), token=token)
    before = await stub.ExplainPolicies(request, metadata=OWNER)
    await ran(app, [datetime.now(UTC)] * 5)
    after = await stub.ExplainPolicies(request, metadata=OWNER)
    assert before.allowed
    assert after == before


async def test_late_runs_of_an_earlier_period_cap_nothing(app: App, channel: grpc.aio.Channel) -> None:
    instance_id = await new_instance(channel)
    before = calendar_month(datetime.now(UTC)).start - timedelta(minutes=1)
    await ran(app, [before] * 5)
    assert not (await route(channel, instance_id)).HasField("start_cap")
    assert (await usage(channel)).executions == 0
