"""The Machines API as an ASGI application: who may call, how often, what goes wrong, and what is answered."""

import asyncio
import json
import re
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.fly import leases, machines, volumes
from tests.support.fly.cloud import Call, Fly
from tests.support.fly.contract import Operation, contract
from tests.support.fly.faults import Fault, Kind
from tests.support.fly.handling import HANDLERS, Asked, Reply
from tests.support.fly.model import Problem

TRANSPORT = "orch8.transport"
AUTHORIZATION = re.compile(r"(?:Bearer|FlyV1) (\S+)")
_MODULES = (leases, machines, volumes)  # they fill HANDLERS


class Lost(Exception):
    """No answer will be given."""


class Api:
    """Answers for a Fly."""

    def __init__(self, fly: Fly) -> None:
        self._fly = fly
        self._contract = contract()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body, request_id = await request.body(), secrets.token_hex(13).upper()
        operation = self._contract.find(request.method, request.url.path)
        call = Call(operation[0].id if operation else "", request.url.path, 0, dict(request.headers), None, request_id)
        self._fly.calls.append(call)
        try:
            reply = await self._reply(operation, request, body, call)
        except Lost:
            await _close(scope, receive)
            return
        call.status = reply.status
        await _response(reply, request_id)(scope, receive, send)

    async def _reply(
        self, found: tuple[Operation, dict[str, str]] | None, request: Request, body: bytes, call: Call
    ) -> Reply:
        if self._fly.faults.down:
            raise Lost
        try:
            if found is None:
                raise Problem(404, "not found")
            operation, path = found
            self._check_token(request)
            fault = self._fly.faults.take(operation.id)
            if fault is not None and fault.kind is Kind.REFUSE:
                raise Lost
            if fault is not None and fault.kind is Kind.FAIL:
                return Reply(fault.status, fault.body, fault.headers)
            call.body = _json(body)
            asked = Asked(path, dict(request.query_params), call.headers, call.body)
            reply = await self._checked(operation, asked)
            await _afterwards(fault)
        except Problem as problem:
            return Reply(problem.status, problem.body, problem.headers)
        return reply

    def _check_token(self, request: Request) -> None:
        given = AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if given is None or given[1] != self._fly.token:
            raise Problem(401, "unauthorized: the token is not valid")

    async def _checked(self, operation: Operation, asked: Asked) -> Reply:
        self._check_app(operation, asked)
        self._check_rate(operation, asked)
        problems = self._contract.request(operation, asked.query, asked.body)
        if problems:
            self._fly.violations += [f"{operation.id}: {problem}" for problem in problems]
            raise Problem(400, f"invalid request: {problems[0]}")
        try:
            reply = await HANDLERS[operation.id](self._fly, asked)
        except Problem as problem:
            self._judge(operation, problem.status, problem.body)
            raise
        self._judge(operation, reply.status, reply.body)
        return reply

    def _check_app(self, operation: Operation, asked: Asked) -> None:
        app = asked.path.get("app_name")
        if app in self._fly.foreign_apps:
            raise Problem(403, f"unauthorized: app {app} belongs to another organization")
        if app is not None and app not in self._fly.apps:
            raise Problem(404, f"app {app!r} not found")

    def _check_rate(self, operation: Operation, asked: Asked) -> None:
        target = asked.path.get("machine_id") or asked.path.get("volume_id") or asked.path.get("app_name", "")
        wait = self._fly.rates.take(operation.id, target)
        if wait > 0:
            raise Problem(429, "rate limit exceeded", retry_after=max(1, round(wait)))

    def _judge(self, operation: Operation, status: int, body: Any) -> None:
        shown = json.loads(json.dumps(body))
        self._fly.violations += [
            f"{operation.id}: {problem}" for problem in self._contract.answer(operation, status, shown)
        ]


async def _afterwards(fault: Fault | None) -> None:
    if fault is not None and fault.kind is Kind.DROP:
        raise Lost
    if fault is not None and fault.kind is Kind.DELAY:
        await asyncio.sleep(fault.seconds)


async def _close(scope: Scope, receive: Receive) -> None:
    """Cuts the connection, and waits until the server knows."""
    scope[TRANSPORT].abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError as error:
        raise Problem(400, "the body is not JSON") from error


def _response(reply: Reply, request_id: str) -> Response:
    headers = reply.headers | {"fly-request-id": request_id}
    if reply.body is None:
        return Response(status_code=reply.status, headers=headers)
    if isinstance(reply.body, str):
        return PlainTextResponse(reply.body, reply.status, headers)
    return JSONResponse(reply.body, reply.status, headers)
