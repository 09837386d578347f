"""The three programs of the product, and what `up` tells each of them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rest_bridge.settings import EdgeSettings, ProxySettings
from server.domain.addresses import Address
from server.settings import ServerSettings
from server.up.credentials import COOKIE
from server.up.environment import inherited_environment
from server.up.keyring import Keyring
from server.up.options import HOST, Options

# `up` is reached by plain HTTP on this machine only.
WITHHELD = ("ORCH8_TLS_CERT_FILE", "ORCH8_TLS_KEY_FILE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A program, how it is started, and where it listens when it is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    address: Address


def parts(options: Options, keyring: Keyring, run_dir: Path) -> tuple[Part, ...]:
    """The product. They stop in this order: first nothing comes in any more, and the engines end last."""
    values = variables(options, keyring, run_dir)
    inherited = {name: value for name, value in inherited_environment().items() if name not in WITHHELD}
    environment = inherited | values | {"PYTHONUNBUFFERED": "1"}
    addresses = {
        "edge": Address(host=HOST, port=options.port),
        "proxy": Address.parse(values["ORCH8_PROXY_LISTEN"]),
        "server": Address.parse(values["ORCH8_SERVER_LISTEN"]),
    }
    commands = {"edge": "edge", "proxy": "proxy", "server": "serve"}
    return tuple(
        Part(
            name=name,
            # -P: a folder named "server" where the user happens to be is not ours.
            command=(sys.executable, "-P", "-m", "server", commands[name]),
            environment=environment,
            address=address,
        )
        for name, address in addresses.items()
    )


def variables(options: Options, keyring: Keyring, run_dir: Path) -> dict[str, str]:
    """The settings that `up` decides, whatever the environment says."""
    server, proxy, streams = (f"unix:{run_dir / name}.sock" for name in ("server", "proxy", "streams"))
    chosen = {
        "ORCH8_DATA_DIR": str(options.data_dir),
        "ORCH8_SERVER_LISTEN": server,
        "ORCH8_SERVER_ADDR": server,
        "ORCH8_PROXY_LISTEN": proxy,
        "ORCH8_PROXY_ADDR": proxy,
        "ORCH8_STREAMS_LISTEN": streams,
        "ORCH8_STREAMS_ADDR": streams,
        "ORCH8_PROXY_ID": "up-local",
        "ORCH8_DATAPLANE_TOKEN": keyring.dataplane_token,
        "ORCH8_SECRET_KEY": keyring.secret_key,
        "ORCH8_SUPABASE_JWT_SECRET": keyring.supabase_jwt_secret,
        "ORCH8_SESSION_COOKIE": COOKIE,
        "ORCH8_LISTEN": f"{HOST}:{options.port}",
        "ORCH8_EDGE_ADMIN_ADDR": f"unix:{run_dir / 'admin.sock'}",
        "ORCH8_PUBLIC_URL": options.url,
        # Nobody spreads load over what runs here, and Ctrl-C should be quick.
        "ORCH8_DRAIN_DELAY": "0",
    }
    # The packaged rates are for a service that many share. Here only those apply that somebody asked for.
    if not inherited_environment().keys() & {"ORCH8_PLANS_FILE", "ORCH8_TRAFFIC_LIMITS"}:
        chosen["ORCH8_TRAFFIC_LIMITS"] = "false"
    return chosen | ({"ORCH8_DEFAULT_PLAN": options.plan} if options.plan else {})


def check_settings(values: Mapping[str, str]) -> ServerSettings:
    """Reads the settings as the parts will, so that a wrong one is told before anything runs.

    Raises SettingsError.
    """
    chosen = {name.removeprefix("ORCH8_").lower(): value for name, value in values.items()}
    EdgeSettings.read(**chosen, tls_cert_file=None, tls_key_file=None)
    ProxySettings.read(**chosen)
    settings = ServerSettings.read(**chosen)
    settings.plans()
    return settings
