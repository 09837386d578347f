"""The world of creates: servers on one database, a proxy and the edge, with engines at a Fly that loses answers too."""

import random
from pathlib import Path

from tests.chaos.nemesis import Lane
from tests.chaos.relay import Place, Relay
from tests.chaos.world import EDGE, World
from tests.support.fly.cloud import Fly
from tests.support.fly.settings import fly_settings
from tests.support.parts import Parts
from tests.support.stack import free_port

PROXY = "proxy"
SERVERS = {"sqlite": ("serve",), "postgres": ("serve-1", "serve-2", "serve-3")}
# Of all replies, between client and edge and between server and Fly.
LOST = 0.3
FAILING = 0.05
KILLS = ("kill", "kill after a halt", "kill")
# Each part is there for most of the time, so that more than refusals is proved.
CALM_S = {"sqlite": (3.0, 7.0), "postgres": (5.0, 12.0)}


class Fleet(World):
    """As many servers as the kind of database allows. Clients call at `entrance`, where answers are lost."""

    def __init__(self, folder: Path, kind: str, database: str, fly: Fly, rng: random.Random) -> None:
        self.servers, self.fly = SERVERS[kind], fly
        sockets = {name: folder / f"{name}.sock" for name in self.servers}
        own = {name: {"ORCH8_SERVER_LISTEN": f"unix:{path}"} for name, path in sockets.items()}
        own |= {name: {"ORCH8_SERVER_ADDR": f"unix:{folder}/{name}.line"} for name in (PROXY, EDGE)}
        parts = Parts(folder, settings=_settings(folder, database, fly), own=own)
        lines = {name: Relay(folder / f"{name}.line", *sockets.values()) for name in (PROXY, EDGE)}
        self.entrance = free_port()
        self.clients = Relay(self.entrance, parts.port, loses=lambda: self.is_losing and rng.random() < LOST)
        self.is_losing = False
        places: dict[str, Place] = {**sockets, PROXY: folder / "proxy.sock", EDGE: parts.port}
        super().__init__(folder, parts, {**lines, "clients": self.clients}, places)
        self.lanes = (
            *(Lane((name,), KILLS, CALM_S[kind]) for name in self.servers),
            # Not both at once: an edge that is there without its proxy serves the management API.
            Lane((PROXY, EDGE), (*KILLS, "line cut"), (3.0, 8.0)),
        )

    def lose(self) -> None:
        """From now on replies are lost at both hops, and Fly fails now and then."""
        self.is_losing = True
        self.fly.faults.fail(None, 503, times=None, probability=FAILING)
        self.fly.faults.drop(None, times=None, probability=LOST)

    def heal(self) -> None:
        """Nothing is lost any more."""
        self.is_losing = False
        self.fly.faults.clear()


def _settings(folder: Path, database: str, fly: Fly) -> dict[str, str]:
    return {
        **fly_settings(fly),
        # What a killed part leaves behind goes with the folder.
        "TMPDIR": str(folder),
        "ORCH8_DATABASE_URL": database,
        "ORCH8_DEFAULT_PLAN": "enterprise",
        "ORCH8_DEV_ALLOW_LOOPBACK": "1",
        "ORCH8_STALE_LIMIT": "2.5",
        "ORCH8_CONFIRM_TIMEOUT": "1.5",
        "ORCH8_ACCESS_LOG": "false",
    }
