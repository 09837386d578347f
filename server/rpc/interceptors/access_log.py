"""One line for every call, when it has ended: who, what, how it went, how long it took.

What is known of the call is in every other line too that is logged while it runs.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from structlog.contextvars import bind_contextvars

from server.rpc.interceptors.base import Call

log = structlog.get_logger("access")
QUIET = ("/grpc.health.v1.", "/orch8cloud.dataplane.v1.")
_INSTANCE = re.compile(r"inst_[a-z0-9]{1,40}", re.ASCII)


@asynccontextmanager
async def log_access(call: Call, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Outermost, so that it sees what every other one made of the call. A call runs in a context of its own."""
    bind_contextvars(request_id=call.request_id, method=call.method)
    began = time.perf_counter()
    try:
        yield
    finally:
        if not call.method.startswith(QUIET):
            took = round((time.perf_counter() - began) * 1000, 2)
            log.info("rpc", duration_ms=took, **call.notes)


def note_instance(call: Call, request: Message) -> None:
    """Notes the instance that a request names, where it is a name that we could have given."""
    named = getattr(request, "instance_id", "")
    if isinstance(named, str) and _INSTANCE.fullmatch(named):
        call.note(instance_id=named)
