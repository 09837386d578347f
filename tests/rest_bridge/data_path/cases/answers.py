"""What callers see of an engine's answer, and of an engine that breaks."""

from tests.rest_bridge.data_path.cases.case import BY_KEY, PLAIN, Case, passes, refused

RAW = "/api/tunnel/inst_raw"
OURS = (
    "x-orch8-upstream",
    "x-orch8-cluster",
    "x-orch8-secret",
    "x-api-key",
    "x-gateway-subject",
    "x-gateway-provider",
    "fly-request-id",
    "fly-replay",
    "x-envoy-upstream-service-time",
    "keep-alive",
    "proxy-authenticate",
)

CASES: list[Case] = [
    *(
        refused(f"engine: {path}", RAW + path, 502, "ENGINE_ERROR", *BY_KEY, reached=True)
        for path in ("/nothing", "/half-a-head", "/garbage", "/reset")
    ),
    refused("engine breaks at the gateway", "/api/gateway/inst_rawhooks/nothing", 502, "ENGINE_ERROR", reached=True),
    *(
        passes(f"engine: {path}", RAW + path, *BY_KEY, status=status)
        for path, status in {
            "/hints": 200,
            "/processing": 200,
            "/no-content": 204,
            "/chunked": 200,
            "/trailers": 200,
            "/until-the-end": 200,
            "/odd-status": 299,
        }.items()
    ),
    passes("engine: not modified", f"{RAW}/not-modified", *BY_KEY, status=304, answers={"etag": '"1"'}),
    passes("engine: HEAD with a length", f"{RAW}/length", *BY_KEY, method="HEAD", answers={"content-length": "500"}),
    passes(
        "engine: internals",
        f"{RAW}/internals",
        *BY_KEY,
        hides=OURS,
        answers={"server": "engine", "retry-after": "9", "www-authenticate": "Bearer"},
    ),
    passes("engine: its own error", f"{PLAIN}/x?answer=500", *BY_KEY, status=500),
    passes("engine: its own 401", f"{PLAIN}/x?answer=401", *BY_KEY, status=401),
    passes("engine: its own 503", f"{PLAIN}/x?answer=503", *BY_KEY, status=503),
    passes("engine: its own 403", f"{PLAIN}/x?answer=403", *BY_KEY, status=403, hides=OURS),
    passes(
        "engine: a redirect", f"{RAW}/redirect", *BY_KEY, status=302, answers={"location": "http://169.254.169.254/"}
    ),
]
