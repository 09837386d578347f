"""What the tunnel and the gateway do, as data: the same table holds for the proxy alone and for the proxy behind Envoy.

The world of the cases: every instance belongs to org_a; `running` ones share one engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.domain import keys

ENGINE_KEY = "engine-key-of-the-tests"
SECRET = "trigger-secret-example"
SESSION_COOKIE = "sb-orch8-auth-token"
PAST = "2001-01-01T00:00:00Z"
FUTURE = "2999-01-01T00:00:00Z"

KEY, OTHER_ORG_KEY, SCOPED_KEY, REVOKED_KEY, EXPIRED_KEY, UNKNOWN_KEY, ENDING_KEY = (
    keys.new_key("live", bytes([number]) * 32) for number in range(1, 8)
)
TYPO = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
PREFIX = keys.public_prefix(KEY)

KEYS: Mapping[str, Mapping[str, Any]] = {
    KEY: {"org_id": "org_a"},
    OTHER_ORG_KEY: {"org_id": "org_b"},
    SCOPED_KEY: {"org_id": "org_a", "instance_id": "inst_scoped"},
    REVOKED_KEY: {"org_id": "org_a", "revoked_at": PAST},
    EXPIRED_KEY: {"org_id": "org_a", "expires_at": PAST},
    ENDING_KEY: {"org_id": "org_a", "expires_at": FUTURE},
}

API_KEY: Mapping[str, Any] = {"provider": "api-key"}
ANONYMOUS: Mapping[str, Any] = {"provider": "anonymous"}


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance. `engine`: "up", "refusing" (nobody listens there) or None (never started)."""

    status: str = "running"
    engine: str | None = "up"
    policies: Sequence[Mapping[str, Any]] = ()
    org_id: str = "org_a"
    limits: Mapping[str, Any] = field(default_factory=dict)


