"""The gateway: slugs, signatures, and bodies that are read as a whole."""

from tests.rest_bridge.data_path.cases.case import AS_ANYBODY, AS_KEY, BY_KEY, HOOK, PLAIN, Case, passes, refused

BODY = b'{"a":1}'
MIB = 1024 * 1024
FORGED = (("x-trigger-nonce", "forged"), ("x-trigger-timestamp", "1"), ("x-orch8-signature", "v1=forged"))
OWN = (("x-trigger-nonce", "0123456789abcdef"), ("x-trigger-timestamp", "1700000000"), ("x-orch8-signature", "v1=mine"))
CHUNKED = ("transfer-encoding", "chunked")


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


CASES: list[Case] = [
    passes(
        "signed",
        f"{HOOK}/signed?x=1",
        *BY_KEY,
        *FORGED,
        method="POST",
        body=BODY,
        engine_path="/webhooks/signed?x=1",
        engine_body=BODY,
        sees=AS_KEY,
        signed=True,
    ),
    passes("signed, with no body", f"{HOOK}/signed", *BY_KEY, signed=True, engine_body=b""),
    passes(
        "signed, in chunks",
        f"{HOOK}/signed",
        *BY_KEY,
        CHUNKED,
        method="POST",
        body=chunked(BODY),
        engine_body=BODY,
        signed=True,
    ),
    passes(
        "signed, any bytes",
        f"{HOOK}/signed",
        *BY_KEY,
        method="POST",
        body=bytes(range(256)),
        engine_body=bytes(range(256)),
        signed=True,
    ),
    passes("signed by another policy", f"{HOOK}/elsewhere", method="POST", body=BODY, sees=AS_ANYBODY, signed=True),
    passes(
        "caller signs",
        f"{HOOK}/plain",
        *OWN,
        method="POST",
        body=BODY,
        engine_path="/webhooks/plain",
        sees={**dict(OWN), **AS_ANYBODY},
    ),
    passes("nobody signs", f"{HOOK}/plain", method="POST", body=BODY, lacks=["x-orch8-signature", "x-trigger-nonce"]),
    passes(
        "signature on the tunnel",
        f"{PLAIN}/webhooks/plain",
        *BY_KEY,
        *OWN,
        sees={"x-trigger-nonce": "0123456789abcdef"},
        lacks=["x-orch8-signature"],
    ),
    passes(
        "underscored signature",
        f"{HOOK}/plain",
        ("x_orch8_signature", "v1=a"),
        lacks=["x_orch8_signature", "x-orch8-signature"],
    ),
    passes(
        "signature put aside",
        f"{HOOK}/plain",
        ("x-caller-signature", "v1=a"),
        lacks=["x-caller-signature", "x-orch8-signature"],
    ),
    passes("largest body", f"{HOOK}/plain", method="POST", body=bytes(MIB), engine_body=bytes(MIB)),
    passes("largest body, signed", f"{HOOK}/signed", *BY_KEY, method="POST", body=bytes(MIB), signed=True),
    refused("body too large", f"{HOOK}/plain", 413, "PAYLOAD_TOO_LARGE", method="POST", body=bytes(MIB + 1)),
    refused(
        "body too large, in chunks",
        f"{HOOK}/plain",
        413,
        "PAYLOAD_TOO_LARGE",
        CHUNKED,
        method="POST",
        body=chunked(bytes(MIB + 1)),
    ),
    passes(
        "a large body on the tunnel",
        f"{PLAIN}/x",
        *BY_KEY,
        method="POST",
        body=bytes(MIB + 1),
        engine_body=bytes(MIB + 1),
    ),
    refused("no policy for the slug", f"{HOOK}/none", 404, "NOT_FOUND", *BY_KEY),
    refused("a catch-all serves no slug", "/api/gateway/inst_anonymous/x", 404, "NOT_FOUND"),
    refused("a slug does not open the tunnel", "/api/tunnel/inst_hooks/x", 401, "UNAUTHENTICATED"),
    passes("a slug leaves the tunnel to keys", "/api/tunnel/inst_hooks/x", *BY_KEY),
    refused("a catch-all does not open a slug", "/api/gateway/inst_mixed/hook", 401, "UNAUTHENTICATED"),
    passes("a slug beside a catch-all", "/api/gateway/inst_mixed/hook", *BY_KEY, signed=True),
    refused("slug without credential", f"{HOOK}/signed", 401, "UNAUTHENTICATED", method="POST", body=BODY),
    refused("slug below a webhook", f"{HOOK}/plain/../../../tunnel/inst_plain/x", 401, "UNAUTHENTICATED"),
]
