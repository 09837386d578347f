"""Leases: while one is held, only who knows its nonce may change the machine."""

import secrets
import time
from datetime import UTC, datetime

from tests.support.fly.cloud import Fly
from tests.support.fly.handling import Asked, Reply, handles
from tests.support.fly.model import Lease, Machine, Problem

NONCE = "fly-machine-lease-nonce"
OWNER = "tests@example.com"


def check_lease(machine: Machine, asked: Asked) -> None:
    """Raises where somebody else holds the machine."""
    held = machine.held_by
    if held is not None and asked.headers.get(NONCE) != held.nonce:
        raise Problem(409, _held(machine, held))


def new_lease(ttl: int, description: str = "") -> Lease:
    """A lease of so many seconds."""
    return Lease(secrets.token_hex(6), OWNER, description, time.time() + ttl)


def _held(machine: Machine, lease: Lease) -> str:
    until = datetime.fromtimestamp(lease.expires_at, UTC).isoformat()
    return f"machine ID {machine.id} lease currently held by {lease.owner}, expires at {until}"


def _problem(status: int, message: str) -> Problem:
    """Leases have a shape of error of their own."""
    return Problem(status, message, body={"status": "error", "message": message})


def _machine(fly: Fly, asked: Asked) -> Machine:
    machine = fly.machines.get(asked.path["machine_id"])
    if machine is None or machine.state in ("destroyed", "destroying"):
        raise Problem(404, "machine not found")
    return machine


@handles("Machines_create_lease")
async def create_lease(fly: Fly, asked: Asked) -> Reply:
    machine = _machine(fly, asked)
    held, ttl = machine.held_by, int((asked.body or {}).get("ttl", 10))
    if held is not None and asked.headers.get(NONCE) != held.nonce:
        raise _problem(409, _held(machine, held))
    if held is not None:
        held.expires_at = time.time() + ttl
    machine.lease = held or new_lease(ttl, (asked.body or {}).get("description", ""))
    return Reply(201, {"status": "success", "data": machine.lease.shown(machine.instance_id)})


@handles("Machines_show_lease")
async def show_lease(fly: Fly, asked: Asked) -> Reply:
    machine = _machine(fly, asked)
    if machine.held_by is None:
        raise _problem(404, f"no lease found for machine {machine.id}")
    return Reply(200, {"status": "success", "data": machine.held_by.shown(machine.instance_id)})


@handles("Machines_release_lease")
async def release_lease(fly: Fly, asked: Asked) -> Reply:
    machine = _machine(fly, asked)
    if machine.held_by is None:
        raise _problem(404, f"no lease found for machine {machine.id}")
    if asked.headers.get(NONCE) != machine.held_by.nonce:
        raise _problem(409, _held(machine, machine.held_by))
    machine.lease = None
    return Reply(200, {"ok": True})
