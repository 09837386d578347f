"""A fault of ours: the caller gets a number to quote, and the log has its cause under the same number."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.rest_bridge.proxy import cases


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("given", "kept"), [("req-1", True), ("two words", False)])
async def test_it_is_logged_under_the_requests_id(
    start_proxy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    direct: bool,
    given: str,
    kept: bool,
) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("a fault")

    path = f"{'' if direct else '/decide'}/api/tunnel/inst_plain/x/eyJhbGciOiJ"
    async with start_proxy(direct=direct) as running:
        monkeypatch.setattr("rest_bridge.proxy.decider.Decider.decide", breaks)
        headers = dict([cases.bearer(cases.KEY), ("x-request-id", given)])
        async with running.client.request("GET", path, headers=headers) as answer:
            error = await answer.json()
    said = capsys.readouterr().err
    line = next(one for one in map(json.loads, said.splitlines()) if one["event"] == "fault")
    number = error["details"][0]["metadata"]["request_id"]
    assert (answer.status, line["request_id"], number == given) == (500, number, kept)
    assert (line["instance_id"], line["part"], line["proxy_id"]) == ("inst_plain", "proxy", "tested")
    assert "RuntimeError: a fault" in line["exception"]
    assert cases.KEY not in said
    assert "eyJ" not in said
