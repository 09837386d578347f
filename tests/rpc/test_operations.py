"""What the server tells those who run it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as dataplane
from orch8cloud.dataplane.v1.dataplane_pb2_grpc import DataPlaneServiceStub
from orch8cloud.v1 import instances_pb2 as pb
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from server.app import App, running
from server.domain.addresses import Address
from server.errors import DatabaseUnavailable
from server.telemetry.stopping import Stopping
from tests.support.calls import eventually, failure
from tests.support.metrics import Metrics, scrape
from tests.support.runtime import MemoryRuntime
from tests.support.server import DATAPLANE_TOKEN, settings
from tests.support.stack import free_port

METHOD = "/orch8cloud.v1.InstancesService/"
TOKEN = (("x-orch8-dataplane-token", DATAPLANE_TOKEN),)


@dataclass
class Server:
    app: App
    metrics: Address
    runtime: MemoryRuntime
    channel: grpc.aio.Channel
    stopping: Stopping

    @property
    def instances(self) -> Any:
        return InstancesServiceStub(self.channel)

    async def ready(self) -> httpx.Response:
        async with httpx.AsyncClient() as http:
            return await http.get(f"http://{self.metrics}/readyz")

    async def scrape(self) -> Metrics:
        return await scrape(self.metrics)


@asynccontextmanager
async def started(folder: Path, **changes: Any) -> AsyncIterator[Server]:
    address, runtime, stopping = Address(host="127.0.0.1", port=free_port()), MemoryRuntime(), Stopping(3600)
    async with (
        running(settings(folder, server_metrics_listen=address, **changes), runtime, stopping) as app,
        grpc.aio.insecure_channel(str(app.address)) as channel,
    ):
        yield Server(app, address, runtime, channel, stopping)


async def test_calls_and_steps_are_counted(tmp_path: Path, owner: Any) -> None:
    async with started(tmp_path) as server:
        made = await server.instances.CreateInstance(
            pb.CreateInstanceRequest(name="prod", region="iad"), metadata=owner
        )
        unknown = server.instances.GetInstance(pb.GetInstanceRequest(instance_id="inst_nobody"), metadata=owner)
        assert (await failure(unknown)).reason == "NOT_FOUND"
        assert (await failure(server.instances.ListInstances(pb.ListInstancesRequest()))).reason == "UNAUTHENTICATED"

        async def found() -> Metrics | None:
            metrics = await server.scrape()
            return metrics if metrics.values("orch8_instances", phase="running") == [1] else None

        metrics: Metrics = await eventually(found)
        calls = "orch8_rpc_requests_total"
        assert metrics.value(calls, method=f"{METHOD}CreateInstance", code="OK") == 1
        assert metrics.value(calls, method=f"{METHOD}GetInstance", code="NOT_FOUND") == 1
        assert metrics.value(calls, method=f"{METHOD}ListInstances", code="UNAUTHENTICATED") == 1
        assert metrics.value("orch8_rpc_duration_seconds_count", method=f"{METHOD}CreateInstance") == 1
        assert metrics.value("orch8_reconcile_steps_total", result="changed") >= 1
        assert metrics.value("orch8_reconcile_step_duration_seconds_count") >= 1
        assert metrics.value("orch8_database_up") == 1
        assert metrics.value("orch8_build_info", part="server") == 1
        assert made.id not in metrics.text


async def test_reconcile_lag_is_the_age_of_the_oldest_that_is_due(tmp_path: Path, owner: Any) -> None:
    async with started(tmp_path) as server:
        assert (await server.scrape()).value("orch8_reconcile_lag_seconds") == 0
        with stalled(server.app):
            await server.instances.CreateInstance(pb.CreateInstanceRequest(name="late", region="iad"), metadata=owner)

            async def lags() -> Metrics | None:
                metrics = await server.scrape()
                return metrics if metrics.value("orch8_reconcile_lag_seconds") > 0.2 else None

            assert (await eventually(lags)).value("orch8_reconcile_due") == 1


class stalled:  # noqa: N801 - read as a context
    """The reconciler finds nothing to do, though there is."""

    def __init__(self, app: App) -> None:
        self._reconciler = app.jobs.reconciler

    def __enter__(self) -> None:
        self._before = self._reconciler._start_due

        async def nothing() -> None:
            return None

        self._reconciler._start_due = nothing  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._reconciler._start_due = self._before  # type: ignore[method-assign]


async def test_a_proxy_that_lags_is_seen(tmp_path: Path, owner: Any) -> None:
    async with started(tmp_path, confirm_timeout=0.2) as server:
        stub: Any = DataPlaneServiceStub(server.channel)
        stream = stub.Watch(metadata=TOKEN)
        hello = dataplane.ProxyHello(proxy_id="slow", stale_limit_ms=60_000)
        await stream.write(dataplane.WatchRequest(hello=hello))
        await stream.read()
        made = await server.instances.CreateInstance(
            pb.CreateInstanceRequest(name="prod", region="iad"), metadata=owner
        )

        async def is_running() -> bool:
            found = await server.instances.GetInstance(pb.GetInstanceRequest(instance_id=made.id), metadata=owner)
            return bool(found.status == "running")

        await eventually(is_running)
        request = pb.ActOnInstanceRequest(instance_id=made.id, action="suspend")
        waiting = asyncio.ensure_future(server.instances.ActOnInstance(request, metadata=owner))
        assert (await failure(waiting)).reason == "CHANGE_UNCONFIRMED"
        await stream.write(dataplane.WatchRequest(heartbeat=1))
        while not (await stream.read()).HasField("heartbeat"):
            pass
        metrics = await server.scrape()
        assert metrics.value("orch8_proxies", state="connected") == 1
        assert metrics.value("orch8_watch_lag_versions") >= 1
        assert metrics.value("orch8_confirmations_failed") >= 1
        assert metrics.value("orch8_confirmations_waiting") == 0
        stream.cancel()

        async def is_silent() -> bool:
            return (await server.scrape()).value("orch8_proxies", state="silent") == 1

        await eventually(is_silent)


async def test_it_is_not_ready_without_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise DatabaseUnavailable

    async with started(tmp_path) as server:
        assert (await server.ready()).status_code == 200
        monkeypatch.setattr(server.app.database, "ping", broken)
        monkeypatch.setattr(server.app.database, "read", broken)
        answer = await server.ready()
        assert (answer.status_code, answer.json()["why"]) == (503, "database")
        metrics = await server.scrape()
        assert metrics.value("orch8_database_up") == 0
        assert math.isnan(metrics.value("orch8_reconcile_lag_seconds"))
        monkeypatch.undo()


async def test_it_is_not_ready_while_it_stops(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        server.stopping.ask()
        answer = await server.ready()
        assert (answer.status_code, answer.json()["why"]) == (503, "stopping")


async def test_it_is_not_ready_with_a_reconciler_that_looks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as server:
        monkeypatch.setattr("server.operations.RECONCILER_SILENT_S", 0.5)
        stuck = asyncio.Event()

        async def never() -> None:
            stuck.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(server.app.jobs.reconciler, "_sleep", never)
        server.app.jobs.reconciler.wake()
        await stuck.wait()

        async def is_noticed() -> bool:
            return bool((await server.ready()).json().get("why") == "reconciler")

        await eventually(is_noticed)


async def test_a_reconciler_that_looks_is_not_idle(tmp_path: Path) -> None:
    async with started(tmp_path) as server:
        begun = time.monotonic()
        server.app.jobs.reconciler.wake()

        async def has_looked() -> bool:
            return server.app.jobs.reconciler.idle_for < time.monotonic() - begun

        await eventually(has_looked)


async def test_every_line_says_which_request_organization_and_instance(
    tmp_path: Path, org: str, owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    with capture_logs([merge_contextvars]) as lines:
        async with started(tmp_path) as server:
            create = pb.CreateInstanceRequest(name="prod", region="iad")
            made = await server.instances.CreateInstance(create, metadata=owner)
            request = pb.GetInstanceRequest(instance_id=made.id)

            async def is_running() -> bool:
                found = await server.instances.GetInstance(request, metadata=(*owner, ("x-request-id", "req-7")))
                return bool(found.status == "running")

            await eventually(is_running)
            monkeypatch.setattr("server.services.instances.InstancesService.get", breaks)
            await failure(server.instances.GetInstance(request, metadata=(*owner, ("x-request-id", "req-8"))))
    for event, request_id in (("rpc", "req-7"), ("rpc.failed", "req-8"), ("rpc", "req-8")):
        line = next(line for line in lines if line["event"] == event and line.get("request_id") == request_id)
        assert (line["org_id"], line["instance_id"]) == (org, made.id)
        assert line["method"] == f"{METHOD}GetInstance"
    phase = next(line for line in lines if line["event"] == "instance.phase")
    assert (phase["org_id"], phase["instance_id"], phase["phase"]) == (org, made.id, "running")
    assert owner[0][1].removeprefix("Bearer ") not in str(lines)
