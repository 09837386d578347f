"""Which headers are believed, from whom, and which stay between us."""

from itertools import product

from rest_bridge.envoy.fragments import Json, extension, set_headers
from rest_bridge.reserved import OURS, SPOOFS

# What the decision tells Envoy, and no engine may see.
CLUSTER = "x-orch8-cluster"
UPSTREAM = "x-orch8-upstream"

# The engine's proof of a webhook: a caller may send it, all else of this prefix is ours.
SIGNATURE = "x-orch8-signature"
_SIGNATURE_ASIDE = "x-caller-signature"
# Envoy refuses patterns of more than 100 of RE2's instructions, and this many names stay below.
_IN_A_PATTERN = 7

# The name under which the server learns which host the caller asked for.
HOST = "x-orch8-host"
# And which path, before transcoding, without the query: the server checks the path's variables with it.
PATH = "x-orch8-path"

# Marks Envoy's own answer to a gRPC request where no gRPC is served; see no_grpc.lua. It never leaves.
NO_GRPC = "x-orch8-no-grpc"

# What the proxy needs to decide; method, path, host and authorization are always sent.
ASKED_WITH = (
    "authorization",
    "cookie",
    "content-type",
    "x-request-id",
    "x-forwarded-for",
    SIGNATURE,
    "x-trigger-timestamp",
    "x-trigger-nonce",
    "upgrade",
    "accept",
    "traceparent",
)

# What the decision may set on the request to the engine.
DECIDED = (
    UPSTREAM,
    CLUSTER,
    "x-gateway-provider",
    "x-gateway-subject",
    "x-api-key",
    "cookie",
    "x-trigger-timestamp",
    "x-trigger-nonce",
    SIGNATURE,
    "fly-force-instance-id",
    "traceparent",
)

# What a refusal tells the caller, and an allowed request's answer.
DECISION_ID = "x-orch8-decision-id"
RATE_LIMIT = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
REFUSED_WITH = ("content-type", "www-authenticate", "retry-after", DECISION_ID, *RATE_LIMIT)
# What the answer to a request that was let in tells the caller. On the way these are kept in Envoy's metadata.
ALLOWED_WITH = (DECISION_ID, *RATE_LIMIT)

# Whose the instance of a tunnel or gateway request is, and which: for the access log, kept as the above are.
WHOSE = (ORG, INSTANCE) = ("x-orch8-org", "x-orch8-instance")

# What Envoy or the decision added on the way, and what ends at each hop.
NOT_FOR_ENGINES = (
    CLUSTER,
    UPSTREAM,
    "x-envoy-internal",
    "x-envoy-external-address",
    "te",
    "expect",
    "http2-settings",
)
# What an engine may not say to a caller, besides all that is ours. The request id that a caller sees is the edge's, and
# the limit is the plan's: an engine's own would be read as that, or stand beside it.
NOT_FROM_ENGINES = (
    "x-api-key",
    "x-request-id",
    *RATE_LIMIT,
    "proxy-authenticate",
    "proxy-authorization",
    "trailer",
    "keep-alive",
)

CORS_REQUEST = (
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "last-event-id",
    "x-request-id",
    "x-tenant-id",
    "x-grpc-web",
    "x-user-agent",
    "grpc-timeout",
    "traceparent",
    "tracestate",
)
CORS_ANSWER = (
    "etag",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "idempotent-replayed",
    *RATE_LIMIT,
    "retry-after",
    "www-authenticate",
    DECISION_ID,
    "x-orch8-version",
    "x-request-id",
)


def patterns(names: tuple[str, ...]) -> Json:
    """A list of exact names, as a matcher."""
    return {"patterns": [{"exact": name} for name in names]}


def strip_request() -> list[Json]:
    """Removes what only we may say, before anything reads the request.

    Envoy carries these out in their order. No pattern can say "this prefix but for one name", so the caller's signature
    is put aside first and put back last.
    """
    return [
        *({"remove": spelling} for spelling in spellings(_SIGNATURE_ASIDE)),
        {"append": set_headers({_SIGNATURE_ASIDE: f"%REQ({SIGNATURE})%"})[0]},
        *({"remove_on_match": {"key_matcher": {"safe_regex": {"regex": pattern}}}} for pattern in _forgeable()),
        {"append": set_headers({SIGNATURE: f"%REQ({_SIGNATURE_ASIDE})%"})[0]},
        {"remove": _SIGNATURE_ASIDE},
    ]


def _forgeable() -> list[str]:
    """Patterns of the names that only we may write, in any spelling with hyphens and underscores.

    Envoy tries each pattern on each header, so a few large ones cost a request less than many names.
    """
    names = [f"{_loose(prefix)}.*" for prefix in OURS]
    names += [_loose(name) for name in SPOOFS if name != _SIGNATURE_ASIDE]
    return ["|".join(names[first : first + _IN_A_PATTERN]) for first in range(0, len(names), _IN_A_PATTERN)]


def _loose(name: str) -> str:
    return name.replace("-", "[-_]")


def strip_answer() -> Json:
    """A filter that removes from an engine's answer what only we may say, and what ends at each hop."""
    mutations = [
        *({"remove": name} for name in NOT_FROM_ENGINES),
        *({"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in OURS),
    ]
    kind = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
    return extension("envoy.filters.http.header_mutation", kind, mutations={"response_mutations": mutations})


def spellings(name: str) -> list[str]:
    """A name with hyphens, underscores or both: many programs read x_api_key as x-api-key."""
    first, *others = name.split("-")
    ways = product(*(("-" + part, "_" + part) for part in others))
    return [first + "".join(way) for way in ways]
