"""EventsService over gRPC."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from orch8cloud.v1 import events_pb2 as pb
from orch8cloud.v1.events_pb2_grpc import EventsServiceServicer

from server.errors import CloudError
from server.rpc.event_looks import ending, message, opening, server_sent
from server.rpc.interceptors.authentication import caller
from server.services.events import EventsService, News

LAST_EVENT_ID = "last-event-id"
# Nobody on the way may keep or hold back a stream.
HEADERS = (("cache-control", "no-store"), ("x-accel-buffering", "no"))

Context = grpc.aio.ServicerContext[Any, Any]


class EventsServicer(EventsServiceServicer):
    """Converts, and leaves the rest to the service. Its answers are bytes already: see event_looks.py."""

    def __init__(self, service: EventsService) -> None:
        self._service = service

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Context) -> AsyncIterator[Any]:
        """See events.proto."""
        async for news in self._follow(request, context):
            yield message(news)

    async def StreamEvents(self, request: pb.StreamEventsRequest, context: Context) -> AsyncIterator[Any]:
        """See events.proto."""
        begun = False
        try:
            async for news in self._follow(request, context):
                if not begun:
                    await context.send_initial_metadata(HEADERS)
                yield server_sent(news) if begun else opening(news)
                begun = True
        except CloudError as error:
            if begun:
                yield ending(error)
            raise

    def _follow(self, request: pb.WatchEventsRequest | pb.StreamEventsRequest, context: Context) -> AsyncIterator[News]:
        return self._service.follow(
            caller=caller(),
            last_event_id=_last_event_id(context) or request.last_event_id,
            instance_id=request.instance_id,
            kinds=request.kinds,
        )


def _last_event_id(context: Context) -> str:
    """The header of the standard, with which browsers come again. Several are one list, which is no id."""
    found = [value for name, value in context.invocation_metadata() or () if name == LAST_EVENT_ID]
    return ", ".join(value if isinstance(value, str) else value.decode("latin-1") for value in found)
