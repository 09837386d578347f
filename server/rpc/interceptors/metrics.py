"""Counts every call, and how long it took, when it has ended."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from server.rpc.interceptors.base import Call
from server.rpc.status import CODES, row

# Hears a method, the name of a gRPC code, and seconds.
CallEnded: TypeAlias = Callable[[str, str, float], None]


class Metered:
    """Around the error table, so that it knows what became of the call."""

    def __init__(self, ended: CallEnded) -> None:
        self._ended = ended

    @asynccontextmanager
    async def __call__(self, call: Call, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Only methods that exist come here, so nobody makes up labels."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._ended(call.method, _code(call.notes.get("outcome")), time.perf_counter() - began)


def _code(outcome: str | None) -> str:
    """The code of an outcome. One that nothing noted was cut short: the caller hung up, or the server ends."""
    if outcome is None:
        return grpc.StatusCode.CANCELLED.name
    return grpc.StatusCode.OK.name if outcome == "ok" else CODES[row(outcome).grpc_code].name
