"""Server-sent events as a browser reads them (HTML, 9.2.6), from a real connection."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Sent:
    """One event, or (without a kind) a place that was remembered."""

    kind: str
    data: Any
    last_id: str


async def read(lines: AsyncIterator[str]) -> AsyncIterator[Sent]:
    """Events until the stream ends."""
    kind, data, last_id, named = "", "", "", False
    async for line in lines:
        name, _, value = line.partition(":")
        match name:
            case "event":
                kind = value.strip()
            case "data":
                data += value.strip()
            case "id":
                last_id, named = value.strip(), True
            case "" if not line and (data or named):
                yield Sent(kind if data else "", json.loads(data) if data else None, last_id)
                kind, data, named = "", "", False


@asynccontextmanager
async def following(
    http: httpx.AsyncClient, headers: dict[str, str], last_event_id: str | None = None, **query: Any
) -> AsyncIterator[AsyncIterator[Sent]]:
    """Follows GET /api/events; the first thing that it says, where it begins, has come already."""
    more = {} if last_event_id is None else {"last-event-id": last_event_id}
    async with http.stream("GET", "/api/events", headers=headers | more, params=query, timeout=60) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream"
        async with aclosing(read(answer.aiter_lines())) as events:  # type: ignore[type-var]
            yield events
