"""Which headers cross: what the engine sees of the caller's, and the caller of the engine's."""

from tests.rest_bridge.data_path.cases.case import AS_KEY, BY_KEY, HOOK, PLAIN, Case, passes, refused

BAD = (400, "INVALID_ARGUMENT")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SESSION = "sb-orch8-auth-token"
# What a caller might write to pass for us, for another caller, or for a machine on the way.
FORGED = (
    "x-gateway-subject",
    "X-Gateway-Provider",
    "x_gateway_subject",
    "X_GATEWAY_PROVIDER",
    "x-gateway_subject",
    "x_gateway-role",
    "x-gateway-",
    "x-api-key",
    "X_Api_Key",
    "x-api_key",
    "x_api-key",
    "x-orch8-upstream",
    "x-orch8-cluster",
    "x_orch8_cluster",
    "x-orch8-signature",
    "x_orch8_signature",
    "x-orch8-decision-id",
    "x-orch8-path",
    "x-caller-signature",
    "fly-force-instance-id",
    "Fly_Prefer_Region",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-envoy-original-path",
    "x-envoy-decorator-operation",
    "x-envoy-auth-headers-to-remove",
    "x_envoy_internal",
    "x-forwarded-host",
    "X_Forwarded_Host",
    "x-forwarded-port",
    "forwarded",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "true-client-ip",
    "cf-connecting-ip",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "expect",
    "http2-settings",
    "upgrade",
)
PASSING = {
    "x-tenant-id": "mine",
    "x-trigger-nonce": "mine",
    "x-gateway": "mine",
    "x-orch8": "mine",
    "flying": "mine",
    "x-api-keys": "mine",
    "x_other": "mine",
    "traceparent": TRACE,
    "tracestate": "a=b",
    "x-request-id": "mine",
    "accept": "text/html",
    "accept-encoding": "br",
    "user-agent": "test",
    "content-type": "text/csv",
    "content-encoding": "gzip",
    "origin": "https://a.example",
    "if-none-match": '"1"',
    "range": "bytes=0-1",
    "via": "1.1 a",
    "x-http-method-override": "DELETE",
    "grpc-timeout": "1S",
    "last-event-id": "7",
}

FROM_CALLERS = [
    *(
        passes(
            f"forged {name}",
            f"{PLAIN}/x",
            *BY_KEY,
            (name, "forged"),
            sees=AS_KEY,
            lacks=[] if name.lower() in AS_KEY else [name.lower()],
        )
        for name in FORGED
    ),
    *(
        passes(f"passing {name}", f"{PLAIN}/x", *BY_KEY, (name, value), sees={name: value})
        for name, value in PASSING.items()
    ),
    passes("forged twice", f"{PLAIN}/x", *BY_KEY, ("X-Gateway-Subject", "a"), ("x-gateway-subject", "b"), sees=AS_KEY),
    passes("forged in front", f"{PLAIN}/x", ("x-gateway-subject", "a"), *BY_KEY, sees=AS_KEY),
    passes("scheme", f"{PLAIN}/x", *BY_KEY, ("x-forwarded-proto", "https"), sees={"x-forwarded-proto": "http"}),
    passes("a tab in a value", f"{PLAIN}/x", *BY_KEY, ("x-a", "a\tb"), sees={"x-a": "a\tb"}),
    passes("spaces around a value", f"{PLAIN}/x", *BY_KEY, ("x-a", " \ta \t"), sees={"x-a": "a"}),
    passes("another host", f"{PLAIN}/x", *BY_KEY, ("host", "evil.test")),
    passes(
        "the request's id twice",
        f"{PLAIN}/x",
        *BY_KEY,
        ("x-request-id", "a"),
        ("x-request-id", "b"),
        sees={"x-request-id": "a,b"},
        answers={"x-request-id": "a,b"},
    ),
    passes(
        "the caller's request id", f"{PLAIN}/x", *BY_KEY, ("x-request-id", "mine"), answers={"x-request-id": "mine"}
    ),
    *(
        refused(f"no header: {name!r}: {value!r}", f"{PLAIN}/x", *BAD, *BY_KEY, (name, value), undecided=True)
        for name, value in (
            ("x-a", "a\x01b"),
            ("x-a", "a\x00b"),
            ("x-a", "a\x7fb"),
            ("", "x"),
            ("x-a ", "x"),
            ("x a", "x"),
            ("x-\xe9", "x"),
            (":path", "/api/tunnel/inst_closed/x"),
            (":authority", "evil"),
        )
    ),
    refused(
        "too many",
        f"{PLAIN}/x",
        431,
        "INVALID_ARGUMENT",
        *BY_KEY,
        *((f"x-{n}", "1") for n in range(117)),
        undecided=True,
    ),
    passes("as many as promised", f"{PLAIN}/x", *BY_KEY, *((f"x-{n}", "1") for n in range(97))),
    passes("as many as promised on the gateway", f"{HOOK}/signed", *BY_KEY, *((f"x-{n}", "1") for n in range(97))),
    passes("as large as promised", f"{PLAIN}/x", *BY_KEY, *((f"x-{n}", "1" * 6080) for n in range(10))),
    refused(
        "too large",
        f"{PLAIN}/x",
        431,
        "INVALID_ARGUMENT",
        *BY_KEY,
        *((f"x-{n}", "1" * 8000) for n in range(9)),
        undecided=True,
    ),
    refused(
        "gRPC", f"{PLAIN}/x", *BAD, *BY_KEY, ("content-type", "application/grpc+proto"), method="POST", undecided=True
    ),
    refused(
        "gRPC on the gateway",
        f"{HOOK}/plain",
        *BAD,
        ("content-type", "application/grpc"),
        method="POST",
        undecided=True,
    ),
    passes("gRPC-Web", f"{PLAIN}/x", *BY_KEY, ("content-type", "application/grpc-web"), method="POST", body=b"x"),
    Case(
        name="a carriage return in a value",
        path=f"{PLAIN}/x",
        headers=[*BY_KEY, ("x-a", "a\rb")],
        sees={"x-a": "ab"},
        instead=("direct", 400, "INVALID_ARGUMENT", None),
        because="Envoy's parser leaves it out, the other one takes it for the end of a line that is none",
    ),
    Case(
        name="a folded header",
        path=f"{PLAIN}/x",
        headers=[*BY_KEY, ("x-a", "b\r\n c")],
        sees={"x-a": "b c"},
        instead=("direct", 400, "INVALID_ARGUMENT", None),
        because="RFC 9112, 5.2 allows both, and each parser does one",
    ),
]

