"""The listener for those who run the product, with a process around it that is told to stop."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from server.domain.addresses import Address
from server.listening import CannotListen
from server.telemetry.listener import NotReady, Probes, listening
from server.telemetry.stopping import Stopping
from tests.support.stack import free_port


class Part:
    """Something that can be asked."""

    def __init__(self) -> None:
        self.missing: str | None = None
        self.stopping = Stopping(delay=3600)

    async def check(self) -> None:
        if self.missing == "everything":
            await asyncio.Event().wait()
        if self.missing is not None:
            raise NotReady(self.missing)

    async def metrics(self) -> bytes:
        return b"something 1\n"

    def probes(self) -> Probes:
        return Probes(ready=self.check, metrics=self.metrics, stopping=self.stopping)


async def test_it_answers_probes_and_metrics_and_nothing_else() -> None:
    part, address = Part(), Address(host="127.0.0.1", port=free_port())
    async with listening(address, "part", part.probes()), httpx.AsyncClient(base_url=f"http://{address}") as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        metrics = await http.get("/metrics")
        assert (metrics.text, metrics.headers["content-type"].split(";")[0]) == ("something 1\n", "text/plain")
        assert (await http.get("/")).status_code == 404
        part.missing = "database"
        refused = await http.get("/readyz")
        assert (refused.status_code, refused.json()) == (503, {"status": "not ready", "why": "database"})
        assert (await http.get("/healthz")).status_code == 200
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://{address}/healthz")


async def test_a_part_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.telemetry.listener.ANSWER_WITHIN_S", 0.05)
    part, address = Part(), Address(host="127.0.0.1", port=free_port())
    part.missing = "everything"
    async with listening(address, "part", part.probes()), httpx.AsyncClient(base_url=f"http://{address}") as http:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


async def test_a_signal_makes_it_unready_first_and_a_second_one_ends_the_wait() -> None:
    part, address = Part(), Address(host="127.0.0.1", port=free_port())
    async with listening(address, "part", part.probes()), httpx.AsyncClient(base_url=f"http://{address}") as http:
        with part.stopping.on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            await part.stopping.told.wait()
            assert (await http.get("/readyz")).json() == {"status": "not ready", "why": "stopping"}
            assert not part.stopping.now.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            await part.stopping.now.wait()


async def test_without_a_delay_it_stops_at_once() -> None:
    stopping = Stopping()
    stopping.ask()
    assert stopping.told.is_set()
    assert stopping.now.is_set()


async def test_it_listens_nowhere_unless_told_and_says_what_is_taken(tmp_path: Path) -> None:
    part, address = Part(), Address(host="127.0.0.1", port=free_port())
    async with listening(None, "part", part.probes()):
        pass
    async with listening(address, "part", part.probes()):
        with pytest.raises(CannotListen, match=rf"^The part cannot listen on {address}: address already in use\.$"):
            async with listening(address, "part", part.probes()):
                pass
