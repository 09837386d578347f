"""How an engine is laid out at Fly: its names, its machine, its volume, and how it is reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from server.providers.runtime.base import EngineSpec, Upstream
from server.providers.runtime.environment import engine_environment, reporting

# Metadata that says whose machine it is.
INSTANCE = "orch8_instance"
ORG = "orch8_org"
INSTALLATION = "orch8_installation"
# docs, dynamic request routing: exactly this machine, and no other in its place.
PIN = "fly-force-instance-id"
DATA = "/data"  # where the engine's image keeps its database
DATABASE = f"{DATA}/orch8.db"
GRPC_PORT = 50051
# An answer that goes on, and says nothing for so long, is cut by Fly's proxy; engines ping every 15 s.
IDLE_TIMEOUT_S = 600
RESTARTS = 10


class Routing(StrEnum):
    """How an engine is reached."""

    PINNED = "pinned"  # through Fly's proxy at one public address, with a header that names the machine
    PRIVATE = "private"  # at the machine's own address in Fly's private network, which we are in


@dataclass(frozen=True, kw_only=True, slots=True)
class FlyConfig:
    """The operator's choices. The token is a secret, and so may be the engines' further environment."""

    api_url: str
    token: str = field(repr=False)
    app: str
    # Which of those that share the app made a machine.
    installation: str
    image: str
    routing: Routing = Routing.PINNED
    public_url: str = ""
    cpu_kind: str = "shared"
    cpus: int = 1
    memory_mb: int = 512
    volume_gb: int = 1
    engine_port: int = 8080
    engine_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    suspend: bool = False
    requests_per_second: float = 1.0
    # The https address at which engines report their runs; empty: nowhere.
    report_to: str = ""

    @property
    def guest(self) -> dict[str, Any]:
        """The size of a machine."""
        return {"cpu_kind": self.cpu_kind, "cpus": self.cpus, "memory_mb": self.memory_mb}


def machine_name(instance_id: str) -> str:
    """The name of an instance's machine. Fly allows no underscore in it."""
    return instance_id.replace("_", "-")


def volume_request(config: FlyConfig, spec: EngineSpec) -> dict[str, Any]:
    """A volume, on a host where its machine fits too. Volumes have no metadata: the name alone says whose it is."""
    return {
        "name": spec.instance_id,
        "region": spec.region,
        "size_gb": config.volume_gb,
        "encrypted": True,
        "compute": config.guest,
    }


def machine_request(config: FlyConfig, spec: EngineSpec, volume_id: str) -> dict[str, Any]:
    """A machine that runs the engine on its volume. It holds the engine's secrets."""
    return {
        "name": machine_name(spec.instance_id),
        "region": spec.region,
        "config": {
            "image": config.image,
            "env": environment(config, spec),
            "guest": config.guest,
            "mounts": [{"volume": volume_id, "path": DATA}],
            "metadata": {INSTANCE: spec.instance_id, ORG: spec.org_id, INSTALLATION: config.installation},
            "restart": {"policy": "on-failure", "max_retries": RESTARTS},
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
            "services": [_service(config)] if config.routing is Routing.PINNED else [],
        },
    }


def environment(config: FlyConfig, spec: EngineSpec) -> dict[str, str]:
    """What the engine is told. The private network is IPv6; `[::]` takes both."""
    host = "0.0.0.0" if config.routing is Routing.PINNED else "[::]"  # noqa: S104 (inside the machine)
    told = engine_environment(spec, http=f"{host}:{config.engine_port}", grpc=f"{host}:{GRPC_PORT}", database=DATABASE)
    reports = reporting(spec, config.report_to, is_real=True) if config.report_to else {}
    return told | reports | dict(config.engine_env)


def _service(config: FlyConfig) -> dict[str, Any]:
    """What Fly's proxy may reach. It starts and stops nothing: a suspended instance stays suspended."""
    url = urlsplit(config.public_url)
    port = {
        "port": url.port or (443 if url.scheme == "https" else 80),
        "handlers": ["tls", "http"] if url.scheme == "https" else ["http"],
        "http_options": {"idle_timeout": IDLE_TIMEOUT_S},
    }
    return {
        "protocol": "tcp",
        "internal_port": config.engine_port,
        "autostart": False,
        "autostop": "off",
        "min_machines_running": 0,
        "ports": [port],
    }


def upstream(config: FlyConfig, machine_id: str, private_ip: str) -> Upstream:
    """How the engine in a machine is reached now. Its private address changes when Fly moves it to another host."""
    if config.routing is Routing.PRIVATE:
        return Upstream(host=private_ip, port=config.engine_port)
    url = urlsplit(config.public_url)
    tls = url.scheme == "https"
    return Upstream(host=url.hostname or "", port=url.port or (443 if tls else 80), tls=tls, headers={PIN: machine_id})
