"""Health, version, and the workers' poll, which never has anything: no step of this engine waits for a worker."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies
from server.providers.runtime.devengine.engine import VERSION, Engine
from server.providers.runtime.devengine.store import SCHEMA_VERSION


async def live(_request: Request) -> Response:
    """The process answers."""
    return Response()


async def ready(request: Request) -> Response:
    """The database answers."""
    engine: Engine = request.app.state.engine
    return Response(status_code=200 if engine.store.ready() else 503)


async def info(request: Request) -> Response:
    """What this engine is."""
    settings = request.app.state.engine.settings
    return JSONResponse(
        {
            "version": VERSION,
            "storage_schema_version": SCHEMA_VERSION,
            "contract_schema_version": 1,
            "env_label": settings.env_label,
            "env_color": settings.env_color,
        }
    )


async def poll(request: Request) -> Response:
    """The tasks for a worker: none, ever, in the bare array of engine 0.7."""
    body = await bodies.read_object(request)
    for field in ("handler_name", "worker_id"):
        bodies.text(body, field)
    return JSONResponse([])


ROUTES = [
    Route("/health/live", live),
    Route("/health/ready", ready),
    Route("/info", info),
    Route("/workers/tasks/poll", poll, methods=["POST"]),
]
