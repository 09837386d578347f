"""What a caller is told whose run cannot be started, and what is recorded of it."""

import asyncio
from datetime import UTC, datetime

import pytest
from orch8cloud.v1 import decisions_pb2 as pb

from tests.rest_bridge.data_path.cases.quota import GATEWAY, TUNNEL
from tests.rest_bridge.data_path.conftest import World
from tests.rest_bridge.data_path.wire import request, send
from tests.rest_bridge.proxy.cases import FUTURE, KEY, PREFIX, bearer

pytestmark = pytest.mark.asyncio(loop_scope="session")
DAY = 24 * 3600


@pytest.mark.parametrize("target", [f"{TUNNEL}/instances", f"{GATEWAY}/signed"])
async def test_the_answer_says_until_when_and_the_record_why(world: World, path: str, target: str) -> None:
    answer = await send(world.ports[path], request(target, [bearer(KEY)], b"{}", method="POST"))
    assert (answer.status, answer.reason) == (429, "QUOTA_EXCEEDED")
    left = (datetime.fromisoformat(FUTURE) - datetime.now(UTC)).total_seconds()
    wait = int(answer.header("retry-after") or "0")
    assert left <= wait <= left + DAY
    body = answer.error()
    info, retry = body["details"]
    assert info["metadata"] == {"plan": "free", "limit": "1000", "period_end": FUTURE}
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": f"{wait}s"}
    assert FUTURE in body["message"]
    assert "ratelimit-limit" not in answer.names(), "nothing was charged"
    decision_id = answer.header("x-orch8-decision-id")
    async with asyncio.timeout(20):
        await world.service.until(lambda: any(one.id == decision_id for one in _recorded(world)))
    (record,) = [one for one in _recorded(world) if one.id == decision_id]
    # The policies let the caller in: that is what explain says too. The quota is what kept the request out.
    assert (record.status, record.reason.string_value) == (429, "QUOTA_EXCEEDED")
    assert [policy.accepted for policy in record.policies if policy.applicable] == [True]
    assert record.subject.string_value == PREFIX


def _recorded(world: World) -> list[pb.Decision]:
    return [one for report in world.service.decisions for one in report.decisions]
