"""The table of cases, through the proxy that carries the bytes itself and through the questions that Envoy asks."""

import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rest_bridge.proxy.signing import signature
from tests.rest_bridge.proxy import cases
from tests.rest_bridge.proxy.cases import CASES, Case
from tests.rest_bridge.proxy.conftest import Running
from tests.rest_bridge.proxy.fake_engine import FakeEngine, Seen

NAMES = [case.name for case in CASES]


def test_the_names_of_the_cases_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.fixture
async def direct(start_proxy: Callable[..., Any]) -> AsyncIterator[Running]:
    async with start_proxy(direct=True) as running:
        yield running


@pytest.fixture
async def deciding(start_proxy: Callable[..., Any]) -> AsyncIterator[Running]:
    async with start_proxy(direct=False) as running:
        yield running


async def test_direct(direct: Running, engine: FakeEngine) -> None:
    for case in CASES:
        engine.seen.clear()
        async with _send(direct, case, prefix="") as answer:
            body = await answer.read()
            await _check_answer(case, answer)
            if case.reason is None:
                assert (case.name, body) == (case.name, b"from the engine")
                _check_engine(case, engine.seen)
            else:
                assert (case.name, engine.seen) == (case.name, [])


async def test_decide(deciding: Running) -> None:
    for case in CASES:
        if case.needs_edge:
            continue
        async with _send(deciding, case, prefix="/decide") as answer:
            await _check_answer(case, answer)
            if case.reason is None:
                _check_instructions(case, answer.headers)


def _send(running: Running, case: Case, *, prefix: str) -> Any:
    return running.client.request(
        case.method, prefix + case.path, headers=case.headers, data=io.BytesIO(case.body) if case.body else None
    )


async def _check_answer(case: Case, answer: Any) -> None:
    assert (case.name, answer.status) == (case.name, case.status)
    assert answer.headers["x-orch8-decision-id"].startswith("dec_"), case.name
    if case.reason is None:
        return
    error = await answer.json()
    assert (case.name, error["details"][0]["reason"]) == (case.name, case.reason)
    assert ("www-authenticate" in answer.headers) == (case.status == 401), case.name
    assert ("retry-after" in answer.headers) == (case.status == 503), case.name
    if case.challenge is not None:
        assert answer.headers["www-authenticate"] == case.challenge, case.name
    for _, value in case.headers:
        assert value.split()[-1] not in error["message"] or len(value) < 8, case.name


def _check_engine(case: Case, seen: list[Seen]) -> None:
    assert (case.name, len(seen)) == (case.name, 1)
    request = seen[0]
    assert (case.name, request.method, request.body) == (case.name, case.method, case.body)
    assert len(set(request.header_names)) == len(request.header_names), case.name
    if case.engine_path is not None:
        assert (case.name, request.path) == (case.name, case.engine_path)
    for name, value in case.sees.items():
        assert (case.name, name, request.headers.get(name)) == (case.name, name, value)
    for name in (*case.lacks, "authorization"):
        assert (case.name, name in request.headers) == (case.name, False), name
    assert request.headers["x-request-id"]
    assert request.headers["traceparent"]
    if case.signed:
        _check_signature(case, request.headers)


def _check_instructions(case: Case, headers: Any) -> None:
    assert headers["x-orch8-upstream"].startswith("127.0.0.1:")
    assert headers["x-orch8-cluster"] == "engine_http"
    removed = headers["x-envoy-auth-headers-to-remove"].split(",")
    assert "authorization" in removed
    sent = {name.lower() for name, _ in case.headers}
    for name, value in case.sees.items():
        # What the caller sent and the decision does not mention reaches the engine as it was.
        kept = dict(case.headers).get(name) if name in sent and name not in removed else None
        assert (case.name, name, headers.get(name, kept)) == (case.name, name, value)
    if "cookie" in case.lacks:
        assert "cookie" in removed
    assert ("x-orch8-signature" in removed) == case.path.startswith("/api/tunnel"), case.name
    if case.signed:
        _check_signature(case, headers)


def _check_signature(case: Case, headers: Any) -> None:
    timestamp, nonce = headers["x-trigger-timestamp"], headers["x-trigger-nonce"]
    assert len(nonce) == 32
    expected = signature(cases.SECRET, timestamp=timestamp, nonce=nonce, body=case.body)
    assert headers["x-orch8-signature"] == expected
