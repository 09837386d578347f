"""Where the executions of the plan are used up: what starts runs is refused, and everything else passes."""

from collections.abc import Mapping

from tests.rest_bridge.data_path.cases.case import BY_KEY, Case, passes, refused
from tests.rest_bridge.proxy.cases import ANONYMOUS, API_KEY, FUTURE, PAST, SECRET, UNKNOWN_KEY, Instance, bearer

CAP = {"plan": "free", "quota": 1000}
HOOKS = [API_KEY, {**ANONYMOUS, "slug": "plain"}, {**API_KEY, "slug": "signed", "trigger_secret": SECRET}]
INSTANCES: Mapping[str, Instance] = {
    "inst_capped": Instance(policies=HOOKS, start_cap={**CAP, "until": FUTURE}),
    "inst_cappedbefore": Instance(policies=HOOKS, start_cap={**CAP, "until": PAST}),
    "inst_cappedasleep": Instance(status="suspended", start_cap={**CAP, "until": FUTURE}),
}
TUNNEL, GATEWAY = "/api/tunnel/inst_capped", "/api/gateway/inst_capped"
BODY = b'{"a":1}'
STARTS = (
    "instances",
    "instances/batch",
    "triggers/nightly/fire",
    "webhooks/plain",
    "api/v1/instances",
    "api/v1/instances/batch",
    "api/v1/triggers/nightly/fire",
    "api/v1/webhooks/plain",
    # The same in other spellings, as some engine may read them.
    "instances?dry=1",
    "%69nstances",
    "instances/",
    "/instances",
    "instances/%62atch",
    "x/../instances",
    "api/v1//instances",
    "api\\v1\\instances",
    "triggers/a%20b/fire",
    "instances%0A",
)
OTHERS = (
    ("GET", "instances"),
    ("GET", "instances/batch"),
    ("GET", "instances/7/stream"),
    ("POST", "instances/7/signals"),
    ("POST", "sequences"),
    ("POST", "triggers"),
    ("DELETE", "triggers/nightly"),
    ("POST", "credentials"),
    ("POST", "workers/tasks/poll"),
    ("PUT", "artifacts/instances"),
    ("POST", "api/v1/sequences"),
    ("GET", "api/v1/instances"),
    ("POST", ""),
)

CASES: list[Case] = [
    *(
        refused(f"capped: {path}", f"{TUNNEL}/{path}", 429, "QUOTA_EXCEEDED", *BY_KEY, method="POST", body=BODY)
        for path in STARTS
    ),
    *(
        passes(f"not a start: {method} {path}", f"{TUNNEL}/{path}", *BY_KEY, method=method, engine_path=f"/{path}")
        for method, path in OTHERS
    ),
    refused("capped webhook", f"{GATEWAY}/plain", 429, "QUOTA_EXCEEDED", method="POST", body=BODY),
    refused("capped webhook, signed", f"{GATEWAY}/signed", 429, "QUOTA_EXCEEDED", *BY_KEY, method="POST", body=BODY),
    refused("a stranger hears nothing of the quota", f"{TUNNEL}/instances", 401, "UNAUTHENTICATED", method="POST"),
    refused(
        "nor does one with a bad key",
        f"{GATEWAY}/signed",
        401,
        "UNAUTHENTICATED",
        bearer(UNKNOWN_KEY),
        method="POST",
        body=BODY,
    ),
    refused(
        "a capped engine that sleeps is asleep first",
        "/api/tunnel/inst_cappedasleep/instances",
        409,
        "STATE_CONFLICT",
        *BY_KEY,
        method="POST",
    ),
    *(
        passes(f"in the next period: {path}", path, *BY_KEY, method="POST", body=BODY, engine_body=BODY)
        for path in ("/api/tunnel/inst_cappedbefore/instances", "/api/gateway/inst_cappedbefore/plain")
    ),
]
