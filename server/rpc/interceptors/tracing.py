"""A span for every call that ends, in the caller's trace."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from server.rpc.interceptors.base import Call
from server.telemetry.tracing import TRACEPARENT, Kind, Tracing

# These last as long as the proxies, or those who follow events.
ENDLESS = ("/Watch", "/WatchEvents", "/StreamEvents")
OURS = ("INTERNAL", "UNAVAILABLE")


class Traced:
    """Around the error table, so that it knows what became of the call."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    @asynccontextmanager
    async def __call__(self, call: Call, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """The caller's word for the trace is taken: it is a number, and the collector's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if not call.method.endswith(ENDLESS):
                self._record(call, time.perf_counter() - began)

    def _record(self, call: Call, seconds: float) -> None:
        service, _, method = call.method.lstrip("/").partition("/")
        outcome = call.notes.get("outcome", "CANCELLED")
        known = {f"orch8.{name}": value for name, value in call.notes.items()}
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        self._tracing.record(
            call.method.lstrip("/"),
            Kind.SERVER,
            call.metadata.get(TRACEPARENT),
            {**attributes, **known, "orch8.request_id": call.request_id},
            seconds=seconds,
            failed=outcome in OURS,
        )
