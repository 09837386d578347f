"""Who is let in as whom, and who is not."""

from tests.rest_bridge.data_path.cases.case import (
    ANYBODY,
    AS_ANYBODY,
    AS_KEY,
    BAD_TOKEN,
    BY_KEY,
    PLAIN,
    REALM,
    Case,
    passes,
    refused,
)
from tests.rest_bridge.data_path.world import ISSUERS, MEMBER, NO_ALGORITHM, SUBJECT, badly_signed, token
from tests.rest_bridge.proxy.cases import (
    ENDING_KEY,
    ENGINE_KEY,
    EXPIRED_KEY,
    KEY,
    OTHER_ORG_KEY,
    REVOKED_KEY,
    SCOPED_KEY,
    TYPO,
    UNKNOWN_KEY,
    bearer,
)

SHUT = (401, "UNAUTHENTICATED")
BAD = (401, "TOKEN_INVALID")
MISMATCH = (403, "RULE_MISMATCH")
ALL = "/api/tunnel/inst_all"
BOTH = "/api/tunnel/inst_both"
AUDIENCE = "/api/tunnel/inst_audience"


def authorization(value: str) -> tuple[str, str]:
    return ("Authorization", value)


KEYS = [
    passes("key", f"{PLAIN}/x", *BY_KEY, engine_path="/x", sees=AS_KEY, lacks=["authorization"]),
    passes("key that ends one day", f"{PLAIN}/x", bearer(ENDING_KEY)),
    refused("no credential", f"{PLAIN}/x", *SHUT, challenge=REALM),
    refused("unknown key", f"{PLAIN}/x", *SHUT, bearer(UNKNOWN_KEY), challenge=BAD_TOKEN),
    refused("key with a typo", f"{PLAIN}/x", *SHUT, bearer(TYPO)),
    refused("half a key", f"{PLAIN}/x", *SHUT, bearer(KEY[:30])),
    refused("beginning of a key alone", f"{PLAIN}/x", *SHUT, bearer("orc8_")),
    refused("revoked key", f"{PLAIN}/x", 401, "KEY_REVOKED", bearer(REVOKED_KEY), challenge=BAD_TOKEN),
    refused("expired key", f"{PLAIN}/x", 401, "KEY_EXPIRED", bearer(EXPIRED_KEY), challenge=BAD_TOKEN),
    refused("key in upper case", f"{PLAIN}/x", *SHUT, bearer(KEY.upper())),
    refused("key in another header", f"{PLAIN}/x", *SHUT, ("x-api-key", KEY)),
    refused("key in the query", f"{PLAIN}/x?access_token={KEY}", *SHUT),
    refused("key as a cookie", f"{PLAIN}/x", *SHUT, ("cookie", f"authorization=Bearer {KEY}")),
    refused("a member's session", f"{PLAIN}/x", *SHUT, bearer(MEMBER)),
    refused("a member's session cookie", f"{PLAIN}/x", *SHUT, ("cookie", f"sb-orch8-auth-token={MEMBER}")),
]

