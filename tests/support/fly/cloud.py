"""Fly itself: what exists, how it changes by itself, and the switches of a test."""

import asyncio
import shutil
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fly.engines import Guest
from tests.support.fly.faults import Faults
from tests.support.fly.model import GONE, VOLUME_GONE, Machine, Problem, Volume
from tests.support.fly.rates import Rates


@dataclass(kw_only=True)
class Delays:
    """Seconds that things take."""

    create: float = 0.05
    start: float = 0.02
    stop: float = 0.02
    destroy: float = 0.02
    volume_busy: float = 0.1


@dataclass
class Call:
    """A call that was made, and how it was answered; status 0: not at all."""

    operation: str
    path: str
    status: int
    headers: dict[str, str]
    body: Any
    request_id: str


@dataclass(frozen=True)
class Audit:
    """What exists now, by the names that were given."""

    machines: tuple[str, ...]
    volumes: tuple[str, ...]


@dataclass
class Fly:
    """The cloud. `runs_engines` off: machines are started without a process in them."""

    folder: Path
    app: str = "orch8-engines"
    token: str = "fm2_a-token-for-tests"
    runs_engines: bool = True
    delays: Delays = field(default_factory=Delays)
    rates: Rates = field(default_factory=lambda: Rates(factor=50))
    faults: Faults = field(default_factory=Faults)
    full_regions: set[str] = field(default_factory=set)
    foreign_apps: set[str] = field(default_factory=set)
    launch_fails: int = 0
    taken_status: int = 422  # Fly has answered a name that is taken with either of 422 and 409
    api_url: str = ""
    edge_url: str = ""
    calls: list[Call] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.apps: set[str] = {self.app}
        self.machines: dict[str, Machine] = {}
        self.volumes: dict[str, Volume] = {}
        self._guests: dict[str, Guest] = {}
        self._addresses = _addresses()
        self._tasks: set[asyncio.Task[None]] = set()

    # What a test asks and does.

    def audit(self) -> Audit:
        """The machines and volumes that exist, and would be paid for."""
        machines = [machine.name for machine in self.machines.values() if machine.state not in GONE]
        volumes = [volume.name for volume in self.volumes.values() if volume.state not in VOLUME_GONE]
        return Audit(tuple(sorted(machines)), tuple(sorted(volumes)))

    def machine(self, name: str) -> Machine:
        """The machine of this name that is not gone."""
        return next(one for one in self.machines.values() if one.name == name and one.state not in GONE)

    def pid(self, name: str) -> int | None:
        """The process in a machine."""
        guest = self._guests.get(self.machine(name).id)
        return guest.pid if guest else None

    async def forget(self, name: str) -> None:
        """The machine is gone without a trace, as after the loss of its host; its volume stays."""
        machine = self.machine(name)
        machine.to("destroyed")
        await self._kill(machine)
        del self.machines[machine.id]
        self._detach(machine, busy=0)

    def asked(self, operation: str) -> list[Call]:
        """The calls of one operation."""
        return [call for call in self.calls if call.operation == operation]

    async def close(self) -> None:
        """Ends all processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(guest.stop() for guest in self._guests.values()))

    # What its operations are made of.

    def new_address(self) -> str:
        """The private address of a new machine: one of loopback's many."""
        return next(self._addresses)

    def check_capacity(self, region: str) -> None:
        """Raises what Fly says where a region is full."""
        if region in self.full_regions:
            raise Problem(503, f"insufficient resources available in {region}", "insufficient_capacity")

    def launch(self, machine: Machine) -> None:
        """A new machine comes up by itself."""
        self._later(self._launch(machine))

    def start(self, machine: Machine) -> None:
        """A stopped or suspended machine goes on."""
        machine.to("starting")
        machine.crashes = 0
        self._later(self._start(machine))

    def stop(self, machine: Machine, *, goal: str) -> None:
        """A machine goes down: to stopped or suspended."""
        machine.to("stopping" if goal == "stopped" else "suspending")
        self._later(self._stop(machine, goal))

    def restart(self, machine: Machine, state: str = "restarting") -> None:
        """Down and up again."""
        machine.to(state)
        self._later(self._restart(machine))

    def destroy(self, machine: Machine) -> None:
        """A machine goes for good."""
        machine.to("destroying")
        self._later(self._destroy(machine))

    def delete(self, volume: Volume) -> None:
        """A volume goes for good; it is listed for a while."""
        volume.state = "pending_destroy"
        shutil.rmtree(volume.folder, ignore_errors=True)
        self._later(self._vanish(volume))

    async def _launch(self, machine: Machine) -> None:
        await asyncio.sleep(self.delays.create)
        if machine.state != "created":
            return
        if self.launch_fails > 0:
            self.launch_fails -= 1
            machine.to("failed")
            machine.event("launch", "failed", "flyd", error="the image cannot be pulled")
            return
        machine.to("starting")
        await self._start(machine)

    async def _start(self, machine: Machine) -> None:
        await asyncio.sleep(self.delays.start)
        if machine.state not in ("starting", "restarting", "replacing"):
            return
        if self.runs_engines:
            guest = self._guests[machine.id] = Guest(self.folder / "logs" / f"{machine.id}.log")
            await guest.start(self._environment(machine), self._mounts(machine), machine.private_ip)
            self._later(self._watch(machine, guest))
        machine.to("started")
        machine.event("start", "started", "flyd")

    async def _watch(self, machine: Machine, guest: Guest) -> None:
        """Starts a process again that ended by itself, as the machine's restart policy says."""
        code = await guest.ended()
        if machine.state != "started" or self._guests.get(machine.id) is not guest:
            return
        machine.event("exit", "stopped", "flyd", exit_event={"exit_code": code})
        policy = machine.config.get("restart", {})
        machine.crashes += 1
        again = policy.get("policy") == "always" or (policy.get("policy", "on-failure") == "on-failure" and code != 0)
        if again and machine.crashes <= policy.get("max_retries", 10):
            machine.to("starting")
            await self._start(machine)
        else:
            machine.to("stopped")

    async def _stop(self, machine: Machine, goal: str) -> None:
        await asyncio.sleep(self.delays.stop)
        await self._kill(machine)
        if machine.state in ("stopping", "suspending"):
            machine.to(goal)
            machine.event("stop" if goal == "stopped" else "suspend", goal, "flyd")

    async def _restart(self, machine: Machine) -> None:
        await self._kill(machine)
        await self._start(machine)

    async def _destroy(self, machine: Machine) -> None:
        await asyncio.sleep(self.delays.destroy)
        await self._kill(machine)
        machine.to("destroyed")
        machine.event("destroy", "destroyed", "flyd")
        self._detach(machine, busy=self.delays.volume_busy)

    async def _vanish(self, volume: Volume) -> None:
        await asyncio.sleep(self.delays.volume_busy)
        self.volumes.pop(volume.id, None)

    async def _kill(self, machine: Machine) -> None:
        if guest := self._guests.pop(machine.id, None):
            await guest.stop()

    def _detach(self, machine: Machine, *, busy: float) -> None:
        for volume in self.volumes.values():
            if volume.attached_to == machine.id:
                volume.attached_to, volume.busy_until = None, time.monotonic() + busy

    def _environment(self, machine: Machine) -> dict[str, str]:
        """docs: runtime environment of machines."""
        return dict(machine.config.get("env", {})) | {
            "FLY_APP_NAME": self.app,
            "FLY_MACHINE_ID": machine.id,
            "FLY_REGION": machine.region,
            "FLY_PRIVATE_IP": machine.private_ip,
        }

    def _mounts(self, machine: Machine) -> dict[str, Path]:
        return {row["path"]: self.volumes[row["volume"]].folder for row in machine.config.get("mounts", ())}

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.violations.append(f"the fake broke: {error!r}")


def _addresses() -> Iterator[str]:
    """Addresses of 127.64.0.0/10, beginning where no other test of this moment begins."""
    number = time.monotonic_ns() // 1000 % 0x3FFFFF
    while True:
        number = number % 0x3FFFFF + 1
        yield f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
