"""One line for every call, when it has ended: who, what, how it went, how long it took."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from server.rpc.interceptors.base import Call

log = structlog.get_logger("access")
QUIET = ("/grpc.health.v1.", "/orch8cloud.dataplane.v1.")


@asynccontextmanager
async def log_access(call: Call, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Outermost, so that it sees what every other one made of the call."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if not call.method.startswith(QUIET):
            took = round((time.perf_counter() - began) * 1000, 2)
            log.info("rpc", method=call.method, request_id=call.request_id, duration_ms=took, **call.notes)
