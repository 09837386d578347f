"""What paths, methods and states of instances lead to."""

from tests.rest_bridge.data_path.cases.case import BY_KEY, HOOK, PLAIN, Case, passes, refused
from tests.rest_bridge.proxy.cases import KEY, bearer

NOT_FOUND = (404, "NOT_FOUND")
BAD = (400, "INVALID_ARGUMENT")
CLOSED = (403, "RULE_MISMATCH")
CI = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "MKCOL", "PURGE")

STATES = [
    refused("unknown instance", "/api/tunnel/inst_none/x", *NOT_FOUND, *BY_KEY),
    refused("unknown instance, stranger", "/api/tunnel/inst_none/x", *NOT_FOUND),
    refused("unknown instance, gateway", "/api/gateway/inst_none/x", *NOT_FOUND, *BY_KEY),
    refused("suspended", "/api/tunnel/inst_suspended/x", 409, "STATE_CONFLICT", *BY_KEY),
    refused("suspended, stranger", "/api/tunnel/inst_suspended/x", 401, "UNAUTHENTICATED"),
    *(
        refused(name, f"/api/tunnel/inst_{name}/x", 503, "DATA_PLANE_NOT_READY", *BY_KEY, answers={"retry-after": "2"})
        for name in ("provisioning", "resuming", "failed", "lost")
    ),
    refused("provisioning, stranger", "/api/tunnel/inst_provisioning/x", 401, "UNAUTHENTICATED"),
    refused("suspended, gateway", "/api/gateway/inst_suspendedhook/hook", 409, "STATE_CONFLICT"),
    refused("engine refuses", "/api/tunnel/inst_refusing/x", 502, "ENGINE_ERROR", *BY_KEY),
    refused("engine refuses, stranger", "/api/tunnel/inst_refusing/x", 401, "UNAUTHENTICATED"),
]

# What stands behind the instance, and what the engine is asked for.
CARRIED = {
    "": "/",
    "/": "/",
    "/a/": "/a/",
    "/a/b?c=%2F&d": "/a/b?c=%2F&d",
    "/x?a?b": "/x?a?b",
    "/x?a/../b": "/x?a/../b",
    "/x?%00%5c%2e": "/x?%00%5c%2e",
    "/x?a\\b": "/x?a\\b",
    '/x?"<>': '/x?"<>',
    "/a%20b/%C3%A9;v=1": "/a%20b/%C3%A9;v=1",
    "/a:b@c,d~e!$&'()*+=": "/a:b@c,d~e!$&'()*+=",
    "/[a]": "/[a]",
    '/a"b<c>^`{|}': "/a%22b%3Cc%3E%5E%60%7B%7C%7D",
    "/%41%2d%5F%7e": "/A-_~",
    "/%3f%23%25": "/%3f%23%25",
    "/a%zz%4%": "/a%zz%4%",
    "/%%34%31": "/%2541",
    "/%25%32%66": "/%252f",
    "/%252e%252e/x": "/%252e%252e/x",
    "//a///b": "//a///b",
    "/a/./b/../c": "/a/c",
    "/a/%2e/b/%2E%2e/c": "/a/c",
    "/a/..": "/",
    "/a/.": "/a/",
    "/a/.../..b/.c": "/a/.../..b/.c",
    "/a//../b": "/a/b",
    "/a/..;x=1/b": "/b",
    "/a/.;/b": "/a/b",
    "/a\\b": "/a/b",
    "/a\\..\\b": "/b",
    "/a;x/../b": "/b",
    "/" + "y" * 7000: "/" + "y" * 7000,
    "/api/gateway/inst_hooks/plain": "/api/gateway/inst_hooks/plain",
}

