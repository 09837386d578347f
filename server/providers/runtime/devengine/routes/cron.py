"""Cron: when sequences start by themselves."""

import time
import uuid
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, cron, tenants
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import InvalidArgument, NotFound, mistyped
from server.providers.runtime.devengine.models import JsonObject, Schedule


async def create(request: Request) -> Response:
    """Stores a schedule."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    tenant_id = tenants.owner(request, bodies.text(body, "tenant_id"))
    now = time.time()
    schedule = Schedule(
        id=str(uuid.uuid4()),
        tenant_id=tenant_id,
        namespace=bodies.text(body, "namespace"),
        sequence_id=bodies.uuid_text(body, "sequence_id"),
        cron_expr=bodies.text(body, "cron_expr"),
        timezone=bodies.text(body, "timezone", default="UTC"),
        enabled=_enabled(body, default=True),
        metadata=body.get("metadata"),
        last_triggered_at=None,
        next_fire_at=None,
        created_at=now,
        updated_at=now,
    )
    # The engine finds out when the schedule fires; here a mistake shows at once.
    sequence = engine.store.sequence(schedule.sequence_id)
    if sequence is None or sequence.tenant_id != tenant_id:
        raise NotFound(f"sequence {schedule.sequence_id}")
    schedule = _timed(schedule)
    engine.store.put_schedule(schedule)
    return JSONResponse({"id": schedule.id, "next_fire_at": schedule.as_json()["next_fire_at"]}, 201)


def _timed(schedule: Schedule) -> Schedule:
    next_at = cron.parse(schedule.cron_expr, schedule.timezone).after(time.time())
    return replace(schedule, next_fire_at=next_at, updated_at=time.time())


def _enabled(body: JsonObject, *, default: bool) -> bool:
    value = body.get("enabled", default)
    if not isinstance(value, bool):
        raise mistyped("enabled", "a boolean")
    return value


async def index(request: Request) -> Response:
    """The schedules of a tenant."""
    engine: Engine = request.app.state.engine
    return JSONResponse([schedule.as_json() for schedule in engine.store.schedules(tenants.asked(request))])


async def show(request: Request) -> Response:
    """One schedule."""
    return JSONResponse(_accessible(request).as_json())


async def update(request: Request) -> Response:
    """Changes when, or whether, a schedule fires."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    schedule = _accessible(request)
    changes: dict[str, Any] = {"enabled": _enabled(body, default=schedule.enabled)}
    for field in ("cron_expr", "timezone"):
        changes |= {} if body.get(field) is None else {field: bodies.text(body, field)}
    if body.get("metadata") is not None:
        changes["metadata"] = body["metadata"]
    schedule = _timed(replace(schedule, **changes))
    engine.store.put_schedule(schedule)
    return JSONResponse(schedule.as_json())


async def delete(request: Request) -> Response:
    """Forgets a schedule. What it has started goes on."""
    engine: Engine = request.app.state.engine
    engine.store.remove_schedule(_accessible(request).id)
    return Response(status_code=204)


def _accessible(request: Request) -> Schedule:
    engine: Engine = request.app.state.engine
    given = request.path_params["id"]
    schedule_id = bodies.as_uuid(given)
    if schedule_id is None:
        raise InvalidArgument(f"{given!r} is not a UUID")
    schedule = engine.store.schedule(schedule_id)
    if schedule is None:
        raise NotFound(f"cron_schedule {schedule_id}")
    tenants.require_access(request, schedule.tenant_id, f"cron_schedule {schedule_id}")
    return schedule


ROUTES = [
    Route("/cron", create, methods=["POST"]),
    Route("/cron", index),
    Route("/cron/{id}", show),
    Route("/cron/{id}", update, methods=["PUT"]),
    Route("/cron/{id}", delete, methods=["DELETE"]),
]
