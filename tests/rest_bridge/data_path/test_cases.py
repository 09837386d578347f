"""The table, through both data paths."""

from collections import Counter
from itertools import chain

import pytest

from rest_bridge.proxy.signing import signature
from tests.rest_bridge.data_path.cases import answers, credentials, framing, gateway, headers, quota, rules, targets
from tests.rest_bridge.data_path.cases.case import Case
from tests.rest_bridge.data_path.conftest import BUSY, World
from tests.rest_bridge.data_path.wire import Answer, send
from tests.rest_bridge.proxy.cases import SECRET
from tests.rest_bridge.proxy.fake_engine import Seen

pytestmark = pytest.mark.asyncio(loop_scope="session")

TABLES = (credentials, rules, targets, headers, gateway, quota, framing, answers)
CASES = list(chain.from_iterable(table.CASES for table in TABLES))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:80])
async def test_case(world: World, path: str, case: Case) -> None:
    _check(world, path, case, await send(world.ports[path], case.request))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:80])
async def test_a_busy_edge_gives_the_same_answer_again_and_again(world: World, case: Case) -> None:
    for _ in range(4):
        world.clear()
        _check(world, "envoy", case, await send(world.ports[BUSY], case.request))


def _check(world: World, path: str, case: Case, answer: Answer) -> None:
    status, reason, engine_path = case.status, case.reason, case.engine_path
    if case.instead is not None and case.instead[0] == path:
        assert case.because
        _, status, reason, engine_path = case.instead
    assert answer.status == status, answer.body
    if reason is None:
        _check_passed(case, world, answer, engine_path)
    else:
        _check_refused(case, world, answer, reason)
    for name, value in case.answers.items():
        assert answer.all(name) == [value], name
    assert not answer.names() & set(case.hides)


async def test_names_are_unique() -> None:
    names = Counter(case.name for case in CASES)
    assert [name for name, count in names.items() if count > 1] == []


def _check_refused(case: Case, world: World, answer: Answer, reason: str) -> None:
    assert world.engine.seen == []
    assert bool(world.raw_engine.heads) == case.reached
    assert ("www-authenticate" in answer.names()) == (answer.status == 401)
    assert ("retry-after" in answer.names()) == (answer.status in (429, 503))
    if case.challenge is not None:
        assert answer.header("www-authenticate") == case.challenge
    if not case.undecided and answer.status not in (400, 404, 413):
        assert (answer.header("x-orch8-decision-id") or "").startswith("dec_")
        assert answer.header("x-request-id")
    if case.method == "HEAD":
        assert answer.body == b""
        return
    assert answer.reason == reason
    credentials = [word for name, value in case.headers if name.lower() == "authorization" for word in value.split()]
    assert not [word for word in credentials if len(word) > 20 and word in answer.body.decode()]


def _check_passed(case: Case, world: World, answer: Answer, engine_path: str | None) -> None:
    assert answer.header("x-engine") == "yes", answer.body
    assert (answer.header("x-orch8-decision-id") or "").startswith("dec_")
    assert len(world.engine.seen) + len(world.raw_engine.heads) == 1
    for seen in world.engine.seen:
        _check_seen(case, seen, answer, engine_path)


def _check_seen(case: Case, seen: Seen, answer: Answer, engine_path: str | None) -> None:
    ours = ("x-gateway-provider", "x-gateway-subject", "x-api-key", "traceparent", "x-request-id", "host", "cookie")
    assert {name: seen.header_names.count(name) for name in ours if seen.header_names.count(name) > 1} == {}
    assert seen.headers["x-request-id"] == answer.header("x-request-id")
    assert seen.headers["traceparent"]
    assert seen.headers["host"].startswith("127.0.0.1:")
    if engine_path is not None:
        assert seen.path == engine_path
    if case.engine_body is not None:
        assert seen.body == case.engine_body
    assert {name: seen.headers.get(name) for name in case.sees} == dict(case.sees)
    assert not seen.headers.keys() & {"authorization", *case.lacks}
    assert not _forged(seen) - {"x-gateway-provider", "x-gateway-subject", "x-orch8-signature"}
    if case.signed:
        _check_signature(case, seen)


def _forged(seen: Seen) -> set[str]:
    """Headers that only we may write, in any spelling."""
    prefixes = ("x-gateway-", "x-orch8-", "x-envoy-", "fly-")
    return {name for name in seen.headers if name.replace("_", "-").startswith(prefixes)}


def _check_signature(case: Case, seen: Seen) -> None:
    timestamp, nonce = seen.headers["x-trigger-timestamp"], seen.headers["x-trigger-nonce"]
    assert len(nonce) == 32
    assert {seen.header_names.count(name) for name in ("x-trigger-nonce", "x-orch8-signature")} == {1}
    assert seen.headers["x-orch8-signature"] == signature(SECRET, timestamp=timestamp, nonce=nonce, body=seen.body)