FORMS = [
    passes("odd scheme and spaces", f"{PLAIN}/x", authorization(f"bEARER   {KEY}   "), sees=AS_KEY),
    passes("lower case", f"{PLAIN}/x", authorization(f"bearer {KEY}"), sees=AS_KEY),
    passes("spaces and tabs around", f"{PLAIN}/x", authorization(f" \tBearer {KEY}\t "), sees=AS_KEY),
    passes("an empty second one", f"{PLAIN}/x", *BY_KEY, authorization(""), sees=AS_KEY),
    passes("an empty first one", f"{PLAIN}/x", authorization(""), *BY_KEY, sees=AS_KEY),
    refused("two headers", f"{PLAIN}/x", *SHUT, *BY_KEY, *BY_KEY, challenge=BAD_TOKEN),
    refused("two headers, spelled differently", f"{PLAIN}/x", *SHUT, *BY_KEY, ("AUTHORIZATION", f"Bearer {KEY}")),
    refused("key and basic", f"{PLAIN}/x", *SHUT, *BY_KEY, authorization("Basic eA==")),
    refused("basic and key", f"{PLAIN}/x", *SHUT, authorization("Basic eA=="), *BY_KEY),
    refused("joined by a comma", f"{PLAIN}/x", *SHUT, authorization(f"Bearer {KEY}, Bearer {KEY}")),
    refused("a comma behind", f"{PLAIN}/x", *SHUT, authorization(f"Bearer {KEY},")),
    refused("two where anybody may", ANYBODY, *SHUT, bearer("a"), bearer("b")),
    refused("joined where anybody may", ANYBODY, *SHUT, authorization("Bearer a,Bearer b")),
    refused("basic twice where anybody may", ANYBODY, *SHUT, authorization("Basic a"), authorization("Basic b")),
    passes("digest where anybody may", ANYBODY, authorization('Digest username="a", realm="b"'), sees=AS_ANYBODY),
    refused("tab for a space", f"{PLAIN}/x", *SHUT, authorization(f"Bearer\t{KEY}")),
    refused("something behind", f"{PLAIN}/x", *SHUT, authorization(f"Bearer {KEY} x")),
    refused("no space", f"{PLAIN}/x", *SHUT, authorization(f"Bearer{KEY}")),
    refused("no scheme", f"{PLAIN}/x", *SHUT, authorization(KEY)),
    refused("another scheme", f"{PLAIN}/x", *SHUT, authorization(f"Token {KEY}")),
    refused("basic", f"{PLAIN}/x", *SHUT, authorization("Basic eA==")),
    refused("empty bearer", f"{PLAIN}/x", *SHUT, authorization("Bearer ")),
    refused("bearer alone", f"{PLAIN}/x", *SHUT, authorization("Bearer")),
    refused("empty header", f"{PLAIN}/x", *SHUT, authorization("")),
    passes("empty bearer where anybody may", ANYBODY, authorization("Bearer "), sees=AS_ANYBODY),
    refused("not ASCII", f"{PLAIN}/x", *SHUT, authorization(f"Bearer \xe9{KEY}")),
    refused("control byte", f"{PLAIN}/x", 400, "INVALID_ARGUMENT", authorization(f"Bearer \x01{KEY}"), undecided=True),
    refused("NUL", f"{PLAIN}/x", 400, "INVALID_ARGUMENT", authorization(f"Bearer {KEY}\x00"), undecided=True),
    refused("17 KiB", f"{PLAIN}/x", *SHUT, bearer("a" * 17 * 1024)),
    passes("17 KiB where anybody may", ANYBODY, bearer("a" * 17 * 1024), sees=AS_ANYBODY),
    refused("65 KiB", f"{PLAIN}/x", 431, "INVALID_ARGUMENT", bearer("a" * 65 * 1024), undecided=True),
    refused("named in Connection", f"{PLAIN}/x", *SHUT, *BY_KEY, ("Connection", "close, Authorization")),
    passes("another name", ANYBODY, ("authorization_", f"Bearer {REVOKED_KEY}"), sees=AS_ANYBODY),
]

SELECTION = [
    passes("anybody", f"{ANYBODY}/x", sees=AS_ANYBODY),
    refused("unknown key where anybody may", f"{ANYBODY}/x", *SHUT, bearer(UNKNOWN_KEY)),
    refused("revoked key where anybody may", f"{ANYBODY}/x", 401, "KEY_REVOKED", bearer(REVOKED_KEY)),
    refused("expired key where anybody may", f"{ANYBODY}/x", 401, "KEY_EXPIRED", bearer(EXPIRED_KEY)),
    refused("no key at all where anybody may", f"{ANYBODY}/x", *SHUT, bearer("orc8_live_x")),
    passes("key where only anybody may", f"{ANYBODY}/x", *BY_KEY, sees=AS_ANYBODY),
    passes("key where both may", f"{BOTH}/x", *BY_KEY, sees=AS_KEY),
    refused("other org's key where both may", f"{BOTH}/x", *MISMATCH, bearer(OTHER_ORG_KEY)),
    passes("no JWT where both may", f"{BOTH}/x", bearer("abc"), sees=AS_ANYBODY),
    passes("three parts where both may", f"{BOTH}/x", bearer("a.b.c"), sees=AS_ANYBODY),
    refused("three parts", f"{PLAIN}/x", *SHUT, bearer("a.b.c")),
    refused("key where only tokens may", "/api/tunnel/inst_oidc/x", *SHUT, *BY_KEY),
    refused("nothing where only tokens may", "/api/tunnel/inst_oidc/x", *SHUT, challenge=REALM),
    refused("token where only keys may", f"{PLAIN}/x", *SHUT, bearer(token("github-oidc"))),
    passes("key among all", f"{ALL}/x", *BY_KEY, sees=AS_KEY),
    passes("nothing among all", f"{ALL}/x", sees=AS_ANYBODY),
    passes("stranger's token among all", f"{ALL}/x", bearer(token("https://x.example")), sees=AS_ANYBODY),
    refused("badly signed among all", f"{ALL}/x", *BAD, bearer(badly_signed("oidc")), challenge=BAD_TOKEN),
    refused("not signed among all", f"{ALL}/x", *BAD, bearer(NO_ALGORITHM)),
    refused("expired among all", f"{ALL}/x", *BAD, bearer(token("oidc", exp=1))),
    refused("not yet valid among all", f"{ALL}/x", *BAD, bearer(token("oidc", nbf=2**33))),
    refused("without expiry", f"{ALL}/x", *BAD, bearer(token("oidc", exp=None))),
    refused("without subject", f"{ALL}/x", *BAD, bearer(token("oidc", sub=None))),
    passes("without issuer", f"{ALL}/x", bearer(token("oidc", iss=None)), sees=AS_ANYBODY),
    passes("issuer with a slash more", f"{ALL}/x", bearer(token(ISSUERS["oidc"][0] + "/")), sees=AS_ANYBODY),
    refused(
        "issuer that is down",
        "/api/tunnel/inst_down/x",
        503,
        "DATA_PLANE_NOT_READY",
        bearer(token("http://127.0.0.1:9")),
    ),
]

