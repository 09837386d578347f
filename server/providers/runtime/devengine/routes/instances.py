"""Instances: executions of sequences."""

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, tenants
from server.providers.runtime.devengine.engine import Engine, context_of
from server.providers.runtime.devengine.errors import InvalidArgument, NotFound, NotImplementedHere, missing, mistyped
from server.providers.runtime.devengine.models import ACTIVE, Instance, JsonObject, State
from server.providers.runtime.devengine.runner import INPUT
from server.providers.runtime.devengine.store import Taken

# What the real engine would do and this one does not. Falsy values ask for nothing.
UNSUPPORTED = ("concurrency_key", "max_concurrency", "dry_run", "budget")
OTHER_STATES = {"paused"}


async def create(request: Request) -> Response:
    """Starts an execution, or names the one that was started under the same idempotency key."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    instance = _new(request, engine, body)
    try:
        with engine.store.transaction():
            engine.store.add_instance(instance)
    except Taken:
        known = engine.store.instance_keyed(instance.tenant_id, instance.idempotency_key or "")
        return JSONResponse({"id": known, "deduplicated": True})
    engine.runner.start(instance.id)
    return JSONResponse({"id": instance.id, "deduplicated": False}, 201)


def _new(request: Request, engine: Engine, body: JsonObject) -> Instance:
    sequence_id = bodies.uuid_text(body, "sequence_id")
    tenant_id = tenants.owner(request, bodies.text(body, "tenant_id"))
    namespace = bodies.text(body, "namespace")
    context = body.get("context") or {}
    if not isinstance(context, dict):
        raise mistyped("context", "a map")
    for field in UNSUPPORTED:
        if body.get(field):
            raise NotImplementedHere(f"'{field}' of an instance")
    sequence = engine.store.sequence(sequence_id)
    if sequence is None or sequence.tenant_id != tenant_id:
        raise NotFound(f"sequence {sequence_id}")
    return engine.new_instance(
        sequence,
        context=context_of(context),
        namespace=namespace,
        metadata=body.get("metadata"),
        priority=body.get("priority") or "Normal",
        timezone=bodies.text(body, "timezone", default="UTC"),
        next_fire_at=bodies.moment(body, "next_fire_at"),
        idempotency_key=bodies.optional_text(body, "idempotency_key") or None,
    )


async def index(request: Request) -> Response:
    """A page of instances, the newest first."""
    engine: Engine = request.app.state.engine
    limit, offset = bodies.page(request)
    query = request.query_params
    filters = {
        "tenant_id": tenants.asked(request),
        "namespace": query.get("namespace"),
        "sequence_id": query.get("sequence_id"),
    }
    found = engine.store.instances(filters, _states(query.get("state", "")), limit + 1, offset)
    return JSONResponse({"items": [item.as_json() for item in found[:limit]], "has_more": len(found) > limit})


def _states(text: str) -> list[str]:
    states = [part.strip() for part in text.split(",") if part.strip()]
    for state in states:
        if state not in {*State, *OTHER_STATES}:
            raise InvalidArgument(f"unknown instance state: {state}")
    return states


async def show(request: Request) -> Response:
    """One instance."""
    return JSONResponse(accessible(request).as_json())


async def outputs(request: Request) -> Response:
    """What the finished steps of an instance left."""
    engine: Engine = request.app.state.engine
    instance = accessible(request)
    return JSONResponse([output.as_json() for output in engine.store.outputs(instance.id)])


async def signal(request: Request) -> Response:
    """Cancels an instance, or gives a step the input that it waits for. Other signals are not known here."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    instance = accessible(request)
    kind = body.get("signal_type")
    if kind is None:
        raise missing("signal_type")
    name = kind.get("custom") if isinstance(kind, dict) else None
    if kind != "cancel" and not (isinstance(name, str) and name.startswith(INPUT)):
        raise NotImplementedHere(f"signal {kind!r}; only 'cancel' and {{'custom': '{INPUT}<block>'}} are")
    if instance.state not in ACTIVE or (kind == "cancel" and not engine.runner.cancel(instance.id)):
        raise InvalidArgument(f"cannot send signal to instance {instance.id}: target is in a terminal state")
    if isinstance(name, str):
        engine.runner.signal(instance.id, name, body.get("payload"))
    return JSONResponse({"signal_id": str(uuid.uuid4())}, 201)


def accessible(request: Request) -> Instance:
    """The instance of the path, for the caller's tenant. Raises InvalidArgument or NotFound."""
    engine: Engine = request.app.state.engine
    given = request.path_params["id"]
    instance_id = bodies.as_uuid(given)
    if instance_id is None:
        raise InvalidArgument(f"{given!r} is not a UUID")
    instance = engine.store.instance(instance_id)
    if instance is None:
        raise NotFound(f"instance {instance_id}")
    tenants.require_access(request, instance.tenant_id, f"instance {instance_id}")
    return instance


ROUTES = [
    Route("/instances", create, methods=["POST"]),
    Route("/instances", index),
    Route("/instances/{id}", show),
    Route("/instances/{id}/outputs", outputs),
    Route("/instances/{id}/signals", signal, methods=["POST"]),
]
