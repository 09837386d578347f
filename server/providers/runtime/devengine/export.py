"""Reports the states of runs to the control plane, as the engine's `cloud_observability` exporter does.

Events wait in the database, written together with the change that they tell of, so none is lost when the process
dies; when nobody takes them the oldest give way. A batch that was not answered with 2xx is sent again: at least once,
in order.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from server.providers.runtime.devengine import log
from server.providers.runtime.devengine.models import JsonObject, timestamp
from server.providers.runtime.devengine.settings import ExportSettings
from server.providers.runtime.devengine.store import Store

if TYPE_CHECKING:
    import httpx

BATCH = 500
BATCHES_PER_TICK = 20
BACK_OFF_S = (1.0, 60.0)
TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
LAST_CHANCE_S = 2.0


class Exporter:
    """Posts run events until it is stopped."""

    def __init__(self, settings: ExportSettings, store: Store, version: str) -> None:
        self._settings = settings
        self._store = store
        self._version = version
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to report."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Reports what is left if that is quick; the rest is reported by the next process."""
        self._stopping.set()
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._task, LAST_CHANCE_S)
        except TimeoutError:
            log.warn("run events are left for the next start")

    async def _run(self) -> None:
        import httpx  # here, because it is slow to load and export is mostly off

        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            back_off, interval = 0.0, self._settings.interval_ms / 1000
            while not self._stopping.is_set():
                await self._pause(back_off or interval)
                taken = await self._tick(client)
                back_off = 0.0 if taken else min(max(BACK_OFF_S[0], back_off * 2), BACK_OFF_S[1])

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _tick(self, client: "httpx.AsyncClient") -> bool:
        """Sends what is there. False when a batch was not taken."""
        for _ in range(BATCHES_PER_TICK):
            events, last = self._store.run_events(BATCH)
            if not events:
                return True
            if not await self._send(client, events):
                return False
            self._store.forget_run_events(last)
        return True

    async def _send(self, client: "httpx.AsyncClient", events: list[JsonObject]) -> bool:
        import httpx

        body = {
            "engine_id": self._settings.engine_id,
            "engine_version": self._version,
            "sent_at": timestamp(time.time()),
            "events": events,
        }
        headers = {"authorization": f"Bearer {self._settings.api_key}"}
        try:
            answer = await client.post(f"{self._settings.endpoint}/api/ingest/v1/runs", json=body, headers=headers)
        except httpx.HTTPError as error:
            log.warn("run events were not taken", reason=type(error).__name__)
            return False
        if not answer.is_success:
            log.warn("run events were not taken", reason=f"HTTP {answer.status_code}")
        return answer.is_success
