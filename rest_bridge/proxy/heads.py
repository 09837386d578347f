"""What is wrong with the head of a request, before anybody is asked: the direct path refuses what Envoy refuses."""

import base64
import re
from binascii import Error

from rest_bridge.proxy import refusals
from rest_bridge.proxy.headers import Header, Headers, get_all
from rest_bridge.proxy.refusals import Refusal

# What callers may send (envoy/limits.py): both paths take as much.
MAX_HEAD = 60 * 1024
MAX_HEADERS = 100
MAX_NOMINATED = 10

_TARGET = re.compile(rb"(?:http://[^/?#]+)?/[^#]*|\*", re.DOTALL | re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:@\[\]-]*")
_WEBSOCKET = b"websocket"
# HTTP/2 without TLS. Nobody has to take it up, and clients offer it unasked.
_OFFER = b"h2c"
# These speak of the connection, or of the body, which goes on. All other names in Connection are headers that end here.
_OF_THE_CONNECTION = frozenset(
    {b"close", b"keep-alive", b"upgrade", b"http2-settings", b"te", b"content-length", b"transfer-encoding", b""}
)
# Without them a request looks as if it came from elsewhere, or goes elsewhere.
_NOT_TO_NOMINATE = frozenset({b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})


def check(method: bytes, target: bytes, version: str, headers: Headers) -> Refusal | None:
    """Why a request cannot be served, if so. `target` is the request line's."""
    if sum(len(name) + len(value) for name, value in headers) + len(target) > MAX_HEAD or len(headers) > MAX_HEADERS:
        return refusals.head_too_large(MAX_HEAD, MAX_HEADERS)
    if method == b"CONNECT":
        return refusals.bad_request("method")
    if _TARGET.fullmatch(target) is None:
        return refusals.bad_request("path")
    return _host(version, headers) or _framing(headers) or _upgrade(method, headers)


def end_to_end(headers: Headers) -> list[Header] | None:
    """The headers less those that Connection names. None where it names what it may not."""
    values = get_all(headers, b"connection")
    if not values:
        return list(headers)
    named = {token.strip().lower() for value in values for token in value.split(b",")} - _OF_THE_CONNECTION
    if len(named) >= MAX_NOMINATED or named & _NOT_TO_NOMINATE or any(name.startswith(b":") for name in named):
        return None
    return [header for header in headers if header[0] not in named]


def wanted_upgrade(headers: Headers) -> bytes | None:
    """The protocol that the caller wants to change to."""
    tokens = {token.strip().lower() for value in get_all(headers, b"connection") for token in value.split(b",")}
    upgrades = get_all(headers, b"upgrade")
    return b",".join(upgrades).strip().lower() if upgrades and b"upgrade" in tokens else None


def _host(version: str, headers: Headers) -> Refusal | None:
    hosts = get_all(headers, b"host")
    if not hosts and version == "1.1":
        return refusals.bad_request("host")
    return None if all(_HOST.fullmatch(host) for host in hosts) else refusals.bad_request("host")


def _framing(headers: Headers) -> Refusal | None:
    """A coding besides chunked would be lost on the way to the engine."""
    codings = get_all(headers, b"transfer-encoding")
    return refusals.bad_request("transfer-encoding") if any(one.lower() != b"chunked" for one in codings) else None


def _upgrade(method: bytes, headers: Headers) -> Refusal | None:
    wanted = wanted_upgrade(headers)
    if wanted is None:
        return None
    has_body = bool(get_all(headers, b"content-length") or get_all(headers, b"transfer-encoding"))
    if wanted == _WEBSOCKET and method == b"GET" and not has_body and _is_handshake(headers):
        return None
    # The parser takes what follows an offer for the other protocol, so a body would be lost.
    if wanted == _OFFER and not has_body:
        return None
    return refusals.bad_request("upgrade")


def _is_handshake(headers: Headers) -> bool:
    """RFC 6455, 4.2.1."""
    versions, given = get_all(headers, b"sec-websocket-version"), get_all(headers, b"sec-websocket-key")
    try:
        return versions == [b"13"] and len(given) == 1 and len(base64.b64decode(given[0], validate=True)) == 16
    except Error:
        return False
