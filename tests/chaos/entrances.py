"""The world of "at once": one server, a proxy that decides behind Envoy, and two that carry the bytes themselves."""

from pathlib import Path

from tests.chaos import engine
from tests.chaos.nemesis import ENDS, HALTS_S, LINES_S, Lane
from tests.chaos.relay import Place, Relay
from tests.chaos.world import EDGE, World
from tests.support.parts import Parts
from tests.support.stack import free_port

SERVER = "serve"
DECIDING, DIRECT, STRICT = "proxy", "direct", "direct-strict"
PROXIES = (DECIDING, DIRECT, STRICT)
# One outlives a restart of the server, one most halts, and one nothing.
STALE_S = {DECIDING: 10.0, DIRECT: 2.5, STRICT: 0.0}
CONFIRM_S = 1.5
_PROXY_KINDS = (*HALTS_S, *ENDS, *LINES_S)
LANES = (
    # Without the server nothing changes, so it is left in peace for longer.
    Lane((SERVER,), (*HALTS_S, *ENDS), calm=(2.0, 5.0)),
    Lane((DECIDING, DIRECT), _PROXY_KINDS, calm=(0.8, 3.0)),
    Lane((STRICT,), _PROXY_KINDS, calm=(0.8, 3.0)),
)


class Entrances(World):
    """Three ways in, each at a port of its own."""

    def __init__(self, folder: Path) -> None:
        port, server = free_port(), folder / "server.sock"
        own = {name: {"ORCH8_PROXY_ID": name, "ORCH8_STALE_LIMIT": str(STALE_S[name])} for name in PROXIES}
        own[STRICT]["ORCH8_PROXY_LISTEN"] = f"127.0.0.1:{port}"
        lines = {name: Relay(folder / f"{name}.line", server) for name in PROXIES}
        for name in PROXIES:
            own[name]["ORCH8_SERVER_ADDR"] = f"unix:{folder}/{name}.line"
        settings = {
            "ORCH8_ENGINE_BIN": str(engine.install(folder)),
            "ORCH8_CONFIRM_TIMEOUT": str(CONFIRM_S),
            "ORCH8_DEFAULT_PLAN": "enterprise",
            "ORCH8_DEV_ALLOW_LOOPBACK": "1",
            "ORCH8_ACCESS_LOG": "false",
            # Busy at once, so that decisions are repeated and what is proved holds for them too.
            "ORCH8_BUSY_FROM": "0",
        }
        parts = Parts(folder, settings=settings, own=own)
        self.entrances = {EDGE: parts.port, DIRECT: parts.direct_port, STRICT: port}
        places: dict[str, Place] = {SERVER: server, DECIDING: folder / "proxy.sock", **self.entrances}
        super().__init__(folder, parts, lines, places)
