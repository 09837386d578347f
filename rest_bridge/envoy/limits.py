"""How much and how long the edge allows."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes and times in seconds. Tests shorten them; nothing else changes them."""

    body: int = MIB
    """The largest body of a management call, and of a gateway call, which is signed as a whole."""

    answer: int = 16 * MIB
    """The largest answer of a management call, in JSON. The server's own limit is 4 MiB in protobuf."""

    stream_buffer: int = 128 * 1024
    """What one stream may hold back in each direction; beyond it the sender is stopped."""

    headers_kib: int = 60
    headers_count: int = 100

    added_kib: int = 4
    added_headers: int = 16
    """Room for what is added on the way: Envoy holds a request to the same limits again once it is decided, and
    callers who keep to those above must not fail then. So a few more pass than are promised."""

    connections: int = 20_000
    streams: int = 128
    """HTTP/2 streams on one connection."""

    headers_timeout: float = 15
    management_timeout: float = 30
    readiness_timeout: float = 3
    """Whoever asks whether the service is ready wants to know now."""

    decision_timeout: float = 5
    """The proxy may have to ask the server before it can decide."""

    connect_timeout: float = 5
    stream_idle: float = 300
    """Longer than any long poll, with no byte in either direction."""

    connection_idle: float = 3600