NOMINATED = [
    *(
        passes(
            f"Connection names {name}",
            f"{PLAIN}/x",
            *BY_KEY,
            ("Connection", f"close, {name}"),
            ("x-private", "1"),
            ("x-tenant-id", "mine"),
            sees={**AS_KEY, **({} if "tenant" in name else {"x-tenant-id": "mine"})},
            lacks=["x-private"] if "private" in name.lower() else [],
        )
        for name in (
            "x-private",
            "X-PRIVATE ",
            "x-tenant-id",
            "x-gateway-provider",
            "x-gateway-subject, x-api-key",
            "x-orch8-upstream, x-orch8-cluster",
            "x-orch8-decision-id",
            "x-request-id, traceparent",
            "content-length",
            "transfer-encoding",
            "keep-alive",
            ",",
        )
    ),
    passes(
        "Connection names it twice",
        f"{PLAIN}/x",
        *BY_KEY,
        ("connection", "close"),
        ("connection", "x-private"),
        ("x-private", "1"),
        lacks=["x-private"],
    ),
    passes(
        "Connection names the length",
        f"{PLAIN}/x",
        *BY_KEY,
        ("connection", "close, content-length"),
        method="POST",
        body=b"abc",
        engine_body=b"abc",
    ),
    *(
        refused(
            f"Connection names {name}", f"{PLAIN}/x", *BAD, *BY_KEY, ("Connection", f"close, {name}"), undecided=True
        )
        for name in (
            "host",
            "x-forwarded-for",
            "X-Forwarded-Proto",
            "x-forwarded-host",
            ":path",
            ",".join("abcdefghijk"),
        )
    ),
]

COOKIES = [
    passes("session cookie alone", f"{PLAIN}/x", *BY_KEY, ("cookie", f"{SESSION}=secret"), lacks=["cookie"]),
    passes(
        "session cookie among others",
        f"{PLAIN}/x",
        *BY_KEY,
        ("cookie", f"a=1; {SESSION}.0=x;{SESSION}.1=y; b=2; {SESSION}-code-verifier=z; {SESSION}-user=u"),
        sees={"cookie": "a=1; b=2"},
    ),
    passes(
        "session in a second header",
        f"{PLAIN}/x",
        *BY_KEY,
        ("cookie", "a=1"),
        ("Cookie", f"{SESSION}=x"),
        sees={"cookie": "a=1"},
    ),
    passes(
        "oldest session",
        f"{PLAIN}/x",
        *BY_KEY,
        ("cookie", "sb-access-token=x; a=1; sb-refresh-token=y"),
        sees={"cookie": "a=1"},
    ),
    passes("other cookies", f"{PLAIN}/x", *BY_KEY, ("cookie", "a=1;b = 2"), sees={"cookie": "a=1;b = 2"}),
    passes(
        "a cookie that names it", f"{PLAIN}/x", *BY_KEY, ("cookie", f"a={SESSION}"), sees={"cookie": f"a={SESSION}"}
    ),
]

CASES: list[Case] = [*FROM_CALLERS, *NOMINATED, *COOKIES]
