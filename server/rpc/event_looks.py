"""What subscribers are told, in bytes: as messages, or as server-sent events. Each batch is put into bytes once."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from google.api.httpbody_pb2 import HttpBody
from orch8cloud.v1 import events_pb2 as pb

from server.domain.events import Event
from server.errors import CloudError
from server.rpc.convert import rfc3339, struct, timestamp
from server.services.event_feed import Batch
from server.services.events import News

EVENT_STREAM = "text/event-stream"
# Milliseconds after which browsers come again when the stream has ended.
RETRY_MS = 2_000


def opening(news: News) -> bytes:
    """The first of server-sent events: where the stream begins. Of an id without data readers make no event."""
    return _body([b"retry: %d\n" % RETRY_MS, _reset(news), _place(news)])


def server_sent(news: News) -> bytes:
    """Server-sent events; where there are none, how far all is told, which keeps the connection from being closed."""
    events = [_look(batch, EVENT_STREAM, _all_sent) for batch in news.batches]
    return _body([_reset(news), *(events or [_place(news)])])


def ending(error: CloudError) -> bytes:
    """The last event: why the stream ends. The error's own status does not reach REST clients any more."""
    return _body([_control("stream.end", {"reason": error.reason, "message": error.message})])


def message(news: News) -> bytes:
    """A WatchEventsResponse. Its events are the same bytes for all: repeated fields of two messages add up."""
    events = [_look(batch, "message", _all_messages) for batch in news.batches]
    rest = pb.WatchEventsResponse(last_event_id=str(news.cursor), reset=news.reset)
    return b"".join((*events, rest.SerializeToString()))


def _look(batch: Batch, name: str, make: Callable[[Iterable[Event]], bytes]) -> bytes:
    if name not in batch.looks:
        batch.looks[name] = make(batch.events)
    return batch.looks[name]


def _body(parts: Iterable[bytes]) -> bytes:
    body: bytes = HttpBody(content_type=EVENT_STREAM, data=b"".join(parts)).SerializeToString()
    return body


def _all_sent(events: Iterable[Event]) -> bytes:
    return b"".join(_sent(one) for one in events)


def _sent(event: Event) -> bytes:
    data = json.dumps(_fields(event), separators=(",", ":"), ensure_ascii=False)
    return f"id: {event.cursor}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def _fields(event: Event) -> dict[str, Any]:
    """An Event of events.proto as JSON, as Envoy would print it: ids that there are not are empty."""
    return {
        "id": str(event.cursor),
        "type": event.kind,
        "time": rfc3339(event.at),
        "instance_id": event.instance_id or "",
        "deployment_id": event.deployment_id or "",
        "policy_id": event.policy_id or "",
        "run_id": event.run_id or "",
        "details": event.details,
    }


def _place(news: News) -> bytes:
    return b"id: %s\n\n" % str(news.cursor).encode()


def _reset(news: News) -> bytes:
    if not news.reset:
        return b""
    return _control("stream.reset", {"reason": news.reset, "last_event_id": str(news.cursor)})


def _control(kind: str, data: dict[str, str]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _all_messages(events: Iterable[Event]) -> bytes:
    return pb.WatchEventsResponse(events=[_event(one) for one in events]).SerializeToString()


def _event(event: Event) -> pb.Event:
    return pb.Event(**{**_fields(event), "time": timestamp(event.at), "details": struct(event.details)})
