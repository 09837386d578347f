"""Sequences: what can be executed."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, definitions, tenants
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, missing
from server.providers.runtime.devengine.models import Sequence
from server.providers.runtime.devengine.store import Taken


async def create(request: Request) -> Response:
    """Stores a sequence as it was posted, if this engine can run it."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    sequence_id = bodies.uuid_text(body, "id")
    tenant_id, namespace, name = (bodies.text(body, field) for field in ("tenant_id", "namespace", "name"))
    version = bodies.integer(body, "version")
    if "blocks" not in body:
        raise missing("blocks")
    bodies.moment(body, "created_at", required=True)
    tenant_id = tenants.owner(request, tenant_id)
    if not name or not namespace:
        raise InvalidArgument("name and namespace must not be empty")
    definitions.check(body)
    body = {**body, "id": sequence_id, "tenant_id": tenant_id, "deprecated": bool(body.get("deprecated"))}
    try:
        engine.store.add_sequence(
            Sequence(id=sequence_id, tenant_id=tenant_id, namespace=namespace, name=name, version=version, body=body)
        )
    except Taken as error:
        raise AlreadyExists(f"sequence {name} version {version}, or its id") from error
    return JSONResponse({"id": sequence_id}, 201)


async def index(request: Request) -> Response:
    """A page of sequences."""
    engine: Engine = request.app.state.engine
    limit, offset = bodies.page(request)
    query = request.query_params
    filters = {
        "tenant_id": tenants.asked(request),
        "namespace": query.get("namespace"),
        "name": query.get("name"),
    }
    found = engine.store.sequences(filters, limit + 1, offset)
    return JSONResponse({"items": [item.body for item in found[:limit]], "has_more": len(found) > limit})


async def show(request: Request) -> Response:
    """One sequence."""
    return JSONResponse(_accessible(request).body)


async def by_name(request: Request) -> Response:
    """One version of a sequence, or its newest."""
    engine: Engine = request.app.state.engine
    query = request.query_params
    tenant_id, namespace, name = tenants.asked(request), query.get("namespace"), query.get("name")
    if tenant_id is None or namespace is None or name is None:
        raise InvalidArgument("tenant_id, namespace and name are required")
    version = query.get("version")
    if version is not None and not version.isdecimal():
        raise InvalidArgument("version must be a whole number")
    found = engine.store.sequence_named(tenant_id, namespace, name, None if version is None else int(version))
    if found is None:
        raise NotFound(f"sequence {name}")
    return JSONResponse(found.body)


async def delete(request: Request) -> Response:
    """Forgets a sequence that no unfinished instance needs."""
    engine: Engine = request.app.state.engine
    sequence = _accessible(request)
    if engine.store.is_in_use(sequence.id):
        raise Conflict(f"sequence {sequence.id} has instances that have not ended; cancel them first")
    engine.store.remove_sequence(sequence.id)
    return Response(status_code=204)


def _accessible(request: Request) -> Sequence:
    engine: Engine = request.app.state.engine
    given = request.path_params["id"]
    sequence_id = bodies.as_uuid(given)
    if sequence_id is None:
        raise InvalidArgument(f"{given!r} is not a UUID")
    sequence = engine.store.sequence(sequence_id)
    if sequence is None:
        raise NotFound(f"sequence {sequence_id}")
    tenants.require_access(request, sequence.tenant_id, f"sequence {sequence_id}")
    return sequence


ROUTES = [
    Route("/sequences", create, methods=["POST"]),
    Route("/sequences", index),
    Route("/sequences/by-name", by_name),
    Route("/sequences/{id}", show),
    Route("/sequences/{id}", delete, methods=["DELETE"]),
]
