"""Which addresses users may make us call. Pure: nothing is resolved here (server/identity/egress.py does that)."""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL = 2048
MAX_NAME = 253
# RFC 6052: the last 32 bits are an IPv4 address.
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# RFC 8215: translated too, but which bits are the IPv4 address is each network's own choice.
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
# RFC 4291 section 2.5.5.1, deprecated and still routed to the IPv4 address by some stacks.
COMPATIBLE = ipaddress.ip_network("::/96")
# RFC 1123, 2.1, and the underscore that DNS has besides. A last label of digits belongs to an address, never to a name.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!\d+\.?$){_LABEL}\.?", re.ASCII | re.IGNORECASE)


class Refused(Exception):
    """The address is one that users may not make us call, or the answer is more than we take."""


def embedded(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 address that only carries one, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    carried = address.ipv4_mapped or address.sixtofour
    if carried is None and address.teredo:
        carried = address.teredo[1]
    if carried is None and (address in NAT64 or address in COMPATIBLE) and int(address) > 1:
        carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return carried or address


def is_public(address: IPAddress) -> bool:
    """Whether an address is one of the internet's: global, one host, and no disguise of another kind."""
    real = embedded(address)
    # Both are global to the standard library: fec0::/10, site-local and deprecated, and what nobody can read.
    local = isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address in LOCAL_NAT64)
    return real.is_global and not (real.is_multicast or real.is_reserved or address.is_multicast or local)


def check_url(url: str, *, allow_loopback: bool = False) -> str:
    """The host of a URL that users may give. Raises Refused with what to write instead."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Refused("is not a URL") from None
    if not host or len(url) > MAX_URL or not url.isascii() or any(char.isspace() or char in "\\" for char in url):
        raise Refused(f"must be an https URL of at most {MAX_URL} characters")
    if parts.username is not None or parts.password is not None:
        raise Refused("must not hold a user name or password")
    if parts.scheme != "https" and not (allow_loopback and parts.scheme == "http" and is_loopback_name(host)):
        raise Refused("must begin with https://")
    if is_loopback_name(host) and not allow_loopback:
        raise Refused("must not name this machine")
    literal = _literal(host)
    if port == 0 or (literal is None and (_NAME.fullmatch(host) is None or len(host) > MAX_NAME)):
        raise Refused("must name a host, and a port if any, that can exist")
    if literal is not None and not is_allowed(literal, allow_loopback=allow_loopback):
        raise Refused("must not name a private, loopback or link-local address")
    return host


def is_loopback_name(host: str) -> bool:
    """Whether a host is this machine by its name alone."""
    literal = _literal(host)
    # RFC 6761, 6.3: all names below localhost are this machine.
    return f".{host.removesuffix('.')}".endswith(".localhost") or (literal is not None and literal.is_loopback)


def _literal(host: str) -> IPAddress | None:
    """The address that a host is, in any notation that resolvers take for one: 127.1, 0x7f000001 and 2130706433 too."""
    host = host.removesuffix(".")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def is_allowed(address: IPAddress, *, allow_loopback: bool) -> bool:
    """Whether a connection may be made: public, or this machine where the development switch allows it."""
    return is_public(address) or (allow_loopback and embedded(address).is_loopback)
