"""The composition root: builds the control plane from settings and parts. Tests call the same functions."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import structlog
from grpc_health.v1 import health

from server import logs
from server.configuration import StartFailed
from server.domain.addresses import Address
from server.domain.plans import Plans
from server.domain.restarts import RestartPolicy
from server.errors import DatabaseUnavailable
from server.identity.credentials import Tokens
from server.identity.egress import GuardedClient
from server.identity.issuers import Issuers
from server.operations import Observers, Operations
from server.providers.engine.client import EngineClient
from server.providers.engine.management import EngineManagement
from server.providers.runtime.base import Runtime
from server.providers.sessions.cookies import default_name
from server.providers.sessions.supabase import SupabaseSessions
from server.providers.templates.catalog import Catalog
from server.rpc.api_keys import ApiKeysServicer
from server.rpc.dataplane import DataPlaneServicer
from server.rpc.decisions import DecisionsServicer
from server.rpc.deployments import DeploymentsServicer
from server.rpc.events import EventsServicer
from server.rpc.instances import InstancesServicer
from server.rpc.interceptors.authentication import Authentication
from server.rpc.interceptors.base import Around
from server.rpc.interceptors.metrics import Metered
from server.rpc.interceptors.tracing import Traced
from server.rpc.metrics import MetricsServicer
from server.rpc.organization import OrganizationServicer
from server.rpc.policies import PoliciesServicer
from server.rpc.runs import RunsServicer
from server.rpc.server import Servicers, access_table, build_server, listen, set_serving
from server.rpc.system import SystemServicer
from server.rpc.templates import TemplatesServicer
from server.rpc.usage import UsageServicer
from server.services.api_keys import ApiKeysService
from server.services.authentication import Authenticator
from server.services.dataplane import DataPlane
from server.services.decisions import DecisionsService
from server.services.deployments import DeploymentsService
from server.services.event_feed import Feed
from server.services.events import EventsService
from server.services.explain import ExplainService
from server.services.idempotency import Idempotency
from server.services.identifiers import new_id, utc_now
from server.services.instances import InstancesService
from server.services.metrics import MetricsService
from server.services.organizations import OrganizationsService
from server.services.policies import PoliciesService
from server.services.propagation import Propagation
from server.services.runs import RunsService
from server.services.settling import Settling
from server.services.system import SystemService
from server.services.templates import TemplatesService
from server.services.usage import UsageService
from server.services.waiting import Waiters
from server.settings import ServerSettings
from server.store import migrate
from server.store.database import Database
from server.store.dialects import DatabaseRefused, Limits, create_engine
from server.store.sealing import Sealer
from server.store.usage import Quotas
from server.telemetry.listener import listening
from server.telemetry.server_metrics import ServerMetrics
from server.telemetry.stopping import Stopping
from server.telemetry.tracing import opened
from server.templating import read_catalog
from server.workers.announce import announce_changes, hear_others, report_proxies
from server.workers.deploy import Deployer
from server.workers.deployment_job import Parts
from server.workers.housekeeping import keep_house
from server.workers.notice import notice_changes
from server.workers.orphans import OrphanSweeper
from server.workers.reconcile import Reconciler
from server.workers.telling import check_subscribers, tell_subscribers

GRACE_S = 5.0
DEFAULT_COOKIE = "sb-orch8-auth-token"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """What works beside the calls, and what calls wait for."""

    reconciler: Reconciler
    deployer: Deployer
    orphans: OrphanSweeper
    settling: Settling
    waiters: Waiters
    feed: Feed


@dataclass(kw_only=True)
class App:
    """A control plane that listens."""

    address: Address
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    propagation: Propagation
    jobs: Jobs
    database: Database
    operations: Operations


def chosen_runtime(settings: ServerSettings) -> Runtime:
    """Where engines run, as the settings say."""
    return _fly_runtime(settings) if settings.runtime == "fly" else _local_runtime(settings)


def _local_runtime(settings: ServerSettings) -> Runtime:
    from server.providers.runtime.local import LocalRuntime

    return LocalRuntime(data_dir=settings.data_dir, engine_bin=settings.engine_bin, report_to=settings.report_to)


def _fly_runtime(settings: ServerSettings) -> Runtime:
    from server.providers.runtime.fly import FlyRuntime
    from server.providers.runtime.fly_config import FlyConfig, Routing

    return FlyRuntime(
        FlyConfig(
            api_url=settings.fly_api_url,
            token=settings.fly_api_token.get_secret_value(),
            app=settings.fly_app,
            installation=settings.installation,
            image=settings.fly_image,
            routing=Routing(settings.fly_routing),
            public_url=settings.fly_public_url,
            cpu_kind=settings.fly_cpu_kind,
            cpus=settings.fly_cpus,
            memory_mb=settings.fly_memory_mb,
            volume_gb=settings.fly_volume_gb,
            engine_port=settings.fly_engine_port,
            engine_env=settings.fly_engine_env,
            suspend=settings.fly_suspend,
            requests_per_second=settings.fly_rate,
            report_to=settings.report_to,
        )
    )


@asynccontextmanager
async def open_database(settings: ServerSettings) -> AsyncIterator[Database]:
    """The database in its newest shape. Raises StartFailed."""
    if not settings.database_url.get_secret_value():
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    limits, quotas = _limits(settings), Quotas(settings.plans(), utc_now)
    await _migrate(settings.store_url, limits)
    async with Database(create_engine(settings.store_url, limits), Sealer(settings.key_bytes), quotas) as database:
        async with database.write() as tx:
            now = await tx.now(utc_now())
            await tx.instances.wake_all(now, alone=not database.is_shared)
            if not database.is_shared:
                await tx.deployments.wake_all(now)
            await tx.commit()
        yield database


async def _migrate(url: str, limits: Limits) -> None:
    engine = create_engine(url, limits.patient())
    try:
        await migrate.upgrade(engine)
    except DatabaseUnavailable as error:
        raise StartFailed(f"ORCH8_DATABASE_URL: the database does not answer: {error.__cause__}") from error
    except DatabaseRefused as error:
        raise StartFailed(f"ORCH8_DATABASE_URL: {error}") from error
    finally:
        await engine.dispose()


def _limits(settings: ServerSettings) -> Limits:
    return Limits(
        pool_size=settings.database_pool_size,
        pool_overflow=settings.database_pool_overflow,
        pool_timeout=settings.database_pool_timeout,
        connect_timeout=settings.database_connect_timeout,
        statement_timeout=settings.database_statement_timeout,
        lock_timeout=settings.database_lock_timeout,
        idle_timeout=settings.database_idle_timeout,
    )


@asynccontextmanager
async def running(settings: ServerSettings, runtime: Runtime, stopping: Stopping | None = None) -> AsyncIterator[App]:
    """A control plane that answers, until the block ends; then it stops gracefully.

    Raises StartFailed.
    """
    plans = settings.plans()
    catalog = read_catalog(settings.template_dirs, plans)
    async with (
        opened(settings.otlp_endpoint, "server", settings.trace_sample) as tracing,
        open_database(settings) as database,
        httpx.AsyncClient(trust_env=False) as http,
        Issuers(GuardedClient(allow_loopback=settings.calls_loopback), discovery=settings.dev_discovery) as issuers,
    ):
        observers = Observers(ServerMetrics(), tracing)
        outside = Outside(http=http, issuers=issuers)
        app = _build(settings, plans, catalog, runtime, database, outside, observers)
        probes = app.operations.probes(stopping or Stopping())
        async with listening(settings.server_metrics_listen, "server", probes):
            await app.propagation.start()
            await app.server.start()
            jobs = [asyncio.create_task(one) for one in _work(app, plans)]
            await set_serving(app.health)
            for switch in settings.switches():
                log.warning("development_switch_is_on", switch=switch)
            log.info("server.ready", address=str(app.address))
            try:
                yield app
            finally:
                await _stop(app, jobs, runtime)


def _work(app: App, plans: Plans) -> list[Coroutine[Any, Any, None]]:
    """What goes on for as long as the server runs."""
    work = [
        app.jobs.reconciler.run(),
        app.jobs.deployer.run(),
        app.jobs.orphans.run(),
        keep_house(app.database, plans, utc_now),
        announce_changes(app.propagation),
        notice_changes(app.jobs.settling),
        tell_subscribers(app.jobs.feed),
        check_subscribers(app.jobs.feed),
    ]
    if app.propagation.peers is not None:
        work += [hear_others(app.database, app.propagation, app.jobs.feed), report_proxies(app.propagation.peers)]
    return work


def _build(
    settings: ServerSettings,
    plans: Plans,
    catalog: Catalog,
    runtime: Runtime,
    database: Database,
    outside: "Outside",
    observers: Observers,
) -> App:
    propagation = Propagation(database, clock=utc_now, confirm_timeout=settings.confirm_timeout)
    waiters = Waiters()
    settling = Settling(database, waiters)
    work: dict[str, Any] = {"database": database, "propagation": propagation, "clock": utc_now}
    jobs = Jobs(
        reconciler=_reconciler(settings, work, runtime, observers, settling),
        deployer=_deployer(work, outside, waiters),
        orphans=_orphans(settings, runtime, database, observers),
        settling=settling,
        waiters=waiters,
        feed=_feed(database),
    )
    system = SystemService(database=database, propagation=propagation)
    organizations = _organizations(settings, plans, database)
    servicers = _servicers(settings, plans, catalog, work, outside, jobs, organizations, system)
    authentication = _authentication(settings, database, organizations, outside.http)
    server, alive = build_server(servicers, authentication, Idempotency(**work, waiters=waiters), _arounds(observers))
    return App(
        address=_listen(server, settings.server_listen),
        server=server,
        health=alive,
        propagation=propagation,
        jobs=jobs,
        database=database,
        operations=Operations(**work, system=system, reconciler=jobs.reconciler, metrics=observers.metrics),
    )


def _servicers(
    settings: ServerSettings,
    plans: Plans,
    catalog: Catalog,
    work: dict[str, Any],
    outside: "Outside",
    jobs: Jobs,
    organizations: OrganizationsService,
    system: SystemService,
) -> Servicers:
    shared = {**work, "new_id": new_id}
    seen: dict[str, Any] = {"database": work["database"], "clock": utc_now}
    instances = _instances(settings, shared, plans, outside.http, jobs.settling, jobs.reconciler.wake)
    deployments = _deployments(plans, catalog, shared, instances, jobs.waiters, jobs.deployer)
    decisions = DecisionsService(**seen)
    return Servicers(
        instances=InstancesServicer(instances, settings.public_url),
        api_keys=ApiKeysServicer(ApiKeysService(**shared)),
        organization=OrganizationServicer(organizations),
        policies=_policies(settings, shared, outside),
        system=SystemServicer(system),
        deployments=DeploymentsServicer(deployments, settings.public_url),
        templates=TemplatesServicer(TemplatesService(catalog)),
        usage=UsageServicer(UsageService(**seen, plans=plans)),
        decisions=DecisionsServicer(decisions),
        metrics=MetricsServicer(MetricsService(**seen)),
        runs=RunsServicer(RunsService(**seen)),
        events=EventsServicer(EventsService(seen["database"], jobs.feed)),
        dataplane=DataPlaneServicer(
            DataPlane(**seen, plans=plans, limited=settings.traffic_limits), decisions, work["propagation"]
        ),
    )


def _feed(database: Database) -> Feed:
    made = Feed(database, clock=utc_now)
    database.published = made.wake
    return made


def _instances(
    settings: ServerSettings,
    shared: dict[str, Any],
    plans: Plans,
    http: httpx.AsyncClient,
    settling: Settling,
    wake: Callable[[], None],
) -> InstancesService:
    return InstancesService(
        **shared,
        plans=plans,
        engines=EngineClient(http),
        settling=settling,
        wake=wake,
        deadlines=settings.deadlines,
    )


def _reconciler(
    settings: ServerSettings, work: dict[str, Any], runtime: Runtime, observers: Observers, settling: Settling
) -> Reconciler:
    return Reconciler(
        **work,
        runtime=runtime,
        owner=_owner("r"),
        step_ended=observers.step_ended,
        changed=settling.changed,
        deadlines=settings.deadlines,
        restarts=RestartPolicy(),
    )


def _orphans(settings: ServerSettings, runtime: Runtime, database: Database, observers: Observers) -> OrphanSweeper:
    remove = settings.orphans == "remove"
    return OrphanSweeper(database=database, runtime=runtime, clock=utc_now, remove=remove, swept=observers.swept)


def _deployments(
    plans: Plans,
    catalog: Catalog,
    shared: dict[str, Any],
    instances: InstancesService,
    waiters: Waiters,
    deployer: Deployer,
) -> DeploymentsService:
    return DeploymentsService(
        database=shared["database"],
        plans=plans,
        catalog=catalog,
        instances=instances,
        waiters=waiters,
        wake=deployer.wake,
        clock=shared["clock"],
        new_id=shared["new_id"],
    )


def _deployer(work: dict[str, Any], outside: "Outside", waiters: Waiters) -> Deployer:
    engines = EngineManagement(outside.http)
    return Deployer(Parts(**work, engines=engines, owner=_owner("d"), changed=waiters.wake))


def _owner(worker: str) -> str:
    """Names a worker of this process in leases."""
    return f"{socket.gethostname()}-{os.getpid()}-{new_id(worker)}"


def _organizations(settings: ServerSettings, plans: Plans, database: Database) -> OrganizationsService:
    return OrganizationsService(
        database=database,
        plans=plans,
        clock=utc_now,
        new_id=new_id,
        org_claim=settings.org_claim,
        role_claim=settings.role_claim,
        plan=settings.default_plan,
    )


@dataclass(frozen=True, kw_only=True)
class Outside:
    """How the server calls out: where we choose the address, and where users do."""

    http: httpx.AsyncClient
    issuers: Issuers


def _policies(settings: ServerSettings, shared: dict[str, Any], outside: Outside) -> PoliciesServicer:
    return PoliciesServicer(
        PoliciesService(**shared, allow_loopback=settings.calls_loopback),
        ExplainService(database=shared["database"], tokens=Tokens(outside.issuers), clock=utc_now),
    )


def _arounds(observers: Observers) -> tuple[Around, ...]:
    metered = Metered(observers.metrics.call_ended)
    return (metered,) if observers.tracing is None else (metered, Traced(observers.tracing))


def _authentication(
    settings: ServerSettings, database: Database, organizations: OrganizationsService, http: httpx.AsyncClient
) -> Authentication:
    sessions = SupabaseSessions(
        url=settings.supabase_url, jwt_secret=settings.supabase_jwt_secret.get_secret_value(), http=http
    )
    derived = default_name(settings.supabase_url) if settings.supabase_url else DEFAULT_COOKIE
    authenticator = Authenticator(
        database=database,
        sessions=sessions,
        organizations=organizations,
        clock=utc_now,
        cookie_name=settings.session_cookie or derived,
    )
    own = frozenset(urlsplit(url).netloc for url in (settings.public_url, *settings.allowed_origins))
    return Authentication(
        authenticator=authenticator,
        table=access_table(),
        own_hosts=own,
        dataplane_token=settings.dataplane_token.get_secret_value(),
    )


def _listen(server: grpc.aio.Server, address: Address) -> Address:
    try:
        return listen(server, address)
    except OSError as error:
        raise StartFailed(f"ORCH8_SERVER_LISTEN: {error}") from error


async def _stop(app: App, jobs: Sequence[asyncio.Task[None]], runtime: Runtime) -> None:
    """Refuses new calls, lets running ones finish, then the jobs, then the engines."""
    await app.health.enter_graceful_shutdown()
    app.propagation.stop()
    app.jobs.waiters.close()
    app.jobs.feed.close()
    await app.server.stop(GRACE_S)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await runtime.close()
    log.info("server.stopped")


async def run_server(settings: ServerSettings) -> int:
    """Runs the control plane until SIGTERM or SIGINT. Raises StartFailed."""
    logs.configure("server")
    stopping = Stopping(settings.drain_delay)
    with stopping.on_signals():
        async with running(settings, chosen_runtime(settings), stopping) as app:
            await stopping.told.wait()
            await app.health.enter_graceful_shutdown()
            await stopping.now.wait()
    return 0
