import asyncio
import gzip
import json
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.struct_pb2 import NULL_VALUE, Value
from orch8cloud.v1 import api_keys_pb2, instances_pb2, system_pb2

from server.domain.plans import Plans
from server.domain.usage import Period, Usage
from server.rpc.convert import usage
from tests.rest_bridge.envoy.conftest import ORIGIN, Edge
from tests.rest_bridge.envoy.fakes import Context, answering, assert_error, failing, get_raw, send_raw

pytestmark = pytest.mark.asyncio(loop_scope="session")

INSTANCE = instances_pb2.Instance(id="inst_1", name="a", error=Value(null_value=NULL_VALUE))


async def test_a_list_is_bare_and_nulls_are_printed(edge: Edge) -> None:
    answer = instances_pb2.ListInstancesResponse(instances=[INSTANCE, INSTANCE])
    edge.server.answers["ListInstances"] = answering(answer, ("x-orch8-version", "7"))
    got = await edge.http.get("/api/instances")
    assert got.status_code == 200
    assert got.json()[1] == {
        "id": "inst_1",
        "name": "a",
        "region": "",
        "status": "",
        "connection_url": "",
        "error": None,
        "resource_version": "",
    }
    assert got.headers["x-orch8-version"] == "7"
    assert got.headers["x-request-id"]
    assert not {name for name in got.headers if name.startswith(("grpc-", "x-envoy-")) or name == "server"}


async def test_an_empty_list_is_bare_too(edge: Edge) -> None:
    edge.server.answers["ListInstances"] = answering(instances_pb2.ListInstancesResponse())
    assert (await edge.http.get("/api/instances")).content == b"[]"


async def test_a_long_list_is_compressed_and_still_bare(edge: Edge) -> None:
    many = instances_pb2.ListInstancesResponse(instances=[INSTANCE] * 5000)
    edge.server.answers["ListInstances"] = answering(many)
    got = await get_raw(edge.address, "/api/instances", "accept-encoding: gzip")
    assert got.header("content-encoding") == "gzip"
    assert len(json.loads(gzip.decompress(_unchunked(got.body)))) == 5000


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return whole


async def test_created_is_201(edge: Edge) -> None:
    made = instances_pb2.CreateInstanceResponse(id="inst_1", status="provisioning", error=Value(null_value=NULL_VALUE))
    edge.server.answers["CreateInstance"] = answering(made)
    got = await edge.http.post("/api/instances", json={"name": "a", "region": "gru"})
    assert (got.status_code, got.json()) == (201, {"id": "inst_1", "status": "provisioning", "error": None})
    assert edge.server.seen[-1][1].region == "gru"


async def test_deleted_is_204_without_a_body_and_the_connection_lives_on(edge: Edge) -> None:
    edge.server.answers["DeleteInstance"] = answering(instances_pb2.DeleteInstanceResponse())
    request = "DELETE /api/instances/inst_1 HTTP/1.1\r\nhost: edge\r\naccept-encoding: gzip\r\n"
    got = await send_raw(edge.address, f"{request}\r\n{request}connection: close\r\n\r\n".encode())
    assert got.status == 204
    assert not {"content-length", "content-type", "transfer-encoding", "content-encoding"} & {n for n, _ in got.headers}
    assert got.body.startswith(b"HTTP/1.1 204")
    assert got.body.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_additional_bindings_reach_the_same_method(edge: Edge, method: str) -> None:
    edge.server.answers["ActOnInstance"] = answering(instances_pb2.ActOnInstanceResponse(status="suspended"))
    got = await edge.http.request(method, "/api/instances/inst_1", json={"action": "suspend"})
    assert (got.status_code, got.json()) == (200, {"status": "suspended"})
    assert edge.server.seen[-1][1] == instances_pb2.ActOnInstanceRequest(instance_id="inst_1", action="suspend")


async def test_readiness_is_the_servers_and_health_is_our_own(edge: Edge) -> None:
    edge.server.answers["GetReadiness"] = answering(system_pb2.GetReadinessResponse(status="ready", proxies=1))
    assert (await edge.http.get("/readyz")).json() == {"status": "ready", "proxies": 1}
    health = await edge.http.get("/healthz")
    assert (health.status_code, health.content) == (200, b'{"status":"ok"}')
    assert health.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("PLAN_LIMIT_REACHED", 402),
        ("POLICY_INVALID", 422),
        ("ENGINE_ERROR", 502),
        ("STATE_CONFLICT", 409),
        ("NOT_FOUND", 404),
    ],
)
async def test_an_error_has_the_tables_status(edge: Edge, reason: str, status: int) -> None:
    edge.server.answers["GetInstance"] = failing(reason, "What to change.", ("x-http-status", str(status)))
    got = await edge.http.get("/api/instances/inst_1")
    assert_error(got, status, reason)
    assert got.json()["details"][0]["metadata"] == {"why": "test"}
    assert not {name for name in got.headers if name.startswith("grpc-") or name == "x-http-status"}


