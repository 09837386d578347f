"""The operations on volumes and apps."""

import re
import time

from tests.support.fly.cloud import Fly
from tests.support.fly.handling import Asked, Reply, handles
from tests.support.fly.model import GONE, VOLUME_GONE, Problem, Volume

# docs: names of volumes.
NAME = re.compile(r"[a-z0-9_]{1,30}")
DEFAULT_GB = 3


def wanted(fly: Fly, asked: Asked) -> Volume:
    """The volume that is asked for."""
    volume = fly.volumes.get(asked.path["volume_id"])
    if volume is None:
        raise Problem(404, f"volume {asked.path['volume_id']} not found")
    return volume


@handles("Volumes_list")
async def list_volumes(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, [volume.shown() for volume in fly.volumes.values()])


@handles("Volumes_get_by_id")
async def show_volume(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, wanted(fly, asked).shown())


@handles("Volumes_create")
async def create_volume(fly: Fly, asked: Asked) -> Reply:
    name, region = asked.body.get("name", ""), asked.body.get("region", "iad")
    if NAME.fullmatch(name) is None:
        raise Problem(422, "Validation failed: name may only contain lowercase letters, numbers and underscores")
    fly.check_capacity(region)
    folder = fly.folder / "volumes"
    volume = Volume(name, region, asked.body.get("size_gb", DEFAULT_GB), folder)
    volume.folder = folder / volume.id
    volume.folder.mkdir(parents=True)
    fly.volumes[volume.id] = volume
    return Reply(200, volume.shown())


@handles("Volumes_delete")
async def delete_volume(fly: Fly, asked: Asked) -> Reply:
    volume = wanted(fly, asked)
    if volume.state in VOLUME_GONE:
        raise Problem(404, f"volume {volume.id} not found")
    if volume.attached_to is not None:
        raise Problem(412, f"failed_precondition: volume {volume.id} is bound to machine {volume.attached_to}")
    if volume.is_busy:
        raise Problem(409, f"aborted: volume {volume.id} is being detached")
    fly.delete(volume)
    return Reply(200, volume.shown())


@handles("Apps_create")
async def create_app(fly: Fly, asked: Asked) -> Reply:
    name = asked.body.get("name", "")
    if re.fullmatch(r"[a-z0-9-]{1,62}", name) is None:
        raise Problem(422, "Validation failed: Name must be less than 63 characters: lowercase letters, digits, dashes")
    if name in fly.apps | fly.foreign_apps:
        raise Problem(422, "Validation failed: Name has already been taken", "name_taken")
    fly.apps.add(name)
    return Reply(201, {"id": name, "created_at": int(time.time() * 1000)})


@handles("Apps_show")
async def show_app(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, _shown(fly, asked.path["app_name"]))


@handles("Apps_list")
async def list_apps(fly: Fly, asked: Asked) -> Reply:
    return Reply(200, {"apps": [_shown(fly, name) for name in sorted(fly.apps)], "total_apps": len(fly.apps)})


@handles("Apps_delete")
async def delete_app(fly: Fly, asked: Asked) -> Reply:
    fly.apps.discard(asked.path["app_name"])
    return Reply(202)


def _shown(fly: Fly, name: str) -> dict[str, object]:
    return {
        "id": name,
        "name": name,
        "status": "deployed",
        "network": "default",
        "organization": {"name": "Tests", "slug": "tests"},
        "machine_count": sum(machine.state not in GONE for machine in fly.machines.values()),
        "volume_count": len(fly.volumes),
    }
