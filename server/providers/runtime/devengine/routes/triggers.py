"""Triggers: names that start sequences from outside."""

import hmac
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, tenants
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    NotImplementedHere,
    Unauthorized,
    mistyped,
)
from server.providers.runtime.devengine.models import JsonObject, Trigger
from server.providers.runtime.devengine.store import Taken

TYPES = {"webhook", "event"}
OTHER_TYPES = {"nats", "file_watch", "activepieces_poll", "kafka", "sqs", "pubsub", "redis_streams", "postgres_rows"}
MAX_NAME = 255


async def create(request: Request) -> Response:
    """Stores a trigger. Its secret is never shown again."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    slug, sequence_name = bodies.text(body, "slug"), bodies.text(body, "sequence_name")
    tenant_id = tenants.owner(request, bodies.text(body, "tenant_id"))
    namespace = bodies.text(body, "namespace", default="default")
    _check_names(slug, sequence_name)
    trigger_type, version = _type(body), bodies.optional_integer(body, "version")
    sealed = _sealed_secret(engine, body, slug)
    if engine.store.sequence_named(tenant_id, namespace, sequence_name, version) is None:
        raise NotFound(f"sequence {sequence_name} in namespace {namespace}")
    trigger = Trigger(
        slug=slug,
        sequence_name=sequence_name,
        version=version,
        tenant_id=tenant_id,
        namespace=namespace,
        trigger_type=trigger_type,
        sealed_secret=sealed,
        config=body.get("config"),
        created_at=time.time(),
    )
    try:
        engine.store.add_trigger(trigger)
    except Taken as error:
        raise AlreadyExists(f"trigger '{slug}'") from error
    return JSONResponse(trigger.as_json(), 201)


def _check_names(slug: str, sequence_name: str) -> None:
    if not slug or not sequence_name:
        raise InvalidArgument("slug and sequence_name are required")
    for name, value in (("slug", slug), ("sequence_name", sequence_name)):
        if len(value.encode()) > MAX_NAME:
            raise InvalidArgument(f"{name} must not exceed {MAX_NAME} characters")


def _type(body: JsonObject) -> str:
    kind = bodies.text(body, "trigger_type", default="webhook")
    if kind in OTHER_TYPES:
        raise NotImplementedHere(f"trigger type '{kind}'")
    if kind not in TYPES:
        raise mistyped("trigger_type", "one of `webhook`, `event`")
    return kind


def _sealed_secret(engine: Engine, body: JsonObject, slug: str) -> bytes | None:
    secret = bodies.optional_text(body, "secret")
    if secret == "":
        raise InvalidArgument("trigger secret cannot be empty; omit the field to leave the trigger unauthenticated")
    return None if secret is None else engine.sealer.seal(secret, f"trigger:{slug}")


async def index(request: Request) -> Response:
    """The triggers of a tenant."""
    engine: Engine = request.app.state.engine
    limit, _ = bodies.page(request)
    return JSONResponse([trigger.as_json() for trigger in engine.store.triggers(tenants.asked(request), limit)])


async def show(request: Request) -> Response:
    """One trigger."""
    return JSONResponse(_accessible(request).as_json())


async def delete(request: Request) -> Response:
    """Forgets a trigger."""
    engine: Engine = request.app.state.engine
    engine.store.remove_trigger(_accessible(request).slug)
    return Response(status_code=204)


async def fire(request: Request) -> Response:
    """Starts the trigger's sequence with the body as its data."""
    engine: Engine = request.app.state.engine
    data = await bodies.read_json(request)
    trigger = _accessible(request)
    secret = engine.trigger_secret(trigger)
    given = request.headers.get("x-trigger-secret", "")
    if secret is not None and not hmac.compare_digest(given.encode(), secret.encode()):
        raise Unauthorized("the trigger needs its secret in x-trigger-secret")
    instance = engine.fired(trigger, data, "http_fire")
    with engine.store.transaction():
        engine.store.add_instance(instance)
    engine.runner.start(instance.id)
    answer = {"instance_id": instance.id, "trigger": trigger.slug, "sequence_name": trigger.sequence_name}
    return JSONResponse(answer, 201)


def _accessible(request: Request) -> Trigger:
    engine: Engine = request.app.state.engine
    slug = request.path_params["slug"]
    trigger = engine.store.trigger(slug)
    if trigger is None:
        raise NotFound(f"trigger '{slug}'")
    tenants.require_access(request, trigger.tenant_id, f"trigger '{slug}'")
    return trigger


ROUTES = [
    Route("/triggers", create, methods=["POST"]),
    Route("/triggers", index),
    Route("/triggers/{slug}", show),
    Route("/triggers/{slug}", delete, methods=["DELETE"]),
    Route("/triggers/{slug}/fire", fire, methods=["POST"]),
]
