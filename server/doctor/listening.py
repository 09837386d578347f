"""Where the parts listen: free, taken by others, or already ours. And whether they find each other."""

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import structlog

from rest_bridge.proxy.routes import ServerAway
from rest_bridge.proxy.server_link import ServerCalls
from server.configuration import PREFIX, Settings
from server.doctor.findings import Finding, bad, doubtful, good
from server.domain.addresses import Address, Addresses

PATIENCE_S = 2.0
# A key that nobody has: SHA-256 never gives it, as far as anybody knows.
NO_KEY = bytes(32)
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a part was told, not what we listen on


@dataclass(frozen=True, slots=True)
class Listening:
    """An address that a part will listen on, and the setting that says so."""

    setting: str
    address: Address


def addresses(settings: Settings, *names: str) -> list[Listening]:
    """The addresses of these settings that are set."""
    values = {name: getattr(settings, name) for name in names}
    return [Listening(f"{PREFIX}{name.upper()}", value) for name, value in values.items() if value is not None]


async def ports(part: str, wanted: Sequence[Listening], is_ours: Callable[[], Awaitable[bool]]) -> list[Finding]:
    """Whether a part can listen everywhere that it should, or runs already."""
    problems = {one: why for one in wanted if (why := _why_not(one.address)) is not None}
    listed = ", ".join(str(one.address) for one in wanted)
    if not problems:
        return [good(f"{part} listens", f"{listed}: free")]
    if await is_ours():
        return [good(f"{part} listens", f"{listed}: it runs already")]
    return [
        bad(f"{part} listens", f"{one.address} {why}", f"Free it, or set {one.setting} to another")
        for one, why in problems.items()
    ]


def _why_not(address: Address) -> str | None:
    """Why nobody can begin to listen there now; None where one can. Port 0 is always free."""
    if address.is_unix:
        return _why_not_file(Path(address.path))
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return _words(error)
    return None


def _why_not_file(path: Path) -> str | None:
    if not path.parent.is_dir():
        return "is in a folder that is not there"
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return "is in use by another program"
    return None


def _words(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is in use by another program"
        case errno.EACCES:
            return "is not for ordinary users"
        case errno.EADDRNOTAVAIL:
            return "is no address of this machine"
    return f"cannot be listened on ({error.strerror or error})"


def reachable(address: Address) -> Address:
    """Where one connects to what listens on this address."""
    return Address(host=ANYWHERE.get(address.host, address.host), port=address.port, path=address.path)


async def answers_as_ours(address: Address, *, tls: bool = False) -> bool:
    """Whether /healthz of an address answers as our parts do. Any certificate will do: it is only asked who it is."""
    near = reachable(address)
    transport = httpx.AsyncHTTPTransport(uds=near.path or None, verify=False)
    base = f"{'https' if tls else 'http'}://{'part' if near.is_unix else near}"
    async with httpx.AsyncClient(transport=transport, base_url=base, timeout=PATIENCE_S) as http:
        with suppress(httpx.HTTPError, ValueError):
            answer = await http.get("/healthz")
            body: Any = answer.json()
            return answer.status_code == 200 and isinstance(body, dict) and body.get("status") == "ok"
    return False


async def what_server_says(address: Address, token: str) -> str:
    """OK where the server takes the token, else the gRPC code of its answer, UNAVAILABLE where there is none."""
    near = Addresses((reachable(address),))
    calls = ServerCalls(addresses=near, token=token, proxy_id="doctor", log=structlog.get_logger())
    try:
        await calls.key(NO_KEY)
    except ServerAway as error:
        return str(error)
    finally:
        await calls.close()
    return "OK"


async def link(address: Address, token: str) -> Finding:
    """Whether the proxy finds the server, and they have the same token."""
    said = await what_server_says(address, token)
    if said == "OK":
        return good("proxy to server", f"{address} takes the data plane token")
    if said == "UNAUTHENTICATED":
        fix = "Set the same ORCH8_DATAPLANE_TOKEN for both"
        return bad("proxy to server", f"{address} does not take this data plane token", fix)
    fix = "Start the server, or correct ORCH8_SERVER_ADDR"
    return doubtful("proxy to server", f"nothing answers at {address} ({said})", fix)


def collector(settings: Settings, *, by_envoy: bool) -> list[Finding]:
    """Whether traces can be made and sent, where they are wanted. Envoy brings along what it needs for that."""
    where = settings.otlp_endpoint
    if where is None:
        return []
    if not by_envoy and find_spec("opentelemetry") is None:
        return [bad("traces", "OpenTelemetry is not installed here", "pip install 'orch8-cloud[otel]'")]
    return [neighbour("traces", where.address, "ORCH8_OTLP_ENDPOINT")]


def neighbour(check: str, address: Address, setting: str) -> Finding:
    """Whether something listens where a part will send what it has for it."""
    near = reachable(address)
    try:
        with (
            socket.socket(socket.AF_UNIX) if near.is_unix else socket.create_connection((near.host, near.port), 2) as to
        ):
            if near.is_unix:
                to.connect(near.path)
    except OSError as error:
        fix = f"Start it, or correct {setting}"
        return doubtful(check, f"nothing answers at {address} ({error.strerror or error})", fix)
    return good(check, f"{address} takes connections")
