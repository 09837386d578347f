import httpx
import pytest

from tests.rest_bridge.envoy.conftest import Edge
from tests.rest_bridge.envoy.fakes import Raw, assert_error, get_raw, send_raw

pytestmark = pytest.mark.asyncio(loop_scope="session")

ELSEWHERE = [
    ("GET", "/api/instances"),
    ("POST", "/api/instances"),
    ("DELETE", "/api/instances/inst_1"),
    ("PUT", "/api/instances"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/api/nope"),
    ("POST", "/api/a%2fb"),
    ("POST", "/api/tunnel/inst_1/x"),
    ("POST", "/api/gateway/inst_1/slug"),
    ("GET", "/orch8cloud.v1.InstancesService/ListInstances"),
]


def assert_refused(edge: Edge, got: httpx.Response | Raw) -> None:
    assert_error(got, 400, "INVALID_ARGUMENT")
    assert got.json()["details"][0]["metadata"] == {"field": "content-type"}
    names = dict(got.headers)
    assert not {name for name in names if name.startswith(("grpc-", "x-orch8-"))}
    assert (edge.server.seen, edge.decisions.asked, edge.engine.saw) == ([], [], [])


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;v=1"])
@pytest.mark.parametrize(("method", "path"), ELSEWHERE)
async def test_grpc_elsewhere_is_a_true_400(edge: Edge, method: str, path: str, kind: str) -> None:
    got = await edge.http.request(method, path, headers={"content-type": kind})
    if "%2f" in path and ";" in kind:
        # Envoy refuses this path before all else, and takes this content type for no gRPC.
        assert_error(got, 400, "INVALID_ARGUMENT")
        return
    assert_refused(edge, got)


async def test_grpc_with_a_body_is_refused_too(edge: Edge) -> None:
    head = "POST /api/instances HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-type: application/grpc\r\n"
    assert_refused(edge, await send_raw(edge.address, f"{head}content-length: 5\r\n\r\n\0\0\0\0\0".encode()))


async def test_an_upgrade_with_grpc_is_refused_too(edge: Edge) -> None:
    upgrade = ("upgrade: websocket", "connection: upgrade", "content-type: application/grpc")
    assert_refused(edge, await get_raw(edge.address, "/api/instances", *upgrade))


@pytest.mark.parametrize("path", ["/healthz", "/api/instances", "/api/tunnel/inst_1/x"])
async def test_an_answer_to_head_has_no_body(edge: Edge, path: str) -> None:
    got = await get_raw(edge.address, path, "content-type: application/grpc", method="HEAD")
    assert (got.status, got.body) == (400, b"")
    assert not edge.engine.saw


@pytest.mark.parametrize("kind", ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"])
async def test_grpc_web_on_an_unknown_path_is_a_json_404(edge: Edge, kind: str) -> None:
    assert_error(await edge.http.post("/api/nope", headers={"content-type": kind}), 404, "NOT_FOUND")


async def test_an_engine_may_answer_grpc(edge: Edge) -> None:
    """What an engine says stays its own; only the request decides."""
    got = await edge.http.post("/api/tunnel/inst_1/grpc", content=b"{}")
    assert (got.status_code, got.headers["content-type"], got.headers["grpc-status"]) == (200, "application/grpc", "5")
