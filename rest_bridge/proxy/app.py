"""Puts the proxy together and runs it."""

import asyncio
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
from structlog.typing import FilteringBoundLogger

from rest_bridge.answers import Tally
from rest_bridge.proxy.asgi import ENGINE_ASKED, App, Message, Receive, Scope, Send, answer
from rest_bridge.proxy.decide_app import DecideApp
from rest_bridge.proxy.decider import Decider
from rest_bridge.proxy.decision_counts import DecisionCounts
from rest_bridge.proxy.direct_app import DirectApp
from rest_bridge.proxy.edge_leases import EdgeLeases
from rest_bridge.proxy.forward import Forwarder, open_session
from rest_bridge.proxy.headers import REQUEST_ID, get_all
from rest_bridge.proxy.http_protocol import protocol
from rest_bridge.proxy.lease import Clock, Lease, suspend_aware_clock
from rest_bridge.proxy.limits import Limiter
from rest_bridge.proxy.logs import life_cycle_log
from rest_bridge.proxy.metrics import ProxyMetrics, Sources
from rest_bridge.proxy.processor import Processor
from rest_bridge.proxy.records import Records
from rest_bridge.proxy.refusals import internal, stopped
from rest_bridge.proxy.remembered import Remembered
from rest_bridge.proxy.routes import Knowledge
from rest_bridge.proxy.server_link import ServerCalls
from rest_bridge.proxy.streams import Streams
from rest_bridge.proxy.traced_decider import TracedDecider
from rest_bridge.proxy.traffic import Traffic
from rest_bridge.proxy.watcher import Watcher
from rest_bridge.proxy.websocket import MAX_MESSAGE, WebSocketForwarder
from rest_bridge.settings import ProxySettings
from server.configuration import StartFailed
from server.identity.credentials import Tokens
from server.identity.egress import GuardedClient
from server.identity.issuers import Issuers
from server.listening import CannotListen, close_socket, open_socket
from server.telemetry.listener import Server, listening
from server.telemetry.stopping import Stopping
from server.telemetry.tracing import Tracing
from server.telemetry.tracing import opened as trace

CANNOT_START = 2
DRAIN = 3
STOP_DEADLINE = 1.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_INSTANCE = re.compile(r"/(?:tunnel|gateway)/(inst_[a-z0-9]{1,40})(?:/|$)", re.ASCII)