INSTANCES: Mapping[str, Instance] = {
    "inst_plain": Instance(),
    "inst_scoped": Instance(),
    "inst_anonymous": Instance(policies=[ANONYMOUS]),
    "inst_both": Instance(policies=[ANONYMOUS, API_KEY]),
    "inst_ruled": Instance(policies=[{**API_KEY, "allow": [{"sub": "nobody"}, {"sub": PREFIX, "org_id": "org_a"}]}]),
    "inst_closed": Instance(policies=[{**API_KEY, "allow": [{"sub": "nobody"}]}]),
    "inst_shared": Instance(policies=[{**API_KEY, "allow": [{"org_id": ["org_c", "org_b"]}]}]),
    "inst_globbed": Instance(policies=[{**API_KEY, "allow": [{"org_id": {"glob": "org_*"}}]}]),
    "inst_oidc": Instance(policies=[{"provider": "github-oidc"}]),
    "inst_hooks": Instance(
        policies=[
            {**API_KEY, "slug": "signed", "trigger_secret": SECRET},
            {**ANONYMOUS, "slug": "plain"},
            {**ANONYMOUS, "slug": "elsewhere"},
            {**API_KEY, "slug": "elsewhere", "trigger_secret": SECRET},
        ]
    ),
    "inst_refusing": Instance(engine="refusing"),
    "inst_suspended": Instance(status="suspended"),
    "inst_provisioning": Instance(status="provisioning", engine=None),
    "inst_resuming": Instance(status="resuming"),
    "inst_failed": Instance(status="failed", engine=None),
    "inst_lost": Instance(engine=None),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request and what becomes of it. `reason` None: the engine answers, which `sees` and lacks `lacks`."""

    name: str
    path: str
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    status: int = 200
    reason: str | None = None
    engine_path: str | None = None
    sees: Mapping[str, str] = field(default_factory=dict)
    lacks: Sequence[str] = ()
    challenge: str | None = None
    needs_edge: bool = False
    signed: bool = False


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


PLAIN = "/api/tunnel/inst_plain"
REALM = 'Bearer realm="orch8-cloud"'
BAD_TOKEN = f'{REALM}, error="invalid_token"'
AS_KEY = {"x-gateway-provider": "api-key", "x-gateway-subject": PREFIX, "x-api-key": ENGINE_KEY}
AS_ANYBODY = {"x-gateway-provider": "anonymous", "x-gateway-subject": "anon", "x-api-key": ENGINE_KEY}

CREDENTIALS = [
    Case(name="key", path=f"{PLAIN}/x", headers=[bearer(KEY)], engine_path="/x", sees=AS_KEY, lacks=["authorization"]),
    Case(name="key, odd scheme", path=f"{PLAIN}/x", headers=[("authorization", f"bEARER   {KEY} ")], sees=AS_KEY),
    Case(name="key that ends one day", path=f"{PLAIN}/x", headers=[bearer(ENDING_KEY)]),
    Case(name="none", path=f"{PLAIN}/x", status=401, reason="UNAUTHENTICATED", challenge=REALM),
    Case(name="empty bearer", path=f"{PLAIN}/x", headers=[bearer("")], status=401, reason="UNAUTHENTICATED"),
    Case(
        name="unknown key",
        path=f"{PLAIN}/x",
        headers=[bearer(UNKNOWN_KEY)],
        status=401,
        reason="UNAUTHENTICATED",
        challenge=BAD_TOKEN,
    ),
    Case(name="typo", path=f"{PLAIN}/x", headers=[bearer(TYPO)], status=401, reason="UNAUTHENTICATED"),
    Case(
        name="revoked",
        path=f"{PLAIN}/x",
        headers=[bearer(REVOKED_KEY)],
        status=401,
        reason="KEY_REVOKED",
        challenge=BAD_TOKEN,
    ),
    Case(name="expired", path=f"{PLAIN}/x", headers=[bearer(EXPIRED_KEY)], status=401, reason="KEY_EXPIRED"),
    Case(
        name="two credentials",
        path=f"{PLAIN}/x",
        headers=[bearer(KEY), bearer(KEY)],
        status=401,
        reason="UNAUTHENTICATED",
    ),
    Case(name="jwt", path=f"{PLAIN}/x", headers=[bearer("a.b.c")], status=401, reason="UNAUTHENTICATED"),
    Case(
        name="basic", path=f"{PLAIN}/x", headers=[("authorization", "Basic eA==")], status=401, reason="UNAUTHENTICATED"
    ),
    Case(name="anybody", path="/api/tunnel/inst_anonymous/x", sees=AS_ANYBODY),
    Case(
        name="bad key where anybody may",
        path="/api/tunnel/inst_anonymous/x",
        headers=[bearer(UNKNOWN_KEY)],
        status=401,
        reason="UNAUTHENTICATED",
    ),
    Case(
        name="revoked key where anybody may",
        path="/api/tunnel/inst_anonymous/x",
        headers=[bearer(REVOKED_KEY)],
        status=401,
        reason="KEY_REVOKED",
    ),
    Case(
        name="key where only anybody may", path="/api/tunnel/inst_anonymous/x", headers=[bearer(KEY)], sees=AS_ANYBODY
    ),
    Case(name="key where both may", path="/api/tunnel/inst_both/x", headers=[bearer(KEY)], sees=AS_KEY),
    Case(name="jwt where both may", path="/api/tunnel/inst_both/x", headers=[bearer("a.b.c")], sees=AS_ANYBODY),
    Case(
        name="key where only tokens may",
        path="/api/tunnel/inst_oidc/x",
        headers=[bearer(KEY)],
        status=401,
        reason="UNAUTHENTICATED",
    ),
]

RULES = [
    Case(name="a rule matches", path="/api/tunnel/inst_ruled/x", headers=[bearer(KEY)], sees=AS_KEY),
    Case(
        name="no rule matches",
        path="/api/tunnel/inst_ruled/x",
        headers=[bearer(ENDING_KEY)],
        status=403,
        reason="RULE_MISMATCH",
    ),
    Case(name="no rule", path="/api/tunnel/inst_closed/x", headers=[bearer(KEY)], status=403, reason="RULE_MISMATCH"),
    Case(name="other org", path=f"{PLAIN}/x", headers=[bearer(OTHER_ORG_KEY)], status=403, reason="RULE_MISMATCH"),
    Case(name="invited org", path="/api/tunnel/inst_shared/x", headers=[bearer(OTHER_ORG_KEY)]),
    Case(
        name="own org, not named",
        path="/api/tunnel/inst_shared/x",
        headers=[bearer(KEY)],
        status=403,
        reason="RULE_MISMATCH",
    ),
    Case(
        name="a glob invites nobody",
        path="/api/tunnel/inst_globbed/x",
        headers=[bearer(OTHER_ORG_KEY)],
        status=403,
        reason="RULE_MISMATCH",
    ),
    Case(name="scoped key at home", path="/api/tunnel/inst_scoped/x", headers=[bearer(SCOPED_KEY)]),
    Case(
        name="scoped key elsewhere",
        path=f"{PLAIN}/x",
        headers=[bearer(SCOPED_KEY)],
        status=403,
        reason="RULE_MISMATCH",
    ),
]

STATES = [
    Case(
        name="unknown instance", path="/api/tunnel/inst_none/x", headers=[bearer(KEY)], status=404, reason="NOT_FOUND"
    ),
    Case(
        name="suspended",
        path="/api/tunnel/inst_suspended/x",
        headers=[bearer(KEY)],
        status=409,
        reason="STATE_CONFLICT",
    ),
    Case(name="suspended, stranger", path="/api/tunnel/inst_suspended/x", status=401, reason="UNAUTHENTICATED"),
    *(
        Case(
            name=name,
            path=f"/api/tunnel/inst_{name}/x",
            headers=[bearer(KEY)],
            status=503,
            reason="DATA_PLANE_NOT_READY",
        )
        for name in ("provisioning", "resuming", "failed", "lost")
    ),
]

PATHS = [
    Case(name="root", path=PLAIN, headers=[bearer(KEY)], engine_path="/"),
    Case(name="root with slash", path=f"{PLAIN}/", headers=[bearer(KEY)], engine_path="/"),
    Case(name="query", path=f"{PLAIN}/a/b?c=%2F&d", headers=[bearer(KEY)], engine_path="/a/b?c=%2F&d"),
    Case(
        name="encoding stays", path=f"{PLAIN}/a%20b/%C3%A9;v=1", headers=[bearer(KEY)], engine_path="/a%20b/%C3%A9;v=1"
    ),
    Case(name="odd instance", path="/api/tunnel/INST_PLAIN/x", headers=[bearer(KEY)], status=404, reason="NOT_FOUND"),
    Case(
        name="escaped instance",
        path="/api/tunnel/%69nst_plain/x",
        headers=[bearer(KEY)],
        status=404,
        reason="NOT_FOUND",
    ),
    Case(name="no instance", path="/api/tunnel/", headers=[bearer(KEY)], status=404, reason="NOT_FOUND"),
    Case(name="long slug", path="/api/gateway/inst_hooks/" + "a" * 256, status=404, reason="NOT_FOUND"),
    Case(name="odd slug", path="/api/gateway/inst_hooks/a%20b", status=404, reason="NOT_FOUND"),
    Case(name="below a slug", path="/api/gateway/inst_hooks/plain/x", status=404, reason="NOT_FOUND"),
    Case(name="double slashes", path=f"{PLAIN}//a///b", headers=[bearer(KEY)], engine_path="//a///b", needs_edge=True),
    Case(name="dots", path=f"{PLAIN}/a/./b/../c", headers=[bearer(KEY)], engine_path="/a/c", needs_edge=True),
    Case(
        name="dots out of the tunnel",
        path=f"{PLAIN}/../inst_closed/x",
        headers=[bearer(KEY)],
        status=403,
        reason="RULE_MISMATCH",
        needs_edge=True,
    ),
    Case(
        name="escaped dots out of the tunnel",
        path=f"{PLAIN}/%2e%2E/inst_closed/x",
        headers=[bearer(KEY)],
        status=403,
        reason="RULE_MISMATCH",
        needs_edge=True,
    ),
    *(
        Case(
            name=f"forbidden {escape}",
            path=f"{PLAIN}/a{escape}b",
            headers=[bearer(KEY)],
            status=400,
            reason="INVALID_ARGUMENT",
            needs_edge=True,
        )
        for escape in ("%2F", "%2f", "%5C", "%00")
    ),
]

HOOK = "/api/gateway/inst_hooks"
BODY = b'{"a":1}'

GATEWAY = [
    Case(
        name="signed",
        path=f"{HOOK}/signed?x=1",
        method="POST",
        headers=[bearer(KEY), ("x-trigger-nonce", "forged"), ("x-orch8-signature", "v1=forged")],
        body=BODY,
        engine_path="/webhooks/signed?x=1",
        sees=AS_KEY,
        signed=True,
    ),
    Case(
        name="signed by another policy",
        path=f"{HOOK}/elsewhere",
        method="POST",
        body=BODY,
        sees=AS_ANYBODY,
        signed=True,
    ),
    Case(
        name="caller signs",
        path=f"{HOOK}/plain",
        method="POST",
        headers=[("x-trigger-nonce", "0123456789abcdef"), ("x-orch8-signature", "v1=callers")],
        body=BODY,
        engine_path="/webhooks/plain",
        sees={"x-trigger-nonce": "0123456789abcdef", "x-orch8-signature": "v1=callers", **AS_ANYBODY},
    ),
    Case(name="largest body", path=f"{HOOK}/plain", method="POST", body=bytes(1024 * 1024)),
    Case(
        name="body too large",
        path=f"{HOOK}/plain",
        method="POST",
        body=bytes(1024 * 1024 + 1),
        status=413,
        reason="PAYLOAD_TOO_LARGE",
    ),
    Case(name="no policy for the slug", path=f"{HOOK}/none", status=404, reason="NOT_FOUND"),
    Case(name="a catch-all serves no slug", path="/api/gateway/inst_anonymous/x", status=404, reason="NOT_FOUND"),
    Case(name="slug without credential", path=f"{HOOK}/signed", method="POST", status=401, reason="UNAUTHENTICATED"),
]

SESSION = SESSION_COOKIE

HEADERS = [
    Case(
        name="forged and hop-by-hop headers",
        path=f"{PLAIN}/x",
        headers=[
            bearer(KEY),
            ("x-gateway-subject", "root"),
            ("X_Gateway_Provider", "forged"),
            ("x-api-key", "forged"),
            ("x-orch8-upstream", "203.0.113.9:80"),
            ("x-orch8-signature", "v1=forged"),
            ("fly-force-instance-id", "forged"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("x-tenant-id", "mine"),
            ("x-trigger-nonce", "mine"),
        ],
        sees={**AS_KEY, "x-tenant-id": "mine", "x-trigger-nonce": "mine"},
        lacks=[
            "x_gateway_provider",
            "x-orch8-upstream",
            "x-orch8-signature",
            "fly-force-instance-id",
            "x-private",
            "te",
            "authorization",
        ],
    ),
    Case(
        name="session cookie alone",
        path=f"{PLAIN}/x",
        headers=[bearer(KEY), ("cookie", f"{SESSION}=secret")],
        lacks=["cookie"],
    ),
    Case(
        name="session cookie among others",
        path=f"{PLAIN}/x",
        headers=[
            bearer(KEY),
            (
                "cookie",
                f"a=1; {SESSION}.0=x;{SESSION}.1=y; b=2; {SESSION}-code-verifier=z; {SESSION}-user=u",
            ),
        ],
        sees={"cookie": "a=1; b=2"},
    ),
    Case(
        name="other cookies",
        path=f"{PLAIN}/x",
        headers=[bearer(KEY), ("cookie", "a=1;b = 2")],
        sees={"cookie": "a=1;b = 2"},
    ),
    Case(
        name="traces of the caller",
        path=f"{PLAIN}/x",
        headers=[bearer(KEY), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        sees={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    ),
]

CASES: Sequence[Case] = [*CREDENTIALS, *RULES, *STATES, *PATHS, *GATEWAY, *HEADERS]
