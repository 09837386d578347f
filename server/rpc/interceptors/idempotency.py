"""Answers a call that was made before with the answer that it had (contract, "Idempotency-Key")."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc
from google.api.annotations_pb2 import http
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from server.domain.access import Caller, KeyHolder
from server.rpc.answers import Answer
from server.rpc.interceptors.authentication import known_caller
from server.rpc.interceptors.base import Behavior, Call
from server.rpc.status import described, with_trailers
from server.services.idempotency import FINAL, Claimed, Idempotency, Keep, check_key
from server.store.database import UnitOfWork
from server.store.idempotency import CallKey, StoredAnswer

HEADER = "idempotency-key"
REPLAYED = ("idempotent-replayed", "true")

T = TypeVar("T")


class _Attempt:
    """The call that runs now, and its answer once that is kept."""

    def __init__(self, service: Idempotency, claimed: Claimed) -> None:
        self._service = service
        self._claimed = claimed
        self.answer: StoredAnswer | None = None

    async def keep(self, tx: UnitOfWork, answer: Answer[Any]) -> None:
        body = answer.message.SerializeToString()
        stored = StoredAnswer(body=body, headers=answer.headers, version=answer.version)
        if self.answer is None:
            await self._service.keep(tx, self._claimed, stored)
        else:
            await self._service.revise(tx, self._claimed, stored)
        self.answer = stored

    async def retract(self, tx: UnitOfWork) -> None:
        await self._service.revise(tx, self._claimed, None)
        self.answer = None


_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


def keeping(render: Callable[[T, int | None], Answer[Any]]) -> Keep[T]:
    """What a service calls before it commits: keeps what was made as the answer of the call that runs now."""

    async def keep(tx: UnitOfWork, made: T, version: int | None = None) -> None:
        attempt = _attempt.get()
        if attempt is not None:
            await attempt.keep(tx, render(made, version))

    return keep


async def retract(tx: UnitOfWork) -> None:
    """Takes back what was kept as the answer of the call that runs now: its work is taken back too."""
    attempt = _attempt.get()
    if attempt is not None:
        await attempt.retract(tx)


class IdempotentCalls:
    """Runs methods that REST calls with POST. A key on any other is not heeded: those are idempotent by themselves."""

    def __init__(self, service: Idempotency, files: Iterable[FileDescriptor]) -> None:
        self._service = service
        self._methods = frozenset(
            f"/{service.full_name}/{method.name}"
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
            if _is_post(method)
        )

    async def __call__(
        self, call: Call, request: Any, context: grpc.aio.ServicerContext[Any, Any], behavior: Behavior
    ) -> Any:
        """The method's answer, or the one of before, in its very bytes."""
        key, who = call.metadata.get(HEADER), known_caller()
        if key is None or who is None or call.method not in self._methods:
            return await behavior(request, context)
        scope = CallKey(org_id=who.org_id, method=call.method, key=check_key(key))
        found = await self._service.begin(scope, _fingerprint(request, who))
        if isinstance(found, Claimed):
            return await self._run(found, request, context, behavior)
        call.notes["replayed"] = "true"
        return await _replay(found, context)

    async def _run(self, claimed: Claimed, request: Any, context: Any, behavior: Behavior) -> bytes:
        attempt = _Attempt(self._service, claimed)
        token = _attempt.set(attempt)
        try:
            answer = await self._answer(attempt, claimed, behavior(request, context))
        except FINAL as error:
            status, trailers = described(error)
            failed = StoredAnswer(body=status.SerializeToString(), headers=tuple(trailers), failed=True)
            await self._service.finish(claimed, failed)
            raise
        except BaseException:
            # A caller who hangs up cancels this: the next one shall not have to wait for the lease to end.
            await asyncio.shield(self._service.give_up(claimed))
            raise
        finally:
            _attempt.reset(token)
        self._service.ended(claimed)
        return answer

    async def _answer(self, attempt: _Attempt, claimed: Claimed, working: Awaitable[Message]) -> bytes:
        message = await working
        if attempt.answer is not None:
            return attempt.answer.body
        body = message.SerializeToString()
        await self._service.finish(claimed, StoredAnswer(body=body))
        return body


async def _replay(answer: StoredAnswer, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    if answer.failed:
        await context.abort_with_status(with_trailers(Status.FromString(answer.body), (*answer.headers, REPLAYED)))
    await context.send_initial_metadata((*answer.headers, REPLAYED))
    return answer.body


def _fingerprint(request: Message, who: Caller) -> bytes:
    """Path variables are fields of the request. Who reaches one instance must not read what others were told."""
    reach = who.instance_id or "" if isinstance(who, KeyHolder) else ""
    return hashlib.sha256(f"{reach}\0".encode() + request.SerializeToString(deterministic=True)).digest()


def _is_post(method: MethodDescriptor) -> bool:
    rule = method.GetOptions().Extensions[http]
    return any(one.WhichOneof("pattern") == "post" for one in (rule, *rule.additional_bindings))
