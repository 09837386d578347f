"""Finds out who calls and whether they may, before the method runs."""

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc

from server.domain.access import Caller, Engine, Member, authorize
from server.errors import PermissionDenied, Unauthenticated
from server.rpc.access import INTERNAL_PACKAGE, AccessTable
from server.rpc.interceptors.base import Call
from server.services.authentication import Authenticator, check_origin

TOKEN = "x-orch8-dataplane-token"  # noqa: S105 - the name of a metadata key
HOST = "x-orch8-host"

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
_engine: ContextVar[Engine | None] = ContextVar("engine", default=None)


def caller() -> Caller:
    """Who calls the method that runs now."""
    found = _caller.get()
    if found is None:
        raise Unauthenticated("Sign in, or send an API key.")
    return found


def known_caller() -> Caller | None:
    """Who calls the method that runs now; None where anyone may, or it is a part of ours."""
    return _caller.get()


def engine() -> Engine:
    """Whose engine reports, in a method that only engines may call."""
    found = _engine.get()
    if found is None:
        raise Unauthenticated("Send the ingest key of an instance.")
    return found


def member() -> Member:
    """The member who calls the method that runs now; programs are refused."""
    found = caller()
    if not isinstance(found, Member):
        raise PermissionDenied("An API key may not do this. Sign in as a member of the organization.")
    return found


class Authentication:
    """The check of every call."""

    def __init__(
        self, *, authenticator: Authenticator, table: AccessTable, own_hosts: frozenset[str], dataplane_token: str
    ) -> None:
        self._authenticator = authenticator
        self._table = table
        self._own_hosts = own_hosts
        self._token = dataplane_token

    @asynccontextmanager
    async def __call__(self, call: Call, _context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Lets the call go on only where its caller may make it."""
        if call.method.startswith(INTERNAL_PACKAGE):
            self._check_token(call)
        else:
            await self._check_caller(call)
        yield

    def _check_token(self, call: Call) -> None:
        given = call.metadata.get(TOKEN, "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Unauthenticated("The data plane's token is missing or wrong: see ORCH8_DATAPLANE_TOKEN.")

    async def _check_caller(self, call: Call) -> None:
        rule = self._table.rule(call.method)
        if rule.engine:
            reporter = await self._authenticator.engine(call.metadata.get("authorization", ""))
            _engine.set(reporter)
            call.note(org_id=reporter.org_id, instance_id=reporter.instance_id)
            return
        found = None if rule.public else await self._identify(call)
        _caller.set(found)
        if found is not None:
            call.note(org_id=found.org_id)
        authorize(rule, found)

    async def _identify(self, call: Call) -> Caller | None:
        if authorization := call.metadata.get("authorization"):
            return await self._authenticator.by_bearer(authorization)
        cookie = call.metadata.get("cookie")
        found = await self._authenticator.by_cookie(cookie) if cookie else None
        if found is not None and not self._table.is_read(call.method):
            hosts = {*self._own_hosts, call.metadata.get(HOST, "")} - {""}
            check_origin(call.metadata.get("origin"), call.metadata.get("sec-fetch-site"), hosts)
        return found
