import pytest

from tests.rest_bridge.envoy.conftest import Edge
from tests.rest_bridge.envoy.fakes import assert_error, get_raw
from tests.rest_bridge.envoy.forgeries import FORGED, FORGED_ANSWER

DECIDED = {"x-orch8-decision-id": "dec_1"}
pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSING = {
    "x-tenant-id": "acme",
    "x_other_header": "passes",
    "flying_x": "passes",
    "x-request-id": "mine",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=b",
    "accept": "text/html",
    "user-agent": "test",
    "if-none-match": '"1"',
}


async def test_the_engine_sees_the_request_and_what_the_decision_adds(edge: Edge) -> None:
    secrets = {"authorization": "Bearer t", "cookie": "a=b", "x-orch8-signature": "caller"}
    got = await edge.http.post(
        "/api/tunnel/inst_1/a/b?c=d&e", content=b"body", headers={**FORGED, **PASSING, **secrets}
    )
    assert got.status_code == 200
    (saw,) = edge.engine.saw
    assert (saw.method, saw.path, saw.query, saw.body) == ("POST", "/a/b", "c=d&e", b"body")
    assert saw.header("host") == edge.decisions.upstream
    assert saw.header("x-gateway-provider") == "api-key"
    assert saw.header("x-gateway-subject") == "orc8_live_12345678"
    assert saw.header("x-api-key") == "engine-key"
    assert {name: saw.header(name) for name in PASSING} == PASSING
    ours = {"x-gateway-provider", "x-gateway-subject", "x-api-key"}
    known = {"host", "content-length", "accept-encoding", "x-forwarded-for", "x-forwarded-proto", *PASSING, *ours}
    assert saw.names() <= known


async def test_a_header_named_in_connection_ends_here(edge: Edge) -> None:
    await get_raw(edge.address, "/api/tunnel/inst_1/", "x-hop: 1", "connection: x-hop")
    assert "x-hop" not in edge.engine.saw[-1].names()


async def test_the_decision_sees_what_it_needs_and_nothing_forged(edge: Edge) -> None:
    needed = {"authorization": "Bearer t", "cookie": "a=b", "x-trigger-nonce": "n", "x-orch8-signature": "s"}
    await edge.http.put("/api/tunnel/inst_1/a?b=c", content=b"body", headers={**FORGED, **PASSING, **needed})
    (asked,) = edge.decisions.asked
    assert (asked.method, asked.path, asked.query) == ("PUT", "/decide/api/tunnel/inst_1/a", "b=c")
    assert asked.body == b""
    assert {name: asked.header(name) for name in needed} == needed
    assert asked.header("host") == str(edge.address)
    assert asked.header("x-request-id") == "mine"
    assert "evil" not in {value for _, value in asked.headers}


async def test_the_decision_may_replace_the_cookie_and_keep_the_rest(edge: Edge) -> None:
    edge.decisions.more = {"cookie": "kept=1", "x-envoy-auth-headers-to-remove": "authorization"}
    headers = {"authorization": "Bearer t", "cookie": "kept=1; sb-x-auth-token=secret"}
    await edge.http.get("/api/tunnel/inst_1/", headers=headers)
    assert edge.engine.saw[-1].header("cookie") == "kept=1"
    assert "authorization" not in edge.engine.saw[-1].names()


async def test_the_decision_may_begin_a_trace(edge: Edge) -> None:
    edge.decisions.more = {"traceparent": PASSING["traceparent"]}
    await edge.http.get("/api/tunnel/inst_1/")
    assert edge.engine.saw[-1].header("traceparent") == PASSING["traceparent"]


async def test_the_caller_sees_the_engines_answer_and_nothing_of_ours(edge: Edge) -> None:
    edge.decisions.more = {"x-orch8-decision-id": "dec_1"}
    got = await edge.http.get("/api/tunnel/inst_1/", headers={"accept-encoding": "gzip", "x-request-id": "mine"})
    assert got.headers["server"] == "orch8/0.7"
    assert got.headers["x-orch8-decision-id"] == "dec_1"
    assert got.headers["x-request-id"] == "mine"
    assert got.status_code == 200
    assert "content-encoding" not in got.headers
    assert not (set(FORGED_ANSWER) - {"x-orch8-decision-id", "x-request-id"}) & set(got.headers)
    assert "evil" not in got.headers.values()


async def test_the_caller_is_told_of_the_plans_limit_and_not_of_the_engines(edge: Edge) -> None:
    told = {"ratelimit-limit": "10", "ratelimit-remaining": "7", "ratelimit-reset": "2"}
    edge.decisions.more = told
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert {name: got.headers.get_list(name) for name in told} == {name: [value] for name, value in told.items()}
    assert not set(told) & edge.engine.saw[-1].names()
    edge.decisions.more = {}
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert not set(told) & set(got.headers)


