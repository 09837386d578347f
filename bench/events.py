"""`python -m bench.events`: how many may follow the events of one server, and how late they are told.

An engine reports runs through Envoy, so many events a second, while subscribers of one organization read server-sent
events through Envoy. Each has to be told of everything. Load, Envoy, server and database share the machine.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

from bench.errors import BenchFailed
from bench.exports import EVENTS
from bench.ingest import World, running, write
from bench.options import RESULTS

# Issue "Deployments, templates, runs and usage".
SUBSCRIBERS, EVENTS_PER_S = 2_000, 500
# How late somebody may be at the end to count as one who keeps up.
BEHIND_S = 5.0
_AT_ONCE = 50
_CATCH_UP_S = 60.0
_EVENT = b"event: run."


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What came of it. `late_…`: in how many seconds a share of the subscribers had the last event."""

    subscribers: int
    events_per_s: float
    told_per_s: float
    late_p50_s: float
    late_p99_s: float

    @property
    def met(self) -> bool:
        """Whether as many as are wanted are told as fast as events come."""
        return self.subscribers >= SUBSCRIBERS and self.late_p99_s <= BEHIND_S


class Reader(asyncio.Protocol):
    """Follows the stream, and counts the events of runs."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._rest = b""
        self.events = 0
        self.told_at = 0.0
        self.trouble = ""
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks."""
        head = f"GET /api/events?kinds=run HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._token}\r\n\r\n"
        transport.write(head.encode())  # type: ignore[attr-defined]  # it is a transport of a connection

    def data_received(self, data: bytes) -> None:
        """Counts, also what is cut in two."""
        if not self.open.done():
            self.open.set_result(data.partition(b"\r\n")[0])
        seen = self._rest + data
        self.events += seen.count(_EVENT)
        self._rest = seen[-len(_EVENT) + 1 :]
        if b"event: stream." in seen:
            self.trouble = seen[seen.index(b"event: stream.") :][:200].decode(errors="replace")
        self.told_at = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody may be cut off."""
        self.trouble = self.trouble or f"the stream ended: {exc}"


async def measure(database: str, subscribers: int, seconds: float) -> Line:
    """Measures with so many subscribers for so long."""
    async with running(database) as world:
        readers = await _readers(world, subscribers)
        sent, rate = await _report(world, seconds)
        ended = time.monotonic()
        told = await _caught_up(readers, sent)
    late = [max(0.0, at - ended) for at in told]
    cuts = quantiles(late, n=100, method="inclusive")
    return Line(
        subscribers=subscribers,
        events_per_s=round(rate),
        told_per_s=round(rate * subscribers),
        late_p50_s=round(cuts[49], 2),
        late_p99_s=round(cuts[98], 2),
    )


async def _readers(world: World, count: int) -> list[Reader]:
    loop, readers = asyncio.get_running_loop(), list[Reader]()
    while len(readers) < count:
        some = [Reader(world.token) for _ in range(min(_AT_ONCE, count - len(readers)))]
        for reader in some:
            await loop.create_connection(partial(_given, reader), world.edge.host, world.edge.port)
        async with asyncio.timeout(_CATCH_UP_S):
            heads = await asyncio.gather(*(reader.open for reader in some))
        if refused := next((head for head in heads if b" 200 " not in head), None):
            raise BenchFailed(f"after {len(readers)} subscribers one was answered {refused.decode(errors='replace')}")
        readers += some
    return readers


def _given(reader: Reader) -> Reader:
    return reader


async def _report(world: World, seconds: float) -> tuple[int, float]:
    """Reports so many events a second, a batch at a time, and gives how many they were, and how many a second."""
    began, batches = time.monotonic(), 0
    while (due := began + batches * EVENTS / EVENTS_PER_S) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await world.send(0)
        batches += 1
    return batches * EVENTS, batches * EVENTS / max(seconds, time.monotonic() - began)


async def _caught_up(readers: Sequence[Reader], sent: int) -> list[float]:
    """When each had been told of everything."""
    until = time.monotonic() + _CATCH_UP_S
    while slow := [reader for reader in readers if reader.events < sent]:
        if trouble := next((reader.trouble for reader in readers if reader.trouble), ""):
            raise BenchFailed(f"a subscriber was cut off: {trouble}")
        if time.monotonic() > until:
            raise BenchFailed(f"{len(slow)} of {len(readers)} were told {slow[0].events} of {sent} events, or so")
        await asyncio.sleep(0.05)
    return [reader.told_at for reader in readers]


def main() -> int:
    """Says in words why a run failed."""
    parser = argparse.ArgumentParser(prog="bench.events", description="Measures how many may follow events.")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which events are reported")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where the target is missed")
    given = parser.parse_args()
    try:
        line = asyncio.run(measure(given.database, given.subscribers, given.seconds))
    except BenchFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    write(given.results, "events", [line])
    print(
        f"{'met   ' if line.met else 'MISSED'}  {line.subscribers} subscribers (wanted {SUBSCRIBERS}) of "
        f"{line.events_per_s:.0f} events a second (wanted {EVENTS_PER_S}), {line.told_per_s:.0f} told a second; "
        f"the last event was late by {line.late_p50_s:.2f} s (p50) and {line.late_p99_s:.2f} s (p99)"
    )
    return 1 if given.strict and not line.met else 0


if __name__ == "__main__":
    sys.exit(main())
