"""Everything that the rows call: the upstream, the bare Envoy, and the product once for each size of database.

The sizes have a product each, with a server, a proxy and an edge of its own, so that the rows can be measured in turn
within one run; those that are not called are idle. The parts are started as in production, by their own commands,
except that the server's engines are the upstream (control_plane.py). All Envoys have one worker.
"""

import asyncio
import base64
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import envoys
from bench.generators import Target, write_calls
from bench.issuer import Issuer, new_issuer
from bench.processes import Programs, free_port
from bench.seed import OIDC_INSTANCE, PLAN, tunnel
from server.domain.addresses import Address

HOST = "127.0.0.1"
# 100 000 keys take about 20 s on a small machine.
_START_S = 180.0
_READY_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table: its name, what is called, and whether that needs a credential."""

    name: str
    target: Target
    guarded: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One running product. `ready` is what its control plane writes when it is."""

    keys: int
    folder: Path
    edge: Address
    direct: Address | None

    @property
    def ready(self) -> Path:
        """What its control plane writes once it answers."""
        return self.folder / "ready.json"

    @property
    def proxy(self) -> Address:
        """Where its proxy listens for Envoy."""
        return Address(path=str(self.folder / "proxy.sock"))


async def start(programs: Programs, folder: Path, many: Sequence[int]) -> list[Row]:
    """Starts it all, and returns the rows when everything answers. `many` are the sizes of the rows with many keys."""
    upstream, bare = _address(), _address()
    issuer = new_issuer(f"http://{upstream}")
    for name, config in (
        ("upstream", envoys.upstream(upstream, issuer.documents)),
        ("bare-envoy", envoys.bare(bare, upstream)),
    ):
        await programs.start(name, *envoys.command(config, folder / f"{name}.json"))
    await answers(programs, upstream, "/", "the upstream")
    await answers(programs, bare, "/", "the bare Envoy")
    products = [await _start_product(programs, folder, keys, upstream, issuer) for keys in (1, *many)]
    await asyncio.gather(*(_wait_for(programs, product) for product in products))
    plain = {"upstream": upstream, "bare-envoy": bare}
    return [
        *(_row(folder, name, address, [("/sequences", "")], guarded=False) for name, address in plain.items()),
        *_guarded_rows(folder, products, issuer),
    ]


def _guarded_rows(folder: Path, products: Sequence[Product], issuer: Issuer) -> list[Row]:
    one, *many = products
    calls = {product.keys: _calls(product) for product in products}
    rows = [
        ("tunnel-api-key", one.edge, calls[one.keys]),
        ("tunnel-oidc", one.edge, [(tunnel(OIDC_INSTANCE), issuer.token)]),
        *((f"tunnel-api-key-{product.keys}", product.edge, calls[product.keys]) for product in many),
    ]
    if one.direct is not None:
        rows.append(("direct-api-key", one.direct, calls[one.keys]))
    return [_row(folder, name, address, sample, guarded=True) for name, address, sample in rows]


def _calls(product: Product) -> list[tuple[str, str]]:
    return [(call["path"], call["token"]) for call in json.loads(product.ready.read_text())["calls"]]


def _row(folder: Path, name: str, address: Address, calls: Sequence[tuple[str, str]], *, guarded: bool) -> Row:
    file = folder / f"{name}.calls"
    write_calls(file, calls)
    return Row(name=name, target=Target(address=address, calls=file, count=len(calls)), guarded=guarded)


async def _start_product(programs: Programs, folder: Path, keys: int, upstream: Address, issuer: Issuer) -> Product:
    """The direct path is measured with one key only."""
    home = folder / str(keys)
    home.mkdir()
    product = Product(keys=keys, folder=home, edge=_address(), direct=_address() if keys == 1 else None)
    settings = settings_of(product)
    seeding = ("--upstream", str(upstream), "--issuer", issuer.url, "--keys", str(keys), "--ready", str(product.ready))
    python = (sys.executable, "-P", "-m", "server")
    await programs.start(f"server-{keys}", sys.executable, "-m", "bench.control_plane", *seeding, env=settings)
    await programs.start(f"proxy-{keys}", *python, "proxy", env=settings)
    await programs.start(f"edge-{keys}", *python, "edge", env=settings, quiet=True)
    if product.direct is not None:
        listen = {"ORCH8_PROXY_LISTEN": str(product.direct)}
        await programs.start(f"direct-{keys}", *python, "proxy", "--direct", env=settings | listen)
    return product


def settings_of(product: Product) -> dict[str, str]:
    """As `orch8-cloud up` connects the parts. The plan has no limits, so that no row is slowed down by one."""
    plans = product.folder / "plans.toml"
    plans.write_text(f"[free]\n[{PLAN}]\n")
    server, streams = (f"unix:{product.folder / name}.sock" for name in ("server", "streams"))
    return {
        "ORCH8_DATA_DIR": str(product.folder / "data"),
        "ORCH8_SERVER_LISTEN": server,
        "ORCH8_SERVER_ADDR": server,
        "ORCH8_PROXY_LISTEN": str(product.proxy),
        "ORCH8_PROXY_ADDR": str(product.proxy),
        "ORCH8_STREAMS_LISTEN": streams,
        "ORCH8_STREAMS_ADDR": streams,
        "ORCH8_LISTEN": str(product.edge),
        "ORCH8_EDGE_ADMIN_ADDR": f"unix:{product.folder / 'admin.sock'}",
        "ORCH8_ENVOY_CONCURRENCY": str(envoys.CONCURRENCY),
        "ORCH8_DATAPLANE_TOKEN": secrets.token_urlsafe(32),
        "ORCH8_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "ORCH8_SUPABASE_JWT_SECRET": secrets.token_urlsafe(32),
        "ORCH8_PLANS_FILE": str(plans),
        "ORCH8_DEFAULT_PLAN": PLAN,
        # The issuer is on this machine.
        "ORCH8_DEV_ALLOW_LOOPBACK": "true",
    }


async def _wait_for(programs: Programs, product: Product) -> None:
    async def seeded() -> bool:
        return product.ready.exists()

    await programs.until(seeded, what=f"the server with {product.keys} keys", within=_START_S)
    await answers(programs, product.proxy, "/readyz", "the proxy")
    await answers(programs, product.edge, "/healthz", "the edge")
    if product.direct is not None:
        await answers(programs, product.direct, "/readyz", "the direct proxy")


async def answers(programs: Programs, address: Address, path: str, what: str) -> None:
    """Returns once something answers there. Raises BenchFailed."""
    transport = httpx.AsyncHTTPTransport(uds=address.path or None)
    base = "http://proxy" if address.is_unix else f"http://{address}"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:

        async def ready() -> bool:
            try:
                return (await client.get(path)).is_success
            except httpx.TransportError:
                return False

        await programs.until(ready, what=what, within=_READY_S)


def _address() -> Address:
    return Address(host=HOST, port=free_port())
