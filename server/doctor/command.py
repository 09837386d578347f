"""`orch8-cloud doctor`: runs every check of the parts that are asked for."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import httpx

from rest_bridge.settings import EdgeSettings, ProxySettings
from server.configuration import PREFIX, Settings, SettingsError
from server.doctor import configuration, edge, listening, network
from server.doctor.findings import Finding, as_json, as_lines, bad, doubtful, good, has_failed
from server.domain.addresses import Addresses
from server.providers.runtime.base import RuntimeFailed
from server.providers.runtime.local_program import DEVELOPMENT, choose
from server.settings import ServerSettings

PARTS = ("server", "proxy", "edge")

S = TypeVar("S", bound=Settings)


async def doctor(parts: Sequence[str], *, json: bool) -> tuple[str, int]:
    """What there is to say about the parts, and the exit code: 1 where something has to be changed."""
    findings = await examine(parts or PARTS)
    return (as_json if json else as_lines)(findings), int(has_failed(findings))


async def examine(parts: Sequence[str]) -> list[Finding]:
    """Every finding, part by part."""
    found: list[Finding] = []
    if "server" in parts:
        found += await _part("server", ServerSettings, _server)
    if "proxy" in parts:
        found += await _part("proxy", ProxySettings, _proxy)
    if "edge" in parts:
        found += await _part("edge", EdgeSettings, _edge)
    # Both parts have the token, and the address of the world.
    return list(dict.fromkeys(found))


async def _part(name: str, kind: type[S], check: Callable[[S], Awaitable[list[Finding]]]) -> list[Finding]:
    """The checks of one part, which all need its settings."""
    try:
        settings = kind.read()
    except SettingsError as error:
        return [bad(f"{name} settings", str(error), "`orch8-cloud settings` lists them all")]
    try:
        return [
            good(f"{name} settings", "complete"),
            *await check(settings),
            *listening.collector(settings, by_envoy=kind is EdgeSettings),
        ]
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide what the others say
        return [bad(name, f"a check broke: {type(error).__name__}", "That is a fault of ours: report it")]


async def _server(settings: ServerSettings) -> list[Finding]:
    token = settings.dataplane_token.get_secret_value()

    async def runs() -> bool:
        return await listening.what_server_says(settings.server_listen, token) in ("OK", "UNAUTHENTICATED")

    wanted = listening.addresses(settings, "server_listen", "server_metrics_listen")
    async with httpx.AsyncClient(trust_env=False) as http:
        return [
            *configuration.public_url(settings),
            *configuration.secrets(settings),
            configuration.dataplane_token(token),
            configuration.plans(settings),
            configuration.templates(settings),
            *await network.database(settings),
            *await network.sessions(settings, http),
            *await network.fly(settings, http),
            *_engine(settings),
            *await listening.ports("server", wanted, runs),
        ]


def _engine(settings: ServerSettings) -> list[Finding]:
    """Which engine would run on this machine, where engines run here."""
    if getattr(settings, "runtime", "local") != "local":
        return []
    try:
        program = choose(settings.engine_bin)
    except RuntimeFailed as error:
        return [bad("engine", str(error), "Correct ORCH8_ENGINE_BIN")]
    if program.name == DEVELOPMENT and configuration.is_public(settings):
        fix = "Install orch8-server on the PATH, or name it in ORCH8_ENGINE_BIN"
        return [doubtful("engine", "only the development engine is here", fix)]
    return [good("engine", program.name)]


async def _proxy(settings: ProxySettings) -> list[Finding]:
    token = settings.dataplane_token.get_secret_value()

    async def runs() -> bool:
        return await listening.answers_as_ours(settings.proxy_listen)

    wanted = listening.addresses(settings, "proxy_listen", "streams_listen", "proxy_metrics_listen")
    return [
        *configuration.public_url(settings),
        configuration.dataplane_token(token),
        *[await listening.link(address, token) for address in settings.server_addr],
        *await listening.ports("proxy", wanted, runs),
    ]


async def _edge(settings: EdgeSettings) -> list[Finding]:
    async def runs() -> bool:
        return await listening.answers_as_ours(settings.listen, tls=settings.tls_cert_file is not None)

    wanted = listening.addresses(settings, "listen", "edge_admin_addr", "edge_metrics_listen")
    certificate = settings.tls_cert_file
    return [
        *configuration.exposure(settings),
        *([] if certificate is None else [edge.certificate(certificate)]),
        await edge.envoy(settings),
        *(found for name in ("server", "proxy", "streams") for found in _neighbours(settings, name)),
        *await listening.ports("edge", wanted, runs),
    ]


def _neighbours(settings: EdgeSettings, name: str) -> list[Finding]:
    addresses: Addresses = getattr(settings, f"{name}_addr")
    setting = f"{PREFIX}{name.upper()}_ADDR"
    return [listening.neighbour(f"edge to {name}", address, setting) for address in addresses]
