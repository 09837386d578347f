"""Where a request begins and ends: what could be read in two ways passes in one way or not at all."""

from tests.rest_bridge.data_path.cases.case import HOOK, PLAIN, Case
from tests.rest_bridge.data_path.world import MEMBER
from tests.rest_bridge.proxy.cases import KEY

SMUGGLED = (
    b"0\r\n\r\nGET /api/tunnel/inst_plain/smuggled HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
    + KEY.encode()
    + b"\r\n\r\n"
)
CHUNK = b"3\r\nabc\r\n0\r\n\r\n"
UPGRADE = "Connection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nUpgrade: "


def sent(*lines: str, path: str = f"{PLAIN}/x", method: str = "POST", version: str = "1.1", body: bytes = b"") -> bytes:
    """A request of these header lines, with a good key."""
    first = f"{method} {path} HTTP/{version}"
    closing = () if any(line.lower().startswith("connection") for line in lines) else ("Connection: close",)
    head = "\n".join([first, *closing, f"Authorization: Bearer {KEY}", *lines]) + "\n\n"
    return head.replace("\n", "\r\n").encode("latin-1") + body


def bad(name: str, raw: bytes) -> Case:
    """A request that cannot be read, or cannot be carried."""
    return Case(name=name, raw=raw, status=400, reason="INVALID_ARGUMENT", undecided=True)


HOST = "Host: a.test"
BOTH = (HOST, "Content-Length: 6", "Transfer-Encoding: chunked")

LENGTHS = [
    bad("length and chunks", sent(*BOTH, body=SMUGGLED)),
    bad("chunks and length", sent(HOST, "Transfer-Encoding: chunked", "Content-Length: 6", body=SMUGGLED)),
    bad("length and chunks on the gateway", sent(*BOTH, path=f"{HOOK}/plain", body=SMUGGLED)),
    bad("length and chunks, HTTP/1.0", sent(*BOTH, version="1.0", body=SMUGGLED)),
    bad("two lengths", sent(HOST, "Content-Length: 3", "Content-Length: 4", body=b"abcd")),
    bad("the same length twice", sent(HOST, "Content-Length: 3", "Content-Length: 3", body=b"abc")),
    bad("a list of lengths", sent(HOST, "Content-Length: 3, 3", body=b"abc")),
    *(
        bad(f"length {value!r}", sent(HOST, f"Content-Length: {value}", body=b"abc"))
        for value in ("+3", "-3", "0x3", "three", "", "9" * 30, "3;a", "3 3", "3.0")
    ),
    Case(name="length with a space behind", raw=sent(HOST, "Content-Length: 3 ", body=b"abc"), engine_body=b"abc"),
    *(
        bad(f"coding {value!r}", sent(HOST, f"Transfer-Encoding: {value}", body=CHUNK))
        for value in (
            "chunked, identity",
            "identity",
            "gzip, chunked",
            "xchunked",
            "chunked, chunked",
            "\x0bchunked",
            '"chunked"',
            "chunked\n x",
            "gzip",
        )
    ),
    bad("coding twice", sent(HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNK)),
    bad("coding with a space before the colon", sent(HOST, "Transfer-Encoding : chunked", body=CHUNK)),
    Case(
        name="coding with an underscore",
        raw=sent(HOST, "Transfer_Encoding: chunked", "Content-Length: 3", body=b"abc"),
        engine_body=b"abc",
    ),
    Case(name="coding in odd case", raw=sent(HOST, "TRANSFER-ENCODING: Chunked ", body=CHUNK), engine_body=b"abc"),
    Case(name="a GET with a body", raw=sent(HOST, "Content-Length: 3", method="GET", body=b"abc"), engine_body=b"abc"),
    Case(
        name="a GET in chunks",
        raw=sent(HOST, "Transfer-Encoding: chunked", method="GET", body=CHUNK),
        engine_body=b"abc",
    ),
    Case(name="a POST without a body", raw=sent(HOST), engine_body=b""),
    Case(name="length zero", raw=sent(HOST, "Content-Length: 0"), engine_body=b""),
    Case(
        name="a chunk's extension",
        raw=sent(HOST, "Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0\r\n\r\n"),
        engine_body=b"abc",
    ),
    bad("a chunk without a size", sent(HOST, "Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n0\r\n\r\n")),
    bad(
        "a chunk without a size on the gateway",
        sent(HOST, "Transfer-Encoding: chunked", path=f"{HOOK}/plain", body=b"zz\r\n"),
    ),
    Case(
        name="Connection names the coding",
        raw=sent(HOST, "Connection: close, transfer-encoding", "Transfer-Encoding: chunked", body=CHUNK),
        engine_body=b"abc",
    ),
]