async def test_an_engine_cannot_make_up_a_decision(edge: Edge) -> None:
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert "x-orch8-decision-id" not in got.headers
    assert got.headers["x-request-id"] != "evil"


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a/", "/a/"),
        ("/a%20b", "/a%20b"),
        ("/%41", "/A"),
        ("/a%2520b", "/a%2520b"),
        ("/a//b", "/a//b"),
        ("//a", "//a"),
        ("/a;b=c", "/a;b=c"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a:b@c,d~e", "/a:b@c,d~e"),
        ("/%C3%A9", "/%C3%A9"),
    ],
)
async def test_an_engines_paths_are_its_own(edge: Edge, sent: str, arrives: str) -> None:
    await get_raw(edge.address, f"/api/tunnel/inst_1{sent}?q=%2F..%2f")
    (saw,), (asked,) = edge.engine.saw, edge.decisions.asked
    assert (saw.path, saw.query) == (arrives, "q=%2F..%2f")
    assert asked.path == f"/decide/api/tunnel/inst_1{'' if not sent else arrives}"


TRICKS = [
    "/api/tunnel/inst_1/../inst_2/x",
    "/api/tunnel/inst_1/%2e%2e/inst_2/x",
    "/api/tunnel/inst_1/.%2E/inst_2/x",
    "/api/tunnel/inst_1/..;/inst_2/x",
    "/api/tunnel/inst_1/..%2finst_2/x",
    "/api/tunnel/inst_1/..%2Finst_2/x",
    "/api/tunnel/inst_1/..%5cinst_2/x",
    "/api/tunnel/inst_1\\..\\inst_2/x",
    "/api/tunnel/inst_1/..\\inst_2/x",
    "/api/tunnel/inst_1%00/../inst_2/x",
    "/api/tunnel/inst_1/x%00",
    "/api/tunnel/inst_1;a=/../inst_2/x",
    "/api/tunnel//inst_2/x",
    "//api/tunnel/inst_2/x",
    "/api//tunnel/inst_2/x",
    "/api/tunnel/inst_1/%252e%252e/inst_2/x",
    "/api/tunnel/inst_1/%2e%2e%2finst_2",
    "/api/tunnel/inst_1#/../inst_2/x",
    "/api/gateway/inst_1/../../tunnel/inst_2/x",
    "/api/tunnel/inst_1/../../gateway/inst_2/slug",
    "/api/tunnel/../../orch8cloud.dataplane.v1.DataPlaneService/GetRoute",
    "/api/tunnel/%69nst_1/x",
    "/api/tunnel/inst_1?/../inst_2/x",
    "http://other.test/api/tunnel/inst_2/x",
    "/api/tunnel/inst_1%3f/../x",
    "/api/tunnel/inst_1%23/x",
    "/api/tunnel/./inst_1/x",
    "/api/tunnel/../tunnel/inst_1/x",
]


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_path_is_decided_for_one_instance_and_sent_to_another(edge: Edge, trick: str) -> None:
    got = await get_raw(edge.address, trick)
    if not edge.engine.saw:
        assert_error(got, got.status, {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[got.status])
        assert edge.decisions.asked == []
        return
    assert (len(edge.engine.saw), len(edge.decisions.asked)) == (1, 1), (edge.engine.saw, edge.decisions.asked)
    (saw,), (asked,) = edge.engine.saw, edge.decisions.asked
    kind, instance, *rest = asked.path.removeprefix("/decide/api/").split("/")
    assert saw.path == ("/webhooks/" if kind == "gateway" else "/") + "/".join(rest)
    assert not {".", "..", ""} & set(asked.path[1:].split("/")[:-1])
    assert "%" not in instance or instance.lower() not in ("%2e", "%2e%2e")
    assert "\\" not in asked.path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/tunnel/a%2fb/x", 400),
        ("/api/tunnel/a%5Cb/x", 400),
        ("/api/tunnel/a/x%00", 400),
        ("/api/tunnel", 404),
        ("/api/tunnel/", 404),
        ("/api/tunnels/a", 404),
        ("/api/gateway/inst_1", 404),
        ("/api/gateway/inst_1/", 404),
        ("/api/gateway/inst_1/slug/", 404),
        ("/api/gateway/inst_1/slug/deeper", 404),
    ],
)
async def test_other_shapes_are_never_decided(edge: Edge, path: str, status: int) -> None:
    got = await get_raw(edge.address, path)
    assert_error(got, status, {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[status])
    assert edge.decisions.asked == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504])
