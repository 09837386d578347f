"""Credentials: secrets that steps refer to as `credentials://<id>[/field]`. Written, never read back."""

import re
import time
from dataclasses import replace

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
    mistyped,
)
from server.providers.runtime.devengine.models import Credential, JsonObject, timestamp
from server.providers.runtime.devengine.store import Taken

KINDS = {"api_key", "oauth2", "basic"}
ID = re.compile(r"[A-Za-z0-9_.-]{1,255}")


async def create(request: Request) -> Response:
    """Stores a credential, sealed."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    credential_id, name, value = (bodies.text(body, field) for field in ("id", "name", "value"))
    tenant_id = tenants.owner(request, bodies.text(body, "tenant_id", default=""), may_be_shared=True)
    if not credential_id or not name or not value:
        raise InvalidArgument("id, name, and value are required")
    if not ID.fullmatch(credential_id):
        raise InvalidArgument("id may only contain up to 255 alphanumerics, '-', '_', '.'")
    _refuse_refresh(body)
    now = time.time()
    credential = Credential(
        id=credential_id,
        tenant_id=tenant_id,
        name=name,
        kind=_kind(body, "api_key"),
        sealed_value=engine.sealer.seal(value, f"credential:{credential_id}"),
        expires_at=_expiry(body),
        description=bodies.optional_text(body, "description"),
        enabled=True,
        created_at=now,
        updated_at=now,
    )
    try:
        engine.store.add_credential(credential)
    except Taken as error:
        raise AlreadyExists(f"credential '{credential_id}'") from error
    return JSONResponse(credential.as_json(), 201)


async def index(request: Request) -> Response:
    """The credentials of a tenant."""
    engine: Engine = request.app.state.engine
    return JSONResponse([item.as_json() for item in engine.store.credentials(tenants.asked(request))])


async def show(request: Request) -> Response:
    """One credential."""
    return JSONResponse(_accessible(request).as_json())


async def update(request: Request) -> Response:
    """Changes what is named; absent and null leave a field as it is."""
    engine: Engine = request.app.state.engine
    body = await bodies.read_object(request)
    old = _accessible(request)
    _refuse_refresh(body)
    value, enabled = bodies.optional_text(body, "value"), body.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise mistyped("enabled", "a boolean")
    new = replace(
        old,
        name=bodies.optional_text(body, "name") or old.name,
        kind=_kind(body, old.kind),
        sealed_value=engine.sealer.seal(value, f"credential:{old.id}") if value else old.sealed_value,
        expires_at=_expiry(body) or old.expires_at,
        description=bodies.optional_text(body, "description") or old.description,
        enabled=old.enabled if enabled is None else enabled,
        updated_at=time.time(),
    )
    engine.store.replace_credential(new)
    return JSONResponse(new.as_json())


async def delete(request: Request) -> Response:
    """Forgets a credential."""
    engine: Engine = request.app.state.engine
    engine.store.remove_credential(_accessible(request).id)
    return Response(status_code=204)


def _refuse_refresh(body: JsonObject) -> None:
    if body.get("refresh_url") or body.get("refresh_token"):
        raise NotImplementedHere("refreshing of OAuth tokens")


def _kind(body: JsonObject, default: str) -> str:
    kind = bodies.optional_text(body, "kind") or default
    if kind not in KINDS:
        raise mistyped("kind", "one of `api_key`, `oauth2`, `basic`")
    return kind


def _expiry(body: JsonObject) -> str | None:
    at = bodies.moment(body, "expires_at")
    return None if at is None else timestamp(at)


def _accessible(request: Request) -> Credential:
    engine: Engine = request.app.state.engine
    credential_id = request.path_params["id"]
    credential = engine.store.credential(credential_id)
    if credential is None:
        raise NotFound(f"credential '{credential_id}'")
    tenants.require_access(request, credential.tenant_id, f"credential '{credential_id}'")
    return credential


ROUTES = [
    Route("/credentials", create, methods=["POST"]),
    Route("/credentials", index),
    Route("/credentials/{id}", show),
    Route("/credentials/{id}", update, methods=["PATCH"]),
    Route("/credentials/{id}", delete, methods=["DELETE"]),
]
