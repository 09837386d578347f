"""Which headers cross the proxy (contract, "What the engine sees"). Names are lower case, as ASGI gives them."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from urllib.parse import quote

from rest_bridge.reserved import OURS, SPOOFS

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = Sequence[Header]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
SIGNATURE = b"x-orch8-signature"
_FORWARDED_FOR = b"x-forwarded-for"
_FORWARDED_PROTO = b"x-forwarded-proto"
REQUEST_ID = b"x-request-id"
# The cookies of Supabase's first clients, which the server still takes: bare tokens.
OLDEST_SESSION = (b"sb-access-token", b"sb-refresh-token")

# Set by the client library on the way to the engine, or answered by the proxy itself.
_OURS_TO_WRITE = frozenset({b"host", b"content-length", b"expect", b"http2-settings"})
_DROPPED = HOP_BY_HOP | _OURS_TO_WRITE | {b"authorization"}
# Callers are told about one limit, the plan's: an engine's own would be read as that, or stand beside it.
RATE_LIMIT = (b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset")
_NOT_TO_CALLERS = frozenset({b"x-api-key", REQUEST_ID, *RATE_LIMIT})
_INTERNAL = tuple(prefix.encode() for prefix in OURS)
_SPOOFS = frozenset(name.encode() for name in SPOOFS)
# Envoy joins two Cookie headers with a comma, where one header has semicolons.
_COOKIES = re.compile(rb"[;,]\s*(?=[^=;,\s]+=)|;")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def is_valid_name(name: str) -> bool:
    """Whether this can be sent as a (lower case) header name."""
    return _NAME.fullmatch(name) is not None


def header_text(text: str) -> bytes:
    """A text that callers choose, as a header value: whatever is not visible ASCII, and %, is percent-encoded."""
    return quote(text, safe=_VISIBLE, errors="surrogatepass").encode()


def is_valid_value(value: str) -> bool:
    """Whether this can be sent as a header value."""
    return _VALUE.fullmatch(value) is not None


def with_origin(headers: Headers, client: str | None, scheme: str) -> list[Header]:
    """The headers with who calls at the end of x-forwarded-for, and how in x-forwarded-proto."""
    before = get_all(headers, _FORWARDED_FOR)
    others = [header for header in headers if header[0] not in (_FORWARDED_FOR, _FORWARDED_PROTO)]
    chain = b",".join([*before, client.encode()] if client else before)
    return [*others, *([(_FORWARDED_FOR, chain)] if chain else []), (_FORWARDED_PROTO, scheme.encode())]


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """Every value of a header, in order."""
    return [value for key, value in headers if key == name]


def asks_for_stream(headers: Headers) -> bool:
    """Whether a request says that its answer goes on: an upgrade, or server-sent events."""
    return any(
        name == b"upgrade" or (name == b"accept" and b"text/event-stream" in value.lower()) for name, value in headers
    )


def to_engine(headers: Headers, *, removed: Iterable[bytes], added: Headers) -> list[Header]:
    """The caller's headers as the engine sees them; `added` ones replace the caller's of the same name."""
    dropped = _DROPPED | set(removed) | {name for name, _ in added}
    keeps_signature = SIGNATURE not in dropped
    kept = [
        (name, value)
        for name, value in headers
        if name not in dropped and (not _is_forged(name) or (keeps_signature and name == SIGNATURE))
    ]
    kept += added
    return kept


def to_caller(headers: Headers) -> list[Header]:
    """The engine's headers as the caller sees them: all but the hop's own, what is ours to say, and internals."""
    lowered = [(name.lower(), value) for name, value in headers]
    dropped = HOP_BY_HOP | _named_in_connection(lowered) | _NOT_TO_CALLERS
    return [(name, value) for name, value in lowered if name not in dropped and not _is_internal(name)]


def without_session(cookies: Iterable[bytes], session_cookie: bytes) -> bytes | None:
    """The cookies without the session's: the cookie itself, its chunks (`.0`) and its siblings (`-code-verifier`).

    None where there was none of it, so nothing has to change; empty where nothing else remains.
    """
    joined = b"; ".join(cookies)
    if session_cookie not in joined and not any(name in joined for name in OLDEST_SESSION):
        return None
    pairs = [pair.strip() for pair in _COOKIES.split(joined)]
    others = [pair for pair in pairs if pair and not _is_session(pair, session_cookie)]
    return b"; ".join(others)


def _is_session(pair: bytes, session_cookie: bytes) -> bool:
    name = pair.partition(b"=")[0].strip()
    chunks = (session_cookie + b".", session_cookie + b"-")
    return name == session_cookie or name in OLDEST_SESSION or name.startswith(chunks)


def _named_in_connection(headers: Headers) -> set[bytes]:
    values = get_all(headers, b"connection")
    return {token.strip().lower() for value in values for token in value.split(b",")} if values else set()


def _is_internal(name: bytes) -> bool:
    return name.startswith(_INTERNAL) or name == b"x-api-key"


def _is_forged(name: bytes) -> bool:
    # Some programs read x_gateway_subject as x-gateway-subject.
    name = name.replace(b"_", b"-")
    return name.startswith(_INTERNAL) or name in _SPOOFS
