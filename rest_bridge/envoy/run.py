"""The edge as a program: Envoy, and beside it the small listener for those who run it."""

import asyncio
import sys

from rest_bridge.envoy.answers import AnswerReports
from rest_bridge.envoy.operations import EdgeOperations
from rest_bridge.envoy.process import EnvoyProcess, how_it_ended
from rest_bridge.envoy.pulse import beat
from rest_bridge.settings import EdgeSettings
from server.telemetry.listener import listening
from server.telemetry.stopping import Stopping


async def run_edge(settings: EdgeSettings) -> int:
    """Runs the edge until SIGTERM or SIGINT, ends it gracefully, and returns the exit code for the program."""
    stopping = Stopping(settings.drain_delay)
    edge = EnvoyProcess(settings)
    reports = AnswerReports(edge.answers, settings.proxy_addr)
    probes = EdgeOperations(edge).probes(stopping)
    with stopping.on_signals():
        async with listening(settings.edge_metrics_listen, "edge", probes):
            await edge.start()
            return await _run(edge, reports, stopping)


async def _run(edge: EnvoyProcess, reports: AnswerReports, stopping: Stopping) -> int:
    ended = asyncio.create_task(edge.wait())
    stop = asyncio.create_task(stopping.now.wait())
    beside = [asyncio.create_task(job) for job in (_beat(edge), _leave(edge, stopping), reports.run())]
    await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
    by_itself = ended.done() and not stop.done()
    for task in (*beside, stop):
        task.cancel()
    # An Envoy that has just ended cannot say where it listened, and that must not hide how it ended.
    await asyncio.gather(*beside, stop, return_exceptions=True)
    await edge.stop()
    await reports.flush()
    code = await ended
    if by_itself:
        sys.stderr.write(f"{how_it_ended(code)}.\n")
    return 1 if by_itself else 0


async def _beat(edge: EnvoyProcess) -> None:
    await beat(await edge.address(), tls=edge.speaks_tls)


async def _leave(edge: EnvoyProcess, stopping: Stopping) -> None:
    """Once the edge is told to stop, who keeps a connection has to go elsewhere, before the port is closed."""
    await stopping.told.wait()
    await edge.leave()
