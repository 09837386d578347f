"""The operations on machines."""

import asyncio
import time
from typing import Any

from tests.support.fly.cloud import Fly
from tests.support.fly.handling import Asked, Reply, handles
from tests.support.fly.leases import check_lease, new_lease
from tests.support.fly.model import GONE, PERSISTENT, Machine, Problem, Volume

OK = {"ok": True}
STARTABLE = ("stopped", "suspended")
STOPPABLE = ("started", "suspended", "stopped")
REMOVABLE = ("created", "stopped", "suspended", "failed")
WAIT_DEFAULT_S, WAIT_LEAST_S, WAIT_MOST_S = 60, 1, 60
_POLL_S = 0.01


def wanted(fly: Fly, asked: Asked) -> Machine:
    """The machine that is asked for."""
    machine = fly.machines.get(asked.path["machine_id"])
    if machine is None:
        raise Problem(404, f"machine {asked.path['machine_id']} not found")
    return machine


def mutable(fly: Fly, asked: Asked) -> Machine:
    """The machine, which the caller may change now."""
    machine = wanted(fly, asked)
    if machine.state in (*GONE, "destroying"):
        raise Problem(404, f"machine {machine.id} not found")
    check_lease(machine, asked)
    return machine


@handles("Machines_list")
async def list_machines(fly: Fly, asked: Asked) -> Reply:
    states = asked.query.get("state")
    summary = asked.query.get("summary") == "true"
    labels = {name.partition(".")[2]: value for name, value in asked.query.items() if name.startswith("metadata.")}
    found = [
        machine.shown(summary=summary)
        for machine in fly.machines.values()
        if (machine.state not in GONE or asked.query.get("include_deleted") == "true")
        and (states is None or machine.state in states.split(","))
        and asked.query.get("region") in (None, machine.region)
        and labels.items() <= machine.config.get("metadata", {}).items()
    ]
    return Reply(200, found)


@handles("Machines_show")
async def show_machine(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, wanted(fly, asked).shown())


@handles("Machines_create")
async def create_machine(fly: Fly, asked: Asked) -> Reply:
    config = asked.body.get("config") or {}
    if not config.get("image"):
        raise Problem(422, "config.image is required")
    name = asked.body.get("name") or f"machine-{len(fly.machines)}"
    region = asked.body.get("region", "iad")
    _check_name(fly, name)
    volumes = [_attachable(fly, row, region) for row in config.get("mounts", ())]
    fly.check_capacity(region)
    machine = Machine(name=name, region=region, config=config, private_ip=fly.new_address())
    for volume in volumes:
        volume.attached_to = machine.id
    fly.machines[machine.id] = machine
    if not asked.body.get("skip_launch"):
        fly.launch(machine)
    shown = machine.shown()
    if asked.body.get("lease_ttl"):
        machine.lease = new_lease(asked.body["lease_ttl"])
        shown["nonce"] = machine.lease.nonce
    return Reply(200, shown)


def _check_name(fly: Fly, name: str) -> None:
    taken = [one for one in fly.machines.values() if one.name == name and one.state not in GONE]
    if taken and fly.taken_status == 409:
        raise Problem(409, f"already_exists: unique machine name violation, machine ID {taken[0].id} already exists")
    if taken:
        raise Problem(422, "Validation failed: Name has already been taken", "name_taken")


def _attachable(fly: Fly, row: dict[str, Any], region: str) -> Volume:
    volume = fly.volumes.get(row.get("volume", ""))
    if volume is None or volume.state != "created":
        raise Problem(422, f"volume {row.get('volume')} not found")
    if volume.attached_to is not None or volume.is_busy:
        raise Problem(412, f"failed_precondition: volume {volume.id} is in use by machine {volume.attached_to}")
    if volume.region != region:
        raise Problem(422, f"volume {volume.id} is in region {volume.region}, not {region}")
    return volume


@handles("Machines_update")
async def update_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    version = asked.body.get("current_version")
    if version is not None and version != machine.instance_id:
        raise Problem(409, f"aborted: machine version is {machine.instance_id}, not {version}")
    machine.config = asked.body["config"]
    machine.new_version()
    if not asked.body.get("skip_launch"):
        fly.restart(machine, "replacing")
    return Reply(200, machine.shown())


