"""Request headers that only we may write, on both data paths."""

# All names that begin so, in any spelling with hyphens and underscores.
OURS = ("x-gateway-", "x-orch8-", "fly-", "x-envoy-")
# Single names: what engines and the programs behind them take for the truth about a caller.
SPOOFS = (
    "x-api-key",
    "x-caller-signature",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "forwarded",
    "true-client-ip",
    "cf-connecting-ip",
    "proxy-authorization",
    "proxy-authenticate",
    "keep-alive",
    "trailer",
)
