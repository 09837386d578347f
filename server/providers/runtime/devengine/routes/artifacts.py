"""Artifacts: bytes under a key with slashes, streamed to and from files next to the database, never held in memory."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, tenants
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import InvalidArgument, NotFound

MAX_BYTES = 4 * 1024**3
BUFFER = 1024 * 1024
MAX_KEY = 1024


async def put(request: Request) -> Response:
    """Stores the body under the key, all of it or nothing."""
    path = _path(request)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            size = await _write(file, bodies.capped(request, MAX_BYTES))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return JSONResponse({"key": request.path_params["key"], "size": size}, 201)


async def _write(file: BinaryIO, chunks: AsyncIterator[bytes]) -> int:
    """Writes in pieces of a mebibyte on another thread, since a slow disk must not stall the other requests."""
    size, buffer = 0, bytearray()
    async for chunk in chunks:
        size += len(chunk)
        buffer += chunk
        if len(buffer) >= BUFFER:
            await asyncio.to_thread(file.write, bytes(buffer))
            buffer.clear()
    file.write(buffer)
    return size


async def get(request: Request) -> Response:
    """Streams what was stored."""
    path = _path(request)
    if not path.is_file():
        raise NotFound(f"artifact '{request.path_params['key']}'")
    return FileResponse(path, media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    """Forgets what was stored."""
    try:
        os.unlink(_path(request))
    except FileNotFoundError as error:
        raise NotFound(f"artifact '{request.path_params['key']}'") from error
    return Response(status_code=204)


def _path(request: Request) -> Path:
    """The file of a key, named by a hash over tenant and key, so that no key leads out of the folder."""
    engine: Engine = request.app.state.engine
    key: str = request.path_params["key"]
    if len(key) > MAX_KEY or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key or "\\" in key:
        raise InvalidArgument("an artifact key is a relative path without empty, '.' or '..' parts")
    owner = tenants.caller(request) or ""
    name = hashlib.sha256(f"{owner}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
    return engine.settings.artifacts / name[:2] / name


ROUTES = [
    Route("/artifacts/{key:path}", put, methods=["PUT"]),
    Route("/artifacts/{key:path}", get),
    Route("/artifacts/{key:path}", delete, methods=["DELETE"]),
]