OIDC = [
    *(
        passes(
            f"{provider} among all",
            f"{ALL}/x",
            bearer(token(provider)),
            sees={"x-gateway-provider": provider, "x-gateway-subject": SUBJECT, "x-api-key": ENGINE_KEY},
            lacks=["authorization"],
        )
        for provider in ISSUERS
    ),
    *(
        refused(
            f"{provider} of another issuer",
            f"/api/tunnel/inst_{provider.partition('-')[0]}/x",
            *SHUT,
            bearer(token(other)),
        )
        for provider, other in zip(ISSUERS, [*list(ISSUERS)[1:], "gitlab-oidc"], strict=True)
    ),
    passes("audience", f"{AUDIENCE}/x", bearer(token("oidc"))),
    passes("audience among several", f"{AUDIENCE}/x", bearer(token("oidc", aud=["x", "orch8"]))),
    refused("another audience", f"{AUDIENCE}/x", *BAD, bearer(token("oidc", aud="other"))),
    refused("beginning of the audience", f"{AUDIENCE}/x", *BAD, bearer(token("oidc", aud="orch"))),
    refused("no audience", f"{AUDIENCE}/x", *BAD, bearer(token("oidc", aud=None))),
    passes(
        "a subject that is no header",
        f"{ALL}/x",
        bearer(token("oidc", sub="a\r\nx-api-key: mine é 100%")),
        sees={"x-gateway-subject": "a%0D%0Ax-api-key:%20mine%20%C3%A9%20100%25", "x-api-key": ENGINE_KEY},
    ),
    passes("second policy of an issuer", "/api/tunnel/inst_two/x", bearer(token("oidc", role="b"))),
    refused("neither policy of an issuer", "/api/tunnel/inst_two/x", *MISMATCH, bearer(token("oidc", role="c"))),
    passes("token on the gateway", "/api/gateway/inst_tokens/ci", bearer(token("oidc")), engine_path="/webhooks/ci"),
    refused("key on a token's gateway", "/api/gateway/inst_tokens/ci", *SHUT, *BY_KEY),
]

SCOPES = [
    refused("other org", f"{PLAIN}/x", *MISMATCH, bearer(OTHER_ORG_KEY)),
    passes("invited org", "/api/tunnel/inst_shared/x", bearer(OTHER_ORG_KEY)),
    refused("own org, not named", "/api/tunnel/inst_shared/x", *MISMATCH, bearer(KEY)),
    refused("a glob invites nobody", "/api/tunnel/inst_globbed/x", *MISMATCH, bearer(OTHER_ORG_KEY)),
    refused("a subject invites nobody", "/api/tunnel/inst_subject/x", *MISMATCH, bearer(OTHER_ORG_KEY)),
    refused("invited by a rule that fails", "/api/tunnel/inst_half/x", *MISMATCH, bearer(OTHER_ORG_KEY)),
    passes("scoped key at home", "/api/tunnel/inst_scoped/x", bearer(SCOPED_KEY)),
    refused("scoped key elsewhere", f"{PLAIN}/x", *MISMATCH, bearer(SCOPED_KEY)),
    refused("scoped key on another's gateway", "/api/gateway/inst_hooks/signed", *MISMATCH, bearer(SCOPED_KEY)),
]

CASES: list[Case] = [*KEYS, *FORMS, *SELECTION, *OIDC, *SCOPES]
