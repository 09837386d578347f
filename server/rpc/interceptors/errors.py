"""Turns what a method raises into a status: errors of ours by the error table, everything else into INTERNAL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from server.errors import CloudError, DatabaseUnavailable
from server.rpc.interceptors.base import Call
from server.rpc.status import internal, to_status

log = structlog.get_logger(__name__)


@asynccontextmanager
async def map_errors(call: Call, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Around authentication, so that a refused credential becomes a status too."""
    try:
        yield
        call.notes["outcome"] = "ok"
    except CloudError as error:
        call.notes["outcome"] = error.reason
        if isinstance(error, DatabaseUnavailable):
            log.warning("rpc.no_database", method=call.method, request_id=call.request_id, why=repr(error.__cause__))
        await context.abort_with_status(to_status(error))
    except grpc.aio.AbortError:
        raise
    except Exception:
        call.notes["outcome"] = "INTERNAL"
        log.exception("rpc.failed")
        await context.abort_with_status(to_status(internal(call.request_id)))
