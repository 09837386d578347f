"""Engines on Fly's machines: one machine and one volume for each, all in one app.

Every step looks before it acts, and what it makes is named after the instance: a crash, or an answer that was lost,
leaves nothing behind that the next step does not find.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpx

from server.providers.runtime.base import (
    INSTANCE_ID,
    EngineSpec,
    EngineState,
    FoundEngine,
    Observation,
    RuntimeFailed,
    RuntimeUnavailable,
)
from server.providers.runtime.fly_api import FlyApi, Machine, Volume
from server.providers.runtime.fly_config import (
    INSTALLATION,
    INSTANCE,
    FlyConfig,
    machine_name,
    machine_request,
    upstream,
    volume_request,
)
from server.providers.runtime.fly_errors import FlyFailed, FlyGone, FlyUnavailable
from server.providers.runtime.fly_shared import Shared

# docs, machine states; all others are on their way up.
DOWN = ("stopped", "suspended", "failed")
GOING_DOWN = ("stopping", "suspending", "destroying", "launch_failed")
GONE = ("destroyed", "migrated", "replaced")
STARTED = "started"
# fly-go: states of a volume of which Fly gets rid by itself.
VOLUME_GONE = (
    "scheduling_destroy",
    "pending_destroy",
    "waiting_for_detach",
    "fork_cleanup",
    "destroying",
    "destroyed",
)
VOLUME_READY = "created"
# Statuses of a volume that is still held.
BUSY = (409, 412)
LEASE_S = 15
WAIT_S = 2
# Shorter than the reconciler gives a step. Should another begin all the same, Fly's own lease keeps the two apart.
LOOK_S = 8.0
ACT_S = 18.0
RELEASE_S = 2.0
PROBE_TIMEOUT_S = 2.0
LAUNCHES = 3


class FlyRuntime:
    """Implements Runtime. Engines go on running when this process ends."""

    def __init__(self, config: FlyConfig, *, poll_interval: float = 1.0, watch_interval: float = 15.0) -> None:
        self.poll_interval = poll_interval
        self.watch_interval = watch_interval
        self._config = config
        tls = httpx.create_ssl_context(trust_env=False)
        self._api = FlyApi(config, tls)
        self._http = httpx.AsyncClient(verify=tls, trust_env=False)
        self._machines = Shared(lambda: self._api.machines(summary=True))
        self._volumes = Shared(self._api.volumes)
        self._ids: dict[str, str] = {}
        self._failed_launches: dict[str, int] = {}

    async def describe(self) -> str:
        """Such as "ghcr.io/orch8-io/engine:0.7.1 on Fly, in the app engines"."""
        return f"{self._config.image} on Fly, in the app {self._config.app}"

    async def run(self, spec: EngineSpec) -> Observation:
        """Makes the volume, then the machine, or starts the machine that there is."""
        async with _step(spec.instance_id, ACT_S):
            machine = await self._find(spec.instance_id) or await self._create(spec)
            if machine is None:
                return Observation(state=EngineState.STARTING)
            if machine.state == "failed":
                return await self._launch_anew(spec.instance_id, machine)
            if machine.state in DOWN:
                async with self._leased(machine.id) as nonce:
                    await self._api.change("start", machine.id, nonce)
                machine = await self._started(machine)
            return await self._seen(spec.instance_id, machine)

    async def stop(self, instance_id: str) -> Observation:
        """Stops or suspends the machine, as the operator has chosen; the data is on the volume."""
        async with _step(instance_id, ACT_S):
            machine = await self._find(instance_id)
            if machine is None or machine.state != STARTED:
                state = await self._without_machine(instance_id) if machine is None else _state(machine)
                # What is on its way up cannot be stopped yet.
                return Observation(state=EngineState.STOPPING if state is EngineState.STARTING else state)
            action, goal = ("suspend", "suspended") if self._config.suspend else ("stop", "stopped")
            async with self._leased(machine.id) as nonce:
                await self._api.change(action, machine.id, nonce)
            done = await self._reached(machine, goal)
            return Observation(state=EngineState.STOPPED if done else EngineState.STOPPING)

    async def destroy(self, instance_id: str) -> Observation:
        """Destroys the machine, then every volume of its name, which Fly holds on to for a while after that."""
        async with _step(instance_id, ACT_S):
            machine = await self._find(instance_id)
            if machine is not None and not await self._destroyed(machine):
                return Observation(state=EngineState.STOPPING)
            left = [await self._delete(volume) for volume in await self._volumes_of(instance_id)]
            if not all(left):
                return Observation(state=EngineState.STOPPING)
            self._ids.pop(instance_id, None)
            self._failed_launches.pop(instance_id, None)
            return Observation(state=EngineState.ABSENT)

    async def observe(self, instance_id: str) -> Observation:
        """Looks at the machine, and where Fly says that it is started, at the engine's health endpoint."""
        async with _step(instance_id, LOOK_S):
            return await self._seen(instance_id, await self._find(instance_id))

    async def engines(self) -> list[FoundEngine]:
        """The app's machines, and the volumes that no machine holds. A started machine is RUNNING here, unasked."""
        # In this order: a volume whose machine came between the two is listed with its machine.
        volumes = [volume for volume in await self._api.volumes() if volume.state not in VOLUME_GONE]
        machines = [machine for machine in await self._api.machines(summary=False) if machine.state not in GONE]
        known = {machine.id for machine in machines} | {_instance_of(machine) for machine in machines}
        loose = [one for one in volumes if one.attached_to not in known and one.name not in known]
        found = [_found_machine(machine, self._config.installation) for machine in machines]
        return found + [_found_volume(volume) for volume in loose]

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()
        await self._http.aclose()

    async def _find(self, instance_id: str) -> Machine | None:
        """The instance's machine. Where we know of none, all are listed: one may have been made unseen by us."""
        known = self._ids.get(instance_id)
        if known is not None:
            machine = await self._api.machine(known)
            if machine is not None and machine.state not in GONE:
                return machine
            self._ids.pop(instance_id, None)
        for row in await self._machines.get():
            if row.name == machine_name(instance_id):
                return await self._ours(instance_id, row.id)
        return None

    async def _ours(self, instance_id: str, machine_id: str) -> Machine | None:
        """A machine that has our name, unless its metadata says that it is somebody else's."""
        machine = await self._api.machine(machine_id)
        if machine is None or machine.state in GONE or machine.metadata.get(INSTANCE) != instance_id:
            return None
        self._ids[instance_id] = machine.id
        return machine

    async def _create(self, spec: EngineSpec) -> Machine | None:
        """A machine on the instance's volume; None while that is not ready."""
        volumes = await self._volumes_of(spec.instance_id)
        volume = volumes[0] if volumes else await self._api.create_volume(volume_request(self._config, spec))
        if volume.state != VOLUME_READY:
            return None
        try:
            machine = await self._api.create_machine(machine_request(self._config, spec, volume.id))
        except (FlyFailed, FlyUnavailable) as error:
            if not error.name_taken:
                raise
            return await self._namesake(spec.instance_id)
        self._ids[spec.instance_id] = machine.id
        return await self._started(machine)

    async def _namesake(self, instance_id: str) -> Machine:
        """The machine that has the name which we wanted to give. Raises RuntimeFailed where it is not ours."""
        machine = await self._find(instance_id)
        if machine is not None:
            return machine
        name = machine_name(instance_id)
        if any(row.name == name for row in await self._machines.get()):
            raise RuntimeFailed(f"Fly has a machine named {name} already, and it is not this instance's.")
        raise RuntimeUnavailable(f"Fly says that there is a machine named {name}, and does not list it yet.")

    async def _launch_anew(self, instance_id: str, machine: Machine) -> Observation:
        """Puts another machine in the place of one that Fly could not launch. Raises RuntimeFailed at the third."""
        failed = self._failed_launches.get(instance_id, 0) + 1
        if failed >= LAUNCHES:
            self._failed_launches.pop(instance_id, None)
            last = machine.last_event or "no reason given"
            raise RuntimeFailed(f"Fly could not launch the machine, {LAUNCHES} times in a row (last event {last}).")
        await self._destroyed(machine)
        self._failed_launches[instance_id] = failed
        return Observation(state=EngineState.STOPPING)

    async def _destroyed(self, machine: Machine) -> bool:
        """Destroys a machine, and says whether it is gone."""
        if machine.state != "destroying":
            # Without a lease: nothing comes after this that another could spoil, and a machine that is held is refused.
            await self._api.destroy(machine.id)
        return await self._reached(machine, "destroyed")

    async def _started(self, machine: Machine) -> Machine:
        """The machine after a short wait for its start."""
        return replace(machine, state=STARTED) if await self._reached(machine, STARTED) else machine

    async def _reached(self, machine: Machine, state: str) -> bool:
        """Whether a state comes soon. This only saves time: what was asked for goes on, and the next look finds it."""
        try:
            return await self._api.wait(machine, state, WAIT_S)
        except FlyUnavailable:
            return False

    async def _volumes_of(self, instance_id: str) -> list[Volume]:
        """The instance's volumes, oldest first: that one has the data, should an unseen answer have led to two."""
        mine = [one for one in await self._volumes.get() if one.name == instance_id and one.state not in VOLUME_GONE]
        return sorted(mine, key=lambda volume: (volume.created_at is None, volume.created_at, volume.id))

    async def _delete(self, volume: Volume) -> bool:
        """Deletes a volume; False while Fly still holds it."""
        try:
            await self._api.delete_volume(volume.id)
        except FlyGone:
            return True
        except FlyUnavailable as error:
            if error.status not in BUSY:
                raise
            return False
        return True

    async def _without_machine(self, instance_id: str) -> EngineState:
        return EngineState.STOPPED if await self._volumes_of(instance_id) else EngineState.ABSENT

    async def _seen(self, instance_id: str, machine: Machine | None) -> Observation:
        """What is known of a machine; whether the engine in it is ready, it says itself."""
        if machine is None:
            return Observation(state=await self._without_machine(instance_id))
        state = _state(machine)
        if state is not EngineState.RUNNING:
            return Observation(state=state)
        where = upstream(self._config, machine.id, machine.private_ip)
        host = f"[{where.host}]" if ":" in where.host else where.host
        url = f"{'https' if where.tls else 'http'}://{host}:{where.port}/health/ready"
        try:
            answer = await self._http.get(url, headers=dict(where.headers), timeout=PROBE_TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL):
            return Observation(state=EngineState.STARTING)
        if answer.status_code != httpx.codes.OK:
            return Observation(state=EngineState.STARTING)
        self._failed_launches.pop(instance_id, None)
        return Observation(state=EngineState.RUNNING, upstream=where)

    @asynccontextmanager
    async def _leased(self, machine_id: str) -> AsyncIterator[str]:
        """Holds the machine, so that no worker that was thought dead changes it meanwhile. A crash frees it soon."""
        nonce = await self._api.lease(machine_id, LEASE_S)
        try:
            yield nonce
        finally:
            with suppress(RuntimeFailed, RuntimeUnavailable, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await self._api.release(machine_id, nonce)


@asynccontextmanager
async def _step(instance_id: str, seconds: float) -> AsyncIterator[None]:
    """Bounds a step in time. Whatever it had begun, the next one finds."""
    if INSTANCE_ID.fullmatch(instance_id) is None:
        raise RuntimeFailed(f"{instance_id!r} is not the id of an instance.")
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RuntimeUnavailable("Fly takes too long.", unreachable=True) from error


def _state(machine: Machine) -> EngineState:
    if machine.state == STARTED:
        return EngineState.RUNNING
    if machine.state in DOWN:
        return EngineState.STOPPED
    if machine.state in GONE:
        return EngineState.ABSENT
    return EngineState.STOPPING if machine.state in GOING_DOWN else EngineState.STARTING


def _instance_of(machine: Machine) -> str | None:
    named = machine.metadata.get(INSTANCE, "")
    return named if INSTANCE_ID.fullmatch(named) else None


def _found_machine(machine: Machine, installation: str) -> FoundEngine:
    ours = machine.metadata.get(INSTALLATION) == installation
    return FoundEngine(
        instance_id=_instance_of(machine) if ours else None,
        name=machine.name,
        state=_state(machine),
        created_at=machine.created_at,
        is_marked=ours,
    )


def _found_volume(volume: Volume) -> FoundEngine:
    """Volumes have no metadata: it may be that of another installation."""
    named = volume.name if INSTANCE_ID.fullmatch(volume.name) else None
    return FoundEngine(
        instance_id=named, name=volume.id, state=EngineState.STOPPED, created_at=volume.created_at, is_marked=False
    )
