"""What the proxy behind Envoy answers to requests that Envoy can read and its own parser cannot."""

from collections.abc import Callable
from typing import Any

from tests.rest_bridge.data_path.wire import request, send


async def test_an_unknown_method_is_refused_in_the_contracts_shape(start_proxy: Callable[..., Any]) -> None:
    async with start_proxy(direct=False) as running:
        port = int(running.client.origin.rpartition(":")[2])
        answer = await send(port, request("/decide/api/tunnel/inst_plain/x", method="FROB"))
        assert (answer.status, answer.reason) == (400, "INVALID_ARGUMENT")
