"""One shape for all interceptors: a function around the call, whichever of the four kinds of method it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from structlog.contextvars import bind_contextvars

from server.errors import FieldViolation, InvalidArgument


@dataclass(kw_only=True, slots=True)
class Call:
    """What interceptors know of a call, and what they note of it for the log."""

    method: str
    metadata: dict[str, str]
    request_id: str
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, **what: str) -> None:
        """Notes something for the call's own line, and for all others that are logged while it runs."""
        self.notes.update(what)
        bind_contextvars(**what)


class Undecodable:
    """Stands for a request whose bytes are no message of its type."""


Check = Callable[[Call, Message], None]
Behavior = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]
# Runs a method that answers once, or finds another answer; one of bytes is sent as it is.
Execute = Callable[[Call, Any, grpc.aio.ServicerContext[Any, Any], Behavior], Awaitable[Any]]
Around = Callable[[Call, grpc.aio.ServicerContext[Any, Any]], AbstractAsyncContextManager[None]]
Proceed = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Runs context managers around every call, and checks on its request, once the caller may make the call at all.

    `execute` then runs those that answer once.
    """

    def __init__(
        self,
        make_call: Callable[[grpc.HandlerCallDetails], Call],
        arounds: tuple[Around, ...],
        checks: tuple[Check, ...],
        execute: Execute,
    ) -> None:
        self._execute = execute
        self._make_call = make_call
        self._arounds = arounds
        self._checks = checks

    async def intercept_service(
        self, continuation: Proceed, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler. An unknown method stays unknown: gRPC answers UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        call = self._make_call(handler_call_details)
        wrap = self._streaming if handler.response_streaming else self._unary
        return _rewrapped(handler, wrap(call, handler))

    def _unary(self, call: Call, handler: Any) -> Callable[..., Any]:
        behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _nested(self._arounds, call, context):
                self._check(call, request)
                return await self._execute(call, request, context, behavior)

        return run

    def _streaming(self, call: Call, handler: Any) -> Callable[..., Any]:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with _nested(self._arounds, call, context):
                self._check(call, request)
                async for answer in behavior(request, context):
                    yield answer

        return run

    def _check(self, call: Call, request: Any) -> None:
        if isinstance(request, Undecodable):
            what = "is not the message that this method takes, or holds bytes that are not UTF-8"
            raise InvalidArgument([FieldViolation(field="request", description=what)])
        if isinstance(request, Message):
            for check in self._checks:
                check(call, request)


@asynccontextmanager
async def _nested(
    arounds: tuple[Around, ...], call: Call, context: grpc.aio.ServicerContext[Any, Any]
) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for around in arounds:
            await stack.enter_async_context(around(call, context))
        yield


def _rewrapped(handler: Any, behavior: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """The same kind of handler, with another behavior."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = kinds[handler.request_streaming, handler.response_streaming]
    return make(behavior, _tolerant(handler.request_deserializer), _as_it_is(handler.response_serializer))


def _as_it_is(encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """An encoder that leaves bytes alone."""

    def encoded(answer: Any) -> bytes:
        return answer if isinstance(answer, bytes) or encode is None else encode(answer)

    return encoded


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """A decoder that does not raise: gRPC would answer UNKNOWN, with the exception's own words."""

    def decoded(data: bytes) -> Any:
        try:
            return decode(data) if decode is not None else data
        except DecodeError:
            return Undecodable()

    return decoded