async def test_errors_bring_their_headers(edge: Edge) -> None:
    challenge = 'Bearer realm="orch8-cloud"'
    trailing = (("x-http-status", "401"), ("www-authenticate", challenge), ("retry-after", "3"))
    edge.server.answers["ListApiKeys"] = failing("UNAUTHENTICATED", "Sign in.", *trailing)
    got = await edge.http.get("/api/api-keys")
    assert_error(got, 401, "UNAUTHENTICATED")
    assert (got.headers["www-authenticate"], got.headers["retry-after"]) == (challenge, "3")


async def test_the_server_learns_the_host_and_only_from_us(edge: Edge) -> None:
    edge.server.answers["ListApiKeys"] = answering(api_keys_pb2.ListApiKeysResponse())
    spoofs = {"x-orch8-host": "evil", "x-forwarded-host": "evil", "x-orch8-role": "owner", "x-gateway-subject": "evil"}
    kept = {"idempotency-key": "k", "x-request-id": "mine", "cookie": "sb-x=1", "authorization": "Bearer t"}
    got = await edge.http.get("/api/api-keys", headers={**spoofs, **kept, "host": "cloud.test"})
    assert got.headers["x-request-id"] == "mine"
    metadata = edge.server.seen[-1][2]
    assert metadata["x-orch8-host"] == "cloud.test"
    assert {name: metadata[name] for name in kept} == kept
    assert not set(spoofs) - {"x-orch8-host"} & set(metadata)
    assert metadata["x-forwarded-for"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/api/nope", "", 404, "NOT_FOUND"),
        ("GET", "/", "", 404, "NOT_FOUND"),
        ("GET", "/api/instances/", "", 404, "NOT_FOUND"),
        ("PUT", "/api/instances", "", 404, "NOT_FOUND"),
        ("POST", "/healthz", "", 404, "NOT_FOUND"),
        ("POST", "/api/instances", '{"name"', 400, "INVALID_ARGUMENT"),
        ("POST", "/api/instances", "[]", 400, "INVALID_ARGUMENT"),
        ("POST", "/api/instances", '{"name": ["a"]}', 400, "INVALID_ARGUMENT"),
        ("POST", "/api/instances", '{"name": 7}', 400, "INVALID_ARGUMENT"),
        ("GET", "/api/instances?nope=1", "", 400, "INVALID_ARGUMENT"),
        ("POST", "/api/instances", '{"name": "%s"}' % ("x" * 1_050_000), 413, "PAYLOAD_TOO_LARGE"),
        ("GET", "/orch8cloud.v1.InstancesService/ListInstances", "", 404, "NOT_FOUND"),
    ],
)
async def test_envoys_own_answers(edge: Edge, method: str, path: str, body: str, status: int, reason: str) -> None:
    got = await edge.http.request(method, path, content=body)
    assert_error(got, status, reason)
    assert got.headers["x-request-id"]
    assert not edge.server.seen


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/api/instances", b'{"name"', "body"),
        ("POST", "/api/instances", b'{"name":\xff', "body"),
        ("POST", "/api/instances", b'{"name": [1]}', "body"),
        ("GET", "/api/instances?nope=1", b"", "query"),
        ("POST", "/api/instances?nope=1", b"{}", "query"),
    ],
)
async def test_what_cannot_be_read_is_explained_apart(
    edge: Edge, method: str, path: str, body: bytes, field: str
) -> None:
    got = await edge.http.request(method, path, content=body)
    assert_error(got, 400, "INVALID_ARGUMENT")
    said = got.json()
    assert said["message"].endswith(" takes. Look at the details, and send it again.")
    (violation,) = said["details"][1]["field_violations"]
    assert said["details"][1]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert (violation["field"], violation["reason"]) == (field, "")
    assert violation["description"]


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/api/instances/a%20b", "/api/instances/a%20b"),
        ("/api/x/../instances/inst_1", "/api/instances/inst_1"),
        ("/api/instances/%69nst_1", "/api/instances/inst_1"),
        ("/api/instances/%C3%A9", "/api/instances/%C3%A9"),
    ],
)
async def test_the_server_learns_the_path_and_only_from_us(edge: Edge, asked: str, seen: str) -> None:
    edge.server.answers["GetInstance"] = answering(instances_pb2.Instance())
    await get_raw(edge.address, asked, "x-orch8-path: evil", "x_orch8_path: evil")
    metadata = edge.server.seen[-1][2]
    assert metadata["x-orch8-path"] == seen
    assert "x_orch8_path" not in metadata


