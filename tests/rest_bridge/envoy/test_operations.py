"""What the edge tells those who run it, and what it keeps to itself."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest

from rest_bridge.envoy.operations import EdgeOperations, safe_lines
from rest_bridge.envoy.process import EnvoyProcess
from server.domain.addresses import Address
from server.telemetry.listener import listening
from server.telemetry.stopping import Stopping
from tests.rest_bridge.envoy.conftest import Edge, settings
from tests.rest_bridge.envoy.fakes import assert_error
from tests.support.calls import eventually
from tests.support.metrics import Metrics, scrape
from tests.support.stack import free_port

# As the parser calls it: Envoy names its counters without "_total".
RESPONSES = "envoy_http_downstream_rq_xx_total"
NOT_FOUND = {"envoy_http_conn_manager_prefix": "edge", "envoy_response_code_class": "4"}


@pytest.mark.asyncio(loop_scope="session")
async def test_it_tells_of_envoys_requests_and_nothing_of_its_administration(edge: Edge) -> None:
    address = Address(host="127.0.0.1", port=free_port())
    # Envoy does not count those who only ask for its health.
    assert (await edge.http.get("/no/such/path")).status_code == 404
    async with listening(address, "edge", EdgeOperations(edge.process).probes(Stopping())):

        async def counted() -> Metrics | None:
            metrics = await scrape(address)
            return metrics if any(metrics.values(RESPONSES, **NOT_FOUND)) else None

        metrics = await eventually(counted)
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            assert (await http.get("/readyz")).status_code == 200
            for private in ("/config_dump", "/stats", "/quitquitquit", "/clusters"):
                assert (await http.post(private)).status_code == 404
    assert metrics.value(RESPONSES, **NOT_FOUND) >= 1
    assert {"server", "proxy"} <= metrics.labels("envoy_cluster_upstream_rq_total", "envoy_cluster_name")
    assert metrics.value("envoy_server_live") == 1
    assert metrics.value("orch8_build_info", part="edge") == 1
    assert not [name for name in metrics.names() if "admin" in name or "runtime" in name]


def test_only_listed_statistics_leave() -> None:
    lines = [
        "# TYPE envoy_http_downstream_rq_total counter",
        'envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="edge"} 4',
        "# TYPE envoy_listener_admin_downstream_cx_total counter",
        "envoy_listener_admin_downstream_cx_total{} 2",
        "envoy_server_hot_restart_epoch{} 0",
        "something_else{} 1",
        "",
    ]
    assert list(safe_lines("\n".join(lines))) == lines[:2]


async def test_an_envoy_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    address = Address(host="127.0.0.1", port=free_port())
    process = EnvoyProcess(settings(tmp_path))
    async with (
        listening(address, "edge", EdgeOperations(process).probes(Stopping())),
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        assert (await http.get("/readyz")).json() == {"status": "not ready", "why": "envoy"}
        await process.start()
        assert (await http.get("/readyz")).status_code == 200
        await process.stop()
        assert (await http.get("/readyz")).json() == {"status": "not ready", "why": "envoy"}
        assert (await http.get("/metrics")).status_code == 200


async def test_told_to_stop_it_serves_on_until_its_time_is_over(tmp_path: Path) -> None:
    listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = {
        "ORCH8_LISTEN": listen,
        "ORCH8_EDGE_ADMIN_ADDR": f"unix:{tmp_path}/admin.sock",
        "ORCH8_EDGE_METRICS_LISTEN": metrics,
        "ORCH8_DRAIN_DELAY": "300",
        "ORCH8_ENVOY_CONCURRENCY": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "edge"), env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient() as http:

            async def answers(status: int) -> bool:
                try:
                    return (await http.get(f"http://{metrics}/readyz")).status_code == status
                except httpx.TransportError:
                    return False

            async def failing() -> httpx.Response | None:
                answer = await http.get(f"http://{listen}/healthz")
                return answer if answer.status_code != 200 else None

            await eventually(lambda: answers(200), 30)
            assert await failing() is None
            process.terminate()
            await eventually(lambda: answers(503))
            told = await eventually(failing)
            assert_error(told, 503, "UNAVAILABLE")
            assert told.headers["retry-after"] == "2"
            assert told.headers["connection"] == "close"
            assert (await http.get(f"http://{listen}/no/such/path")).status_code == 404
            process.terminate()
            async with asyncio.timeout(20):
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
