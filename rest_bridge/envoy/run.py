"""The edge as a program: Envoy, and beside it the small listener for those who run it."""

import asyncio
import signal
import sys
from collections.abc import Coroutine

from rest_bridge.envoy.answers import AnswerReports
from rest_bridge.envoy.epoch import EnvoyError, how_it_ended
from rest_bridge.envoy.operations import EdgeOperations
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.envoy.pulse import beat
from rest_bridge.envoy.validate import validate
from rest_bridge.settings import EdgeSettings
from server.telemetry.listener import listening
from server.telemetry.stopping import Stopping

_AGAIN_S = 5.0


async def run_edge(settings: EdgeSettings) -> int:
    """Runs the edge until SIGTERM or SIGINT, ends it gracefully, and returns the exit code for the program.

    SIGHUP starts Envoy again, without a gap: it reads its certificate anew, and is the Envoy that is installed now.
    """
    stopping, again = Stopping(settings.drain_delay), asyncio.Event()
    edge = EnvoyProcess(settings)
    reports = AnswerReports(edge.answers, settings.proxy_addr)
    probes = EdgeOperations(edge).probes(stopping)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again.set)
    with stopping.on_signals():
        async with listening(settings.edge_metrics_listen, "edge", probes):
            await edge.start()
            return await _run(edge, reports, stopping, _start_again(edge, settings, again))


async def _run(
    edge: EnvoyProcess, reports: AnswerReports, stopping: Stopping, starting_again: Coroutine[None, None, None]
) -> int:
    ended = asyncio.create_task(edge.wait())
    stop = asyncio.create_task(stopping.now.wait())
    jobs = (_beat(edge), _leave(edge, stopping), starting_again, reports.run())
    beside = [asyncio.create_task(job) for job in jobs]
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


async def _start_again(edge: EnvoyProcess, settings: EdgeSettings, asked: asyncio.Event) -> None:
    """Has another Envoy take over whenever it is asked for; one after the other, since a third would end the first."""
    while True:
        await asked.wait()
        asked.clear()
        try:
            # An Envoy that begins ends the administration of the one before, even if it then refuses to run.
            await validate(settings)
            await edge.restart()
            await edge.left()
        except EnvoyError as error:
            sys.stderr.write(f"Envoy was not started again: {error}\n")
            if not await edge.is_ready():
                await asyncio.sleep(_AGAIN_S)
                asked.set()