PATHS = [
    *(passes(f"tunnel {sent[:40]!r}", PLAIN + sent, *BY_KEY, engine_path=seen) for sent, seen in CARRIED.items()),
    passes("absolute", f"http://other.test{PLAIN}/x?q", *BY_KEY, engine_path="/x?q"),
    passes("absolute, with a name", f"http://a:b@other.test{PLAIN}/x", *BY_KEY, engine_path="/x"),
    passes("escaped instance", "/api/tunnel/%69nst_plain/x", *BY_KEY, engine_path="/x"),
    passes("escaped slug", "/api/gateway/inst_hooks/%70lain", engine_path="/webhooks/plain"),
    passes(
        "from the tunnel to the gateway", "/api/tunnel/a/../../gateway/inst_hooks/plain", engine_path="/webhooks/plain"
    ),
    refused(
        "to the gateway of a stranger", "/api/tunnel/inst_plain/../../gateway/inst_hooks/signed", 401, "UNAUTHENTICATED"
    ),
    *(
        refused(f"out of the tunnel by {dots}", f"{PLAIN}{dots}inst_closed/x", *CLOSED, *BY_KEY)
        for dots in ("/../", "/%2e%2E/", "/.%2e/", "\\..\\", "/..;/", "/..;a=b/", "/a/../../", "/./../")
    ),
    *(
        refused(f"forbidden {piece!r}", f"{PLAIN}/a{piece}b", *BAD, *BY_KEY, undecided=True)
        for piece in ("%2F", "%2f", "%5C", "%5c", "%00", "\x00", "\x01", "\x7f", "\t", " ", "\xe9", "#", "?\xe9", "?#")
    ),
    refused("escaped slash in the instance", "/api/tunnel/inst_plain%2fx", *BAD, *BY_KEY, undecided=True),
    refused("escaped slash out of the tunnel", f"{PLAIN}/..%2finst_closed/x", *BAD, *BY_KEY, undecided=True),
    *(
        refused(f"nothing at {path!r}", path, *NOT_FOUND, *BY_KEY)
        for path in (
            "/",
            "/api",
            "/api/tunnel",
            "/api/tunnel/",
            "/api/tunnels/inst_plain",
            "/API/tunnel/inst_plain/x",
            "/api/tunnel//x",
            "/api/tunnel//inst_plain/x",
            "//api/tunnel/inst_plain/x",
            "/api//tunnel/inst_plain/x",
            "/api/tunnel/INST_PLAIN/x",
            "/api/tunnel/inst_plain;a/x",
            "/api/tunnel/inst_plain%3b/x",
            "/api/tunnel/inst_plain%20/x",
            "/api/tunnel/inst_plain%0a/x",
            "/api/tunnel/inst_plain:80/x",
            "/api/tunnel/inst-plain/x",
            "/api/tunnel/inst_" + "a" * 41,
            "/api/tunnel/../x",
            f"{PLAIN}/../..",
            f"{PLAIN}/..;%00",
            "/api/gateway/inst_hooks",
            "/api/gateway/inst_hooks/",
            "/api/gateway/inst_hooks/plain/",
            "/api/gateway/inst_hooks/plain/x",
            "/api/gateway/inst_hooks//plain",
            "/api/gateway/inst_hooks/plain;x",
            "/api/gateway/inst_hooks/a%20b",
            "/api/gateway/inst_hooks/" + "a" * 256,
            "/api/gateway/inst_hooks/PLAIN",
            "/api/gateway/inst_hooks/none",
        )
    ),
    *(
        refused(f"no target: {target!r}", target, *BAD, *BY_KEY, undecided=True)
        for target in ("x", "", f"ftp://x{PLAIN}/x", f"https://x{PLAIN}/x", "http://")
    ),
    refused("a path of 65 KiB", f"{PLAIN}/" + "y" * 65 * 1024, 431, "INVALID_ARGUMENT", *BY_KEY, undecided=True),
    Case(
        name="an empty query",
        path=f"{PLAIN}/x?",
        headers=BY_KEY,
        engine_path="/x?",
        instead=("direct", 200, None, "/x"),
        because="ASGI has no way to tell an empty query from none",
    ),
    Case(
        name="the server itself",
        method="OPTIONS",
        path="*",
        headers=BY_KEY,
        status=404,
        reason="NOT_FOUND",
        instead=("direct", 400, "INVALID_ARGUMENT", None),
        because="it is no path, and nothing exists for it either way",
        undecided=True,
    ),
]

METHODS = [
    *(passes(f"method {method}", f"{PLAIN}/x", *BY_KEY, method=method) for method in CI),
    *(passes(f"method {method} on the gateway", f"{HOOK}/plain", method=method) for method in CI),
    *(
        refused(f"method {method!r}", f"{PLAIN}/x", *BAD, *BY_KEY, method=method, undecided=True)
        for method in ("CONNECT", "get", "FOO", "G T", "", "GET\x00")
    ),
    refused("CONNECT to a name", "a.test:443", *BAD, *BY_KEY, method="CONNECT", undecided=True),
    *(
        Case(
            name=f"method {method}",
            path=f"{PLAIN}/x",
            method=method,
            headers=BY_KEY,
            instead=("envoy", 400, "INVALID_ARGUMENT", None),
            because="Envoy's parser does not know the method; its switch for more is not covered by its threat model",
        )
        for method in ("QUERY", "M-SEARCH")
    ),
    refused("HEAD refused", f"{PLAIN}/x", 401, "UNAUTHENTICATED", method="HEAD"),
    refused("HEAD of nothing", "/api/tunnel/inst_none/x", *NOT_FOUND, bearer(KEY), method="HEAD"),
]

CASES: list[Case] = [*STATES, *PATHS, *METHODS]