@dataclass(kw_only=True, slots=True)
class Proxy:
    """A proxy that is put together. `app` answers while the proxy is started; each is for one event loop."""

    app: App
    knowledge: Knowledge
    traffic: Traffic
    records: Records
    calls: ServerCalls
    watcher: Watcher
    log: FilteringBoundLogger
    session: aiohttp.ClientSession | None
    issuers: Issuers
    streams: Streams
    counts: DecisionCounts
    tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> None:
        """Begins to watch the server; the proxy is ready when it has answered."""
        jobs = (self.watcher.run(), self.traffic.run(), self.records.run(), self.streams.run())
        self.tasks = tuple(asyncio.create_task(job) for job in jobs)

    async def stop(self) -> None:
        """Reports the last counts and records, and says goodbye, which comes last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_DEADLINE):
                await asyncio.gather(self.traffic.flush(), self.records.flush(last=True))
        self.watcher.leave()
        await asyncio.wait(self.tasks[:1], timeout=STOP_DEADLINE + self.knowledge.edges.over_in())
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.session is not None:
            await self.session.close()
        await self.issuers.close()
        await self.calls.close()
        self.log.info("stopped")


def build(
    settings: ProxySettings, *, direct: bool, clock: Clock = suspend_aware_clock, tracing: Tracing | None = None
) -> Proxy:
    """Puts a proxy together, inside a running event loop. `direct`: it carries the bytes itself."""
    proxy_id = settings.proxy_id or f"proxy-{secrets.token_hex(8)}"
    log = life_cycle_log(proxy_id)
    for switch in settings.switches():
        log.warning("development_switch_is_on", switch=switch)
    token = settings.dataplane_token.get_secret_value()
    calls = ServerCalls(addresses=settings.server_addr, token=token, proxy_id=proxy_id, log=log)
    knowledge = _knowledge(settings, calls, clock, direct=direct)
    traffic = Traffic(calls.report)
    records = Records(calls.report_decisions, sample=settings.decision_sample, log=log)
    issuers = Issuers(GuardedClient(allow_loopback=settings.calls_loopback), discovery=settings.dev_discovery)
    streams = Streams(knowledge)
    counts = DecisionCounts()
    # What both decide with: about each request, and for the edges that repeat a decision.
    shared: dict[str, Any] = {
        "knowledge": knowledge,
        "traffic": traffic,
        "records": records,
        "limiter": Limiter(clock=clock),
        "counts": counts,
    }
    decider = _decider(
        settings, tracing, tokens=Tokens(issuers), streams=streams, session_cookie=settings.session_cookie, **shared
    )
    session = open_session(connect_timeout=settings.engine_connect_timeout) if direct else None
    app: App = DecideApp(
        decider=decider,
        knowledge=knowledge,
        remembered=Remembered(decider=decider, **shared),
        answers=traffic.answers,
    )
    if session is not None:
        app = _direct_app(settings, decider, knowledge, session, streams, traffic.answers)
    return Proxy(
        app=_Guarded(app, log),
        knowledge=knowledge,
        traffic=traffic,
        records=records,
        calls=calls,
        watcher=Watcher(calls=calls, knowledge=knowledge, log=log),
        log=log,
        session=session,
        issuers=issuers,
        streams=streams,
        counts=counts,
    )


def _knowledge(settings: ProxySettings, calls: ServerCalls, clock: Clock, *, direct: bool) -> Knowledge:
    lease = Lease(stale_limit=settings.stale_limit, clock=clock)
    # An id of chance has no predecessor.
    succeeds = bool(settings.proxy_id) and not direct
    edges = EdgeLeases(lease, seconds=0 if direct else settings.edge_lease, succeeds=succeeds)
    return Knowledge(fetch_route=calls.route, fetch_key=calls.key, lease=lease, edges=edges)


def _decider(settings: ProxySettings, tracing: Tracing | None, **parts: Any) -> Decider:
    if tracing is None:
        return Decider(**parts)
    return TracedDecider(tracing=tracing, sample=settings.trace_sample, **parts)


def _direct_app(
    settings: ProxySettings,
    decider: Decider,
    knowledge: Knowledge,
    session: aiohttp.ClientSession,
    streams: Streams,
    answers: Tally,
) -> DirectApp:
    idle = settings.engine_idle_timeout
    return DirectApp(
        decider=decider,
        knowledge=knowledge,
        answers=answers,
        body_timeout=idle,
        forwarder=Forwarder(session=session, idle=idle, streams=streams),
        websockets=WebSocketForwarder(connect_timeout=settings.engine_connect_timeout, idle=idle, streams=streams),
    )


def metrics_of(proxy: Proxy) -> ProxyMetrics:
    """What a proxy tells those who run it."""
    return ProxyMetrics(
        Sources(
            decisions=proxy.counts,
            knowledge=proxy.knowledge,
            watcher=proxy.watcher,
            traffic=proxy.traffic,
            records=proxy.records,
            streams=proxy.streams,
        )
    )


class _Guarded:
    """Turns a fault of ours into the contract's error shape, with its cause in the log."""

    def __init__(self, app: App, log: FilteringBoundLogger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except asyncio.CancelledError:
            # The drain is over. Without an answer uvicorn makes up one of its own.
            if scope["type"] == "http" and not started:
                end = stopped(engine_asked=scope.get(ENGINE_ASKED, False))
                await answer(send, end.status, list(end.headers), end.body)
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the cause
            number = _request_id(scope)
            self._log.exception("fault", request_id=number, **_instance(scope))
            if scope["type"] == "http" and not started:
                fault = internal(number)
                await answer(send, fault.status, list(fault.headers), fault.body)


def _instance(scope: Scope) -> dict[str, str]:
    """The instance, for the log. The rest of the path may hold what is nobody's business."""
    found = _INSTANCE.search(scope.get("path", ""))
    return {} if found is None else {"instance_id": found[1]}


def _request_id(scope: Scope) -> str:
    """The request's id, by which the edge and the server know it too; a new one where it has none of good form."""
    given = get_all(scope.get("headers", ()), REQUEST_ID)
    known = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
    return given[0].decode() if known else f"req_{secrets.token_hex(8)}"


def new_server(app: App, *, direct: bool) -> Server:
    """The HTTP server around the app. The direct one meets the world; the other meets Envoy, which keeps the limits."""
    return Server(
        uvicorn.Config(
            app,
            http=protocol(direct=direct),
            ws="websockets-sansio" if direct else "none",
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,
            interface="asgi3",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN,
        )
    )


async def run_proxy(settings: ProxySettings, *, direct: bool) -> int:
    """Runs the proxy until SIGTERM or SIGINT. 0: stopped; 2: could not start, and standard error says why."""
    try:
        opened = open_socket(settings.proxy_listen, "proxy")
    except CannotListen as error:
        return _cannot_start(error)
    try:
        await _serve(settings, opened, direct=direct)
    except StartFailed as error:
        return _cannot_start(error)
    finally:
        close_socket(opened, settings.proxy_listen)
    return 0


def _cannot_start(error: StartFailed) -> int:
    print(error, file=sys.stderr)  # noqa: T201 - the one sentence that a person at the terminal needs
    return CANNOT_START


async def _serve(settings: ProxySettings, opened: Any, *, direct: bool) -> None:
    stopping = Stopping(settings.drain_delay)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(trace(settings.otlp_endpoint, "proxy", settings.trace_sample))
        proxy = build(settings, direct=direct, tracing=tracing)
        server = new_server(proxy.app, direct=direct)
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        probes = metrics_of(proxy).probes(stopping)
        await stack.enter_async_context(listening(settings.proxy_metrics_listen, "proxy", probes))
        if not direct:
            await stack.enter_async_context(
                Processor(proxy.streams, proxy.knowledge.is_ready).listening(settings.streams_listen)
            )
        proxy.log.info("listening", address=str(opened.getsockname()), direct=direct)
        with stopping.on_signals():
            ending = asyncio.create_task(_end(proxy, server, stopping))
            await server.serve(sockets=[opened])
            ending.cancel()


async def _end(proxy: Proxy, server: Server, stopping: Stopping) -> None:
    await stopping.told.wait()
    proxy.knowledge.stopping = True
    await stopping.now.wait()
    server.should_exit = True


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else None, which means asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve(settings: ProxySettings, *, direct: bool) -> int:
    """Runs the proxy in a loop of its own."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run_proxy(settings, direct=direct))
