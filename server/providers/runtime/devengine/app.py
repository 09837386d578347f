"""Puts the engine together from its settings."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from server.providers.runtime.devengine import log
from server.providers.runtime.devengine.engine import VERSION, Engine, RateLimit
from server.providers.runtime.devengine.errors import ApiError, Undecodable
from server.providers.runtime.devengine.export import Exporter
from server.providers.runtime.devengine.front import Front
from server.providers.runtime.devengine.handlers import Handlers
from server.providers.runtime.devengine.routes import ROUTES
from server.providers.runtime.devengine.runner import Runner
from server.providers.runtime.devengine.schedules import keep_schedules
from server.providers.runtime.devengine.sealing import SealBroken, Sealer, own_key
from server.providers.runtime.devengine.settings import Settings, WrongSetting
from server.providers.runtime.devengine.store import Store

WEBHOOKS_PER_SECOND = 300
KEY_CHECK = "encryption-key"


def build(settings: Settings, stopping: asyncio.Event) -> ASGIApp:
    """The application. Raises WrongSetting when the database cannot be used with these settings."""
    engine = _engine(settings)
    routes = Starlette(
        routes=ROUTES,
        exception_handlers={ApiError: _refused, Undecodable: _undecodable, HTTPException: _http, Exception: _broken},
        lifespan=lambda _: _lifespan(engine),
    )
    routes.state.engine = engine
    routes.state.stopping = stopping
    return Front(routes, engine)


def _engine(settings: Settings) -> Engine:
    folder = settings.database.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        limit = settings.export.max_buffered_events if settings.export else 0
        store = Store(settings.database, event_limit=limit)
    except (OSError, sqlite3.Error) as error:
        raise WrongSetting(f"ORCH8_DATABASE_URL names a file that cannot be used: {error}.") from error
    sealer = Sealer(settings.encryption_key or own_key(folder))
    _check_key(store, sealer)
    handlers = Handlers(allow_internal_urls=settings.allow_internal_urls)
    return Engine(
        settings=settings,
        store=store,
        sealer=sealer,
        runner=Runner(store, sealer, handlers),
        webhook_limit=RateLimit(per_second=WEBHOOKS_PER_SECOND),
    )


def _check_key(store: Store, sealer: Sealer) -> None:
    """A wrong key is found at the start, not when the first webhook comes."""
    sealed = store.meta(KEY_CHECK)
    if sealed is None:
        store.set_meta(KEY_CHECK, sealer.seal(KEY_CHECK, KEY_CHECK))
        return
    try:
        sealer.open(sealed, KEY_CHECK)
    except SealBroken as error:
        raise WrongSetting("ORCH8_ENCRYPTION_KEY is not the key that this database was made with.") from error


@asynccontextmanager
async def _lifespan(engine: Engine) -> AsyncIterator[None]:
    export = engine.settings.export
    exporter = Exporter(export, engine.store, VERSION) if export else None
    if exporter:
        exporter.start()
    engine.runner.resume()
    clock = asyncio.create_task(keep_schedules(engine))
    yield
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)
    await engine.runner.stop()
    if exporter:
        await exporter.stop()
    engine.store.close()


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse({"error": f"{error.prefix}: {error.detail}"}, error.status)


async def _undecodable(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Undecodable)
    return PlainTextResponse(error.text, error.status)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(status_code=error.status_code, headers=error.headers)


async def _broken(_request: Request, error: Exception) -> Response:
    log.LOGGER.error("a request has failed by a fault of the engine", exc_info=error)
    return JSONResponse({"error": "internal server error"}, 500)