async def test_call_that_meets_a_server_which_stops_is_told_so(edge: Edge) -> None:
    """grpc.aio answers it with a bare CANCELLED, for which the error table has no row."""

    async def stopping(_request: object, context: Context) -> None:
        await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")

    edge.server.answers["CreateInstance"] = stopping
    got = await edge.http.post("/api/instances", json={"name": "x"})
    assert_error(got, 503, "UNAVAILABLE")
    assert got.headers["retry-after"] == "2"


async def test_readiness_is_told_soon(edge: Edge) -> None:
    async def never(_request: object, _context: object) -> None:
        await asyncio.sleep(30)  # longer than anybody waits

    edge.server.answers["GetReadiness"] = never
    got = await edge.http.get("/readyz")
    assert_error(got, 503, "UNAVAILABLE")
    assert got.headers["retry-after"] == "2"
    assert "not ready in time" in got.json()["message"]


async def test_a_body_just_below_the_limit_passes(edge: Edge) -> None:
    edge.server.answers["CreateInstance"] = answering(instances_pb2.CreateInstanceResponse())
    got = await edge.http.post("/api/instances", json={"name": "x" * 1_048_000})
    assert got.status_code == 201


async def test_a_message_about_a_path_cannot_break_the_json(edge: Edge) -> None:
    got = await get_raw(edge.address, '/api/"},{\\u0000%22')
    assert_error(got, 404, "NOT_FOUND")
    assert "query" not in (await edge.http.get("/api/nope?secret=query")).text


async def test_a_known_path_says_which_methods_there_are(edge: Edge) -> None:
    assert (await edge.http.put("/api/instances/inst_1")).headers["allow"] == "DELETE, GET, PATCH, POST"


@pytest.mark.parametrize(
    "headers",
    [[f"x-big: {'x' * 70_000}"], [f"x-{number}: 1" for number in range(200)]],
    ids=["large", "many"],
)
async def test_too_much_header_is_431(edge: Edge, headers: list[str]) -> None:
    assert_error(await get_raw(edge.address, "/api/instances", *headers), 431, "INVALID_ARGUMENT")


async def test_management_takes_no_upgrade(edge: Edge) -> None:
    got = await get_raw(edge.address, "/api/instances", "upgrade: websocket", "connection: upgrade")
    assert_error(got, 400, "INVALID_ARGUMENT")


async def test_pages_of_allowed_sites_may_call(edge: Edge) -> None:
    asking = {"origin": ORIGIN, "access-control-request-method": "POST"}
    for path in ("/api/instances", "/api/tunnel/inst_1/x", "/orch8cloud.v1.InstancesService/ListInstances"):
        got = await edge.http.options(path, headers=asking)
        assert got.headers["access-control-allow-origin"] == ORIGIN
    edge.server.answers["ListInstances"] = answering(instances_pb2.ListInstancesResponse())
    got = await edge.http.get("/api/instances", headers={"origin": ORIGIN})
    assert {"x-request-id", "etag", "idempotent-replayed"} <= set(
        got.headers["access-control-expose-headers"].split(", ")
    )
    stranger = await edge.http.get("/api/instances", headers={"origin": "https://evil.test"})
    assert "access-control-allow-origin" not in stranger.headers
    refused = await edge.http.options("/api/instances", headers={**asking, "origin": "https://evil.test"})
    assert_error(refused, 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("executions", "quota", "numbers"),
    [
        (45_200, 100_000, '"executions":45200,"quota":100000,"pct":45.2'),
        (3_000_000_000, 1_000_000, '"executions":3000000000,"quota":1000000,"pct":300000'),
        (0, None, '"executions":0,"quota":null,"pct":null'),
    ],
)
async def test_usage_is_as_the_product_describes_it(
    edge: Edge, executions: int, quota: int | None, numbers: str
) -> None:
    limit = "" if quota is None else f"executions_per_month = {quota}"
    period = Period(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
    found = usage(Usage(period=period, executions=executions), Plans.parse(f"[free]\n{limit}")["free"])
    edge.server.answers["GetCurrentUsage"] = answering(found)
    got = await edge.http.get("/api/usage/current")
    times = '"period_start":"2024-01-01T00:00:00Z","period_end":"2024-01-31T23:59:59Z"'
    assert got.text == f"{{{times},{numbers}}}"
