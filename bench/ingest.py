"""`python -m bench.ingest`: how many run events a second are taken, and what that does to management calls meanwhile.

For each database the product is started with a server and an edge. First engines send one batch after the other; then
they send at the rate of the target, beside one caller who reads and changes something, all through Envoy. Exit codes as
those of `python -m bench`. Load generator, Envoy, server and database share the machine.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import httpx

from bench.errors import BenchFailed
from bench.exports import EVENTS, batches
from bench.options import RESULTS
from bench.processes import Programs, free_port
from bench.stack import HOST, Product, answers, settings_of
from server.domain.addresses import Address
from server.providers.runtime.environment import inherited_environment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ENGINES = 8
# Issue "Deployments, templates, runs and usage".
TARGETS = {"sqlite": 5_000, "postgres": 20_000}
WORSE = 2.0
_START_S = 60.0
_PAUSE_S = 0.02
_INSTANCE, _POLICY = "inst_bench0000", "pol_00000000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A row of the table. Times are those of management calls, in ms: alone, and beside events at the target."""

    database: str
    target_per_s: int
    most_per_s: float
    beside_per_s: float
    quiet_p99_ms: float
    beside_p99_ms: float

    @property
    def met(self) -> bool:
        """Whether as much is taken as is wanted, and management calls do not suffer."""
        return self.most_per_s >= self.target_per_s and self.beside_p99_ms <= WORSE * self.quiet_p99_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A server and an edge, and whoever calls them."""

    edge: Address
    http: httpx.AsyncClient
    engines: Sequence[Iterator[bytes]]
    keys: Sequence[str]
    token: str

    async def send(self, engine: int) -> None:
        """Reports the next batch of one engine."""
        headers = {"authorization": f"Bearer {self.keys[engine]}"}
        answer = await self.http.post("/api/ingest/v1/runs", content=next(self.engines[engine]), headers=headers)
        if answer.status_code != httpx.codes.ACCEPTED or answer.json()["rejected"]:
            raise BenchFailed(f"a batch was answered with {answer.status_code}: {answer.text[:200]}")

    async def manage(self, number: int) -> None:
        """Reads or changes something."""
        headers = {"authorization": f"Bearer {self.token}"}
        path = f"/api/instances/{_INSTANCE}/policies/{_POLICY}"
        if number % 2:
            answer = await self.http.get("/api/instances", headers=headers)
        else:
            answer = await self.http.patch(path, headers=headers, json={"enabled": number % 4 == 0})
        if not answer.is_success:
            raise BenchFailed(f"a management call was answered with {answer.status_code}: {answer.text[:200]}")


async def measure(seconds: float, databases: Sequence[str]) -> list[Line]:
    """Measures on each of the databases."""
    lines = []
    for database in databases:
        async with running(database) as world:
            lines.append(await _line(world, database, seconds))
        print(_text(lines[-1]), flush=True)
    return lines


def write(path: Path, section: str, lines: Sequence["DataclassInstance"]) -> None:
    """Writes figures down beside what the file has already."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content[section] = [asdict(line) for line in lines]
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


async def _line(world: World, database: str, seconds: float) -> Line:
    target = TARGETS[database]
    quiet = await _managed(world, seconds)
    most = await _sent(world, seconds, every=0.0)
    # At the rate of the target; each engine has its own turns.
    beside, busy = await asyncio.gather(
        _sent(world, seconds, every=ENGINES * EVENTS / target), _managed(world, seconds)
    )
    return Line(
        database=database,
        target_per_s=target,
        most_per_s=round(most),
        beside_per_s=round(beside),
        quiet_p99_ms=round(_p99(quiet), 1),
        beside_p99_ms=round(_p99(busy), 1),
    )


async def _sent(world: World, seconds: float, *, every: float) -> float:
    """Events a second that were taken, where each engine sends a batch every so many seconds, or when it can."""
    began = time.monotonic()

    async def engine(number: int) -> int:
        sent = 0
        while (due := began + (sent + number / ENGINES) * every) < began + seconds:
            if every:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            elif time.monotonic() > began + seconds:
                break
            await world.send(number)
            sent += 1
        return sent

    sent = sum(await asyncio.gather(*map(engine, range(ENGINES))))
    return sent * EVENTS / max(seconds, time.monotonic() - began)


async def _managed(world: World, seconds: float) -> list[float]:
    """How long management calls took, one after the other, in milliseconds."""
    until, took = time.monotonic() + seconds, list[float]()
    while (began := time.monotonic()) < until:
        await world.manage(len(took))
        took.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(_PAUSE_S)
    return took


def _p99(took: Sequence[float]) -> float:
    return quantiles(took, n=100, method="inclusive")[98]


def _text(line: Line) -> str:
    verdict = "met   " if line.met else "MISSED"
    return (
        f"{verdict}  {line.database}: {line.most_per_s:.0f} run events a second (wanted {line.target_per_s}); "
        f"management calls p99 {line.quiet_p99_ms:.1f} ms, and {line.beside_p99_ms:.1f} ms beside "
        f"{line.beside_per_s:.0f} events a second (at most {WORSE:g} times as long)"
    )


@asynccontextmanager
async def running(database: str) -> AsyncIterator[World]:
    """Everything, on a database of this kind."""
    with tempfile.TemporaryDirectory(prefix="orch8-bench-") as name, _url(database) as url:
        folder = Path(name)
        async with Programs(folder, inherited_environment()) as programs:
            product = Product(keys=ENGINES, folder=folder, edge=Address(host=HOST, port=free_port()), direct=None)
            await _start(programs, product, url)
            ready = json.loads(product.ready.read_text())
            async with httpx.AsyncClient(base_url=f"http://{product.edge}", timeout=30, trust_env=False) as http:
                world = World(
                    edge=product.edge,
                    http=http,
                    engines=[batches(number) for number in range(ENGINES)],
                    keys=ready["engines"],
                    token=ready["calls"][0]["token"],
                )
                await asyncio.gather(*map(world.send, range(ENGINES)))
                yield world


@contextmanager
def _url(database: str) -> Iterator[str]:
    """Empty for SQLite, in the data folder. Postgres is the one of the tests, but as careful as in production."""
    if database == "sqlite":
        yield ""
        return
    from tests.support.postgres import Postgres

    server = Postgres(fsync="on", autovacuum="on", shared_buffers="256MB", wal_level="replica")
    try:
        server.start()
        yield server.url(server.create())
    finally:
        server.close()


async def _start(programs: Programs, product: Product, url: str) -> None:
    settings = settings_of(product) | {"ORCH8_DATABASE_URL": url}
    nowhere = ("--upstream", f"{HOST}:9", "--issuer", f"http://{HOST}:9")
    seeding = (*nowhere, "--keys", str(product.keys), "--ready", str(product.ready))
    await programs.start("server", sys.executable, "-m", "bench.control_plane", *seeding, env=settings)
    await programs.start("edge", sys.executable, "-P", "-m", "server", "edge", env=settings, quiet=True)

    async def seeded() -> bool:
        return product.ready.exists()

    await programs.until(seeded, what="the server", within=_START_S)
    await answers(programs, product.edge, "/healthz", "the edge")


def main() -> int:
    """Says in words why a run failed."""
    parser = argparse.ArgumentParser(prog="bench.ingest", description="Measures how fast run events are taken.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the three measurements of a database")
    parser.add_argument("--database", choices=list(TARGETS), nargs="+", default=list(TARGETS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    given = parser.parse_args()
    try:
        lines = asyncio.run(measure(given.seconds, given.database))
    except BenchFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    write(given.results, "ingest", lines)
    return 1 if given.strict and not all(line.met for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