async def test_a_refusal_reaches_the_caller_as_it_is(edge: Edge, status: int) -> None:
    headers = {
        "content-type": "application/json",
        "www-authenticate": 'Bearer realm="orch8-cloud"',
        "retry-after": "4",
        "ratelimit-limit": "10",
        "ratelimit-remaining": "0",
        "ratelimit-reset": "4",
        "x-orch8-decision-id": "dec_1",
    }
    body = b'{"code":16,"message":"100% of \xc3\xa9 %REQ(:PATH)%","details":[]}'
    edge.decisions.answer = (status, {**headers, "x-inner": "secret"}, body)
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert (got.status_code, got.content) == (status, body)
    assert {name: got.headers[name] for name in headers} == headers
    assert "x-inner" not in got.headers
    assert edge.engine.saw == []


async def test_a_fault_of_the_proxy_lets_nobody_pass(edge: Edge) -> None:
    edge.decisions.answer = (500, {"content-type": "text/plain"}, b"Traceback: secret")
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert_error(got, 503, "DATA_PLANE_NOT_READY")
    assert got.headers["retry-after"] == "2"
    assert edge.engine.saw == []


async def test_what_is_too_large_only_with_what_the_decision_adds_is_431(edge: Edge) -> None:
    edge.decisions.more = {"x-gateway-subject": "s" * 6000, "x-orch8-decision-id": "dec_1"}
    got = await get_raw(edge.address, "/api/tunnel/inst_1/", f"x-big: {'x' * 60_000}")
    assert_error(got, 431, "INVALID_ARGUMENT")
    assert ("x-orch8-decision-id", "dec_1") in got.headers
    assert edge.engine.saw == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_method_passes(edge: Edge, method: str) -> None:
    await edge.http.request(method, "/api/tunnel/inst_1/x")
    assert (edge.engine.saw[-1].method, edge.decisions.asked[-1].method) == (method, method)


async def test_the_gateway_signs_the_exact_body(edge: Edge) -> None:
    edge.decisions.more = {
        "x-orch8-signature": "made",
        "x-trigger-timestamp": "1",
        "x-trigger-nonce": "n",
        "x-envoy-auth-headers-to-remove": "authorization",
    }
    body = bytes(range(256)) * 4096
    got = await edge.http.post(
        "/api/gateway/inst_1/my-slug?q=1", content=body, headers={**FORGED, "x-orch8-signature": "caller"}
    )
    assert got.status_code == 200
    (saw,), (asked,) = edge.engine.saw, edge.decisions.asked
    assert (asked.path, asked.query, asked.body) == ("/decide/api/gateway/inst_1/my-slug", "q=1", body)
    assert (saw.path, saw.query, saw.body) == ("/webhooks/my-slug", "q=1", body)
    assert saw.header("x-orch8-signature") == "made"
    assert saw.header("x-trigger-nonce") == "n"


async def test_the_gateway_forwards_the_callers_signature_where_it_has_none(edge: Edge) -> None:
    edge.decisions.more = {"x-envoy-auth-headers-to-remove": "authorization"}
    headers = {"x-orch8-signature": "caller", "x-trigger-nonce": "n"}
    await edge.http.post("/api/gateway/inst_1/slug", content=b"{}", headers=headers)
    assert {name: edge.engine.saw[-1].header(name) for name in headers} == headers


async def test_the_gateway_takes_no_more_than_it_can_sign(edge: Edge) -> None:
    got = await edge.http.post("/api/gateway/inst_1/slug", content=b"x" * (1024 * 1024 + 1))
    assert_error(got, 413, "PAYLOAD_TOO_LARGE")
    assert edge.decisions.asked == []


async def test_an_engine_that_is_down_is_502_and_the_answer_names_the_decision(edge: Edge) -> None:
    edge.decisions.more = DECIDED
    edge.decisions.upstream = "127.0.0.1:1"
    for path in ("/api/tunnel/inst_1/", "/api/gateway/inst_1/slug"):
        got = await edge.http.get(path)
        assert_error(got, 502, "ENGINE_ERROR")
        assert got.headers.get_list("x-orch8-decision-id") == ["dec_1"]
    edge.decisions.upstream = "no-such-host.invalid:1"
    got = await edge.http.get("/api/tunnel/inst_1/")
    assert_error(got, 502, "ENGINE_ERROR")
    assert got.headers.get_list("x-orch8-decision-id") == ["dec_1"]


async def test_tls_to_an_engine_is_verified(edge: Edge) -> None:
    edge.decisions.more = {"x-orch8-cluster": "engine_https"}
    assert_error(await edge.http.get("/api/tunnel/inst_1/"), 502, "ENGINE_ERROR")
    assert edge.engine.saw == []


async def test_an_engine_that_is_silent_is_504_and_the_answer_names_the_decision(edge: Edge) -> None:
    edge.decisions.more = DECIDED
    got = await edge.http.get("/api/tunnel/inst_1/slow")
    assert_error(got, 504, "ENGINE_TIMEOUT")
    assert got.headers.get_list("x-orch8-decision-id") == ["dec_1"]
