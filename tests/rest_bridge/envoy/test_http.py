import asyncio

import pytest

from tests.rest_bridge import heads
from tests.rest_bridge.envoy.conftest import Edge
from tests.rest_bridge.envoy.fakes import assert_error, get_raw, send_raw

pytestmark = pytest.mark.asyncio(loop_scope="session")

POST = "POST /api/instances HTTP/1.1\r\nhost: e\r\n"


@pytest.mark.parametrize(
    ("request_text", "field"),
    [
        ("GET /api/instances HTTP/1.1\r\nconnection: close\r\n\r\n", "host"),
        ("GET /api/instances HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n", "host"),
        ("FROB /api/instances HTTP/1.1\r\nhost: e\r\n\r\n", "request"),
        (f"{POST}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "request"),
        (f"{POST}content-length: abc\r\n\r\n", "request"),
        (f"{POST}transfer-encoding: chunked\r\n\r\nzz\r\n\r\n", "request"),
        (f"{POST}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer-encoding"),
        ("CONNECT evil.test:443 HTTP/1.1\r\nhost: evil.test:443\r\n\r\n", "method"),
    ],
)
async def test_what_is_no_good_http_is_told_why(edge: Edge, request_text: str, field: str) -> None:
    async with asyncio.timeout(5):
        got = await send_raw(edge.address, request_text.encode())
    assert_error(got, 400, "INVALID_ARGUMENT")
    said = got.json()
    assert said["details"][0]["metadata"]["field"] == field
    assert said["message"].endswith(".")
    assert " - " not in said["message"]
    assert edge.server.seen == []


@pytest.mark.parametrize("host", ["host: e\r\n", ""], ids=["host", "none"])
async def test_http_1_0_is_served(edge: Edge, host: str) -> None:
    got = await send_raw(edge.address, f"GET /healthz HTTP/1.0\r\n{host}\r\n".encode())
    assert (got.status, got.body) == (200, b'{"status":"ok"}')


async def test_health_can_be_asked_without_a_body(edge: Edge) -> None:
    got = await get_raw(edge.address, "/healthz", method="HEAD")
    assert (got.status, got.body) == (200, b"")


async def test_heads_are_bounded_in_number_and_size(edge: Edge) -> None:
    for name, request, status in heads.table("/healthz"):
        got = await send_raw(edge.address, request)
        assert (name, got.status) == (name, status)
        if status == 431:
            assert_error(got, 431, "INVALID_ARGUMENT")
            assert got.json()["details"][0]["metadata"] == {"field": "headers"}