def with_trailers(path: str, *trailers: str) -> bytes:
    """A chunked request without a credential but for what its trailers say."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (head + "3\r\nabc\r\n0\r\n" + "".join(f"{one}\r\n" for one in trailers) + "\r\n").encode()


CREDENTIAL = f"Authorization: Bearer {KEY}"
TRAILERS = [
    Case(
        name="a credential behind the body",
        raw=with_trailers(f"{PLAIN}/x", CREDENTIAL),
        status=401,
        reason="UNAUTHENTICATED",
    ),
    Case(
        name="a credential behind the gateway's body",
        raw=with_trailers(f"{HOOK}/signed", CREDENTIAL),
        status=401,
        reason="UNAUTHENTICATED",
    ),
    Case(
        name="headers behind the gateway's body",
        raw=with_trailers(
            f"{HOOK}/plain", "x-t: 1", "x-gateway-subject: root", "x-orch8-signature: v1=a", "cookie: a=1"
        ),
        sees={"x-gateway-subject": "anon"},
        lacks=["x-t", "x-orch8-signature", "cookie"],
        engine_body=b"abc",
    ),
    Case(
        name="headers behind a body",
        raw=sent(
            HOST, "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nx-t: 1\r\nAuthorization: Bearer x\r\n\r\n"
        ),
        lacks=["x-t"],
        engine_body=b"abc",
    ),
]

HOSTS = [
    bad("no host", sent(method="GET")),
    Case(name="no host, HTTP/1.0", raw=sent(method="GET", version="1.0")),
    bad("a host that is none", sent("Host: a b/c", method="GET")),
    bad("no HTTP", b"no HTTP at all\r\n\r\n"),
    Case(name="an empty line first", raw=b"\r\n" + sent(HOST, method="GET")),
    Case(
        name="line feeds alone",
        raw=sent(HOST, method="GET").replace(b"\r\n", b"\n"),
        instead=("direct", 400, "INVALID_ARGUMENT", None),
        because="RFC 9112, 2.2 allows both, and each parser does one",
    ),
]

UPGRADES = [
    bad("upgrade to another protocol", sent(HOST, "Connection: Upgrade, close", "Upgrade: foo", method="GET")),
    bad("upgrade to several", sent(HOST, "Connection: Upgrade, close", "Upgrade: websocket, foo", method="GET")),
    bad(
        "upgrade with a body",
        sent(HOST, "Connection: Upgrade, close", "Upgrade: foo", "Content-Length: 3", body=b"abc"),
    ),
    bad(
        "upgrade on the gateway",
        sent(HOST, "Connection: Upgrade, close", "Upgrade: foo", method="GET", path=f"{HOOK}/plain"),
    ),
    bad("a WebSocket on the gateway", sent(HOST, f"{UPGRADE}websocket", method="GET", path=f"{HOOK}/plain")),
    Case(name="upgrade that Connection does not name", raw=sent(HOST, "Upgrade: foo", method="GET"), lacks=["upgrade"]),
    Case(
        name="an offer of HTTP/2",
        raw=sent(
            HOST,
            "Connection: Upgrade, HTTP2-Settings, close",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
            method="GET",
        ),
        lacks=["upgrade", "http2-settings"],
    ),
    Case(
        name="a WebSocket of a stranger",
        raw=sent(HOST, f"{UPGRADE}websocket", method="GET").replace(KEY.encode(), MEMBER.encode()),
        status=401,
        reason="UNAUTHENTICATED",
    ),
]

CASES: list[Case] = [*LENGTHS, *TRAILERS, *HOSTS, *UPGRADES]