@handles("Machines_start")
async def start_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    before = machine.state
    if before not in STARTABLE and before != "started":
        raise Problem(412, f"failed_precondition: unable to start machine from current state: '{before}'")
    if before != "started":
        fly.check_capacity(machine.region)
        fly.start(machine)
    return Reply(200, {"previous_state": before, "migrated": False, "new_host": ""})


@handles("Machines_stop")
async def stop_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    if machine.state not in STOPPABLE:
        raise Problem(412, f"failed_precondition: unable to stop machine from current state: '{machine.state}'")
    if machine.state != "stopped":
        fly.stop(machine, goal="stopped")
    return Reply(200, OK)


@handles("Machines_suspend")
async def suspend_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    if machine.config.get("guest", {}).get("memory_mb", 256) > 2048:
        raise Problem(400, "machine has more than 2048 MB of memory and cannot be suspended")
    if machine.state not in ("started", "suspended"):
        raise Problem(412, f"failed_precondition: unable to suspend machine from current state: '{machine.state}'")
    if machine.state != "suspended":
        fly.stop(machine, goal="suspended")
    return Reply(200, OK)


@handles("Machines_restart")
async def restart_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    if machine.state != "started":
        raise Problem(412, f"failed_precondition: unable to restart machine from current state: '{machine.state}'")
    fly.restart(machine)
    return Reply(200, OK)


@handles("Machines_delete")
async def delete_machine(fly: Fly, asked: Asked) -> Reply:
    machine = mutable(fly, asked)
    forced = "true" in (asked.query.get("force"), asked.query.get("kill"))
    if machine.state not in REMOVABLE and not forced:
        raise Problem(412, f"failed_precondition: unable to destroy machine from current state: '{machine.state}'")
    fly.destroy(machine)
    return Reply(200, OK)


@handles("Machines_wait")
async def wait_machine(fly: Fly, asked: Asked) -> Reply:
    machine = wanted(fly, asked)
    want = asked.query.get("state", "started")
    version = asked.query.get("version", asked.query.get("instance_id"))
    if want == "stopped" and version is None:
        raise Problem(400, "invalid_argument: instance_id is required when waiting for state stopped")
    if version not in (None, machine.instance_id):
        raise Problem(400, f"invalid_argument: {version} is not the machine's version")
    seconds = min(max(int(asked.query.get("timeout", WAIT_DEFAULT_S)), WAIT_LEAST_S), WAIT_MOST_S)
    until = time.monotonic() + seconds
    while machine.state != want and not (want == "settled" and machine.state in PERSISTENT):
        if time.monotonic() > until:
            now = machine.state
            raise Problem(408, f"deadline_exceeded: machine failed to reach desired state, {want}, currently {now}")
        await asyncio.sleep(_POLL_S)
    event = {"event_id": machine.events[0]["id"]} if machine.events else {}
    return Reply(200, {"ok": True, "state": machine.state, "version": machine.instance_id} | event)


@handles("Machines_cordon")
async def cordon_machine(fly: Fly, asked: Asked) -> Reply:
    mutable(fly, asked).cordoned = True
    return Reply(200, OK)


@handles("Machines_uncordon")
async def uncordon_machine(fly: Fly, asked: Asked) -> Reply:
    mutable(fly, asked).cordoned = False
    return Reply(200, OK)


@handles("Machines_list_events")
async def list_events(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, wanted(fly, asked).events[: int(asked.query.get("limit", 20))])


@handles("Machines_show_metadata")
async def show_metadata(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, wanted(fly, asked).config.get("metadata", {}))


@handles("Machines_get_metadata_key")
async def get_metadata(fly: Fly, asked: Asked) -> Reply:
    found = wanted(fly, asked).config.get("metadata", {})
    if asked.path["key"] not in found:
        raise Problem(404, "metadata key not found")
    return Reply(200, {"value": found[asked.path["key"]]})


@handles("Machines_upsert_metadata")
async def set_metadata(fly: Fly, asked: Asked) -> Reply:
    wanted(fly, asked).config.setdefault("metadata", {})[asked.path["key"]] = asked.body["value"]
    return Reply(204)


@handles("Machines_delete_metadata")
async def delete_metadata(fly: Fly, asked: Asked) -> Reply:
    wanted(fly, asked).config.get("metadata", {}).pop(asked.path["key"], None)
    return Reply(204)
