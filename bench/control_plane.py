"""The control plane of a row, as a program: the real server, on a database that was filled before it started.

It differs from `orch8-cloud serve` in its runtime alone. `--ready` is written, as JSON, when it answers and its
reconciler has nothing more to do: the calls that must pass, and the keys with which engines report.
"""

import argparse
import asyncio
import signal
from dataclasses import asdict
from pathlib import Path

from bench.runtime import OneUpstream
from bench.seed import ingest_keys, seed
from server import logs
from server.app import open_database, running
from server.domain.addresses import Address
from server.providers.runtime.base import Upstream
from server.services.identifiers import utc_now
from server.settings import ServerSettings
from server.store.database import Database
from server.up.files import write_private
from server.workers.reconcile import LEASE

_POLL_S = 0.1


async def main(*, upstream: Address, issuer: str, keys: int, ready: Path) -> None:
    """Serves until SIGTERM."""
    logs.configure("bench")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = ServerSettings.read()
    engine = Upstream(host=upstream.host, port=upstream.port)
    async with open_database(settings) as database:
        calls = await seed(database, keys=keys, upstream=engine, issuer=issuer, now=utc_now())
        engines = await ingest_keys(database)
    async with running(settings, OneUpstream(engine)) as app:
        await _at_rest(app.database)
        write_private(ready, {"calls": [asdict(call) for call in calls], "engines": engines})
        await stop.wait()


async def _at_rest(database: Database) -> None:
    """Returns once no instance is due, nor being worked on: the server makes all of them due when it starts."""
    while True:
        now = utc_now()
        async with database.read() as tx:
            # Asked about a time when all leases are over: then those that are being worked on count too.
            due = await tx.instances.next_due(now + 2 * LEASE)
        if due is None or due > now:
            return
        await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", type=Address.parse, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    asyncio.run(main(**vars(parser.parse_args())))
