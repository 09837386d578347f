"""The progress of an instance as server-sent events: `state`, `output`, `done`, and a comment every 15 seconds."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.errors import InvalidArgument, Unavailable
from server.providers.runtime.devengine.models import ACTIVE, JsonObject, State
from server.providers.runtime.devengine.routes.instances import accessible

MAX_STREAMS = 256
PING_S = 15.0
PING = ":\n\n"


async def stream(request: Request) -> Response:
    """Follows an instance to its end, without a limit on time. Raises Unavailable above 256 streams."""
    engine: Engine = request.app.state.engine
    instance = accessible(request)
    poll_ms = request.query_params.get("poll_ms", "500")
    if not re.fullmatch(r"[0-9]{1,9}", poll_ms):
        raise InvalidArgument("poll_ms must be a whole number")
    if engine.open_streams >= MAX_STREAMS:
        raise Unavailable("too many concurrent streaming clients; retry later")
    events = _follow(engine, instance.id, min(max(int(poll_ms), 100), 5000) / 1000, request.app.state.stopping)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def _follow(engine: Engine, instance_id: str, poll_s: float, stopping: asyncio.Event) -> AsyncIterator[str]:
    engine.open_streams += 1
    try:
        state: State | None = None
        serial, sent_at = 0, time.monotonic()
        while not stopping.is_set() and (state is None or state in ACTIVE):
            text, state, serial = _news(engine, instance_id, state, serial)
            if text or time.monotonic() - sent_at >= PING_S:
                yield text or PING
                sent_at = time.monotonic()
            if state in ACTIVE:
                await _tick(stopping, min(poll_s, max(0.0, sent_at + PING_S - time.monotonic())))
    finally:
        engine.open_streams -= 1


def _news(engine: Engine, instance_id: str, before: State | None, serial: int) -> tuple[str, State | None, int]:
    """The events since the last look, and where to look from next."""
    instance = engine.store.instance(instance_id)
    if instance is None:
        return _event("error", {"error": "instance not found"}), State.FAILED, serial
    text = ""
    if instance.state is not before:
        text += _event("state", {"instance_id": instance_id, "state": instance.state.value})
    for output in engine.store.outputs(instance_id, serial):
        text += _event("output", output.as_json())
        serial = output.serial
    if instance.state not in ACTIVE:
        text += _event("done", {"state": instance.state.value})
    return text, instance.state, serial


async def _tick(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return


def _event(name: str, data: JsonObject) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


ROUTES = [Route("/instances/{id}/stream", stream)]
