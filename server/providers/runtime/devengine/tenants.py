"""Whom a request speaks for: the tenant of its `x-tenant-id` header, or all of them without one."""

from starlette.requests import Request

from server.providers.runtime.devengine.errors import Forbidden, InvalidArgument, NotFound


def caller(request: Request) -> str | None:
    """The tenant of the request; None is the root, who sees every tenant."""
    return request.headers.get("x-tenant-id", "").strip() or None


def owner(request: Request, named: str, *, may_be_shared: bool = False) -> str:
    """The tenant of something new: the one that the body names, if the caller may. An empty name is the caller's."""
    tenant = caller(request)
    if tenant is not None and named and named != tenant:
        raise Forbidden("tenant_id in body does not match X-Tenant-Id header")
    if not named and tenant is None and not may_be_shared:
        raise InvalidArgument("tenant_id must not be empty")
    return named or tenant or ""


def asked(request: Request) -> str | None:
    """The tenant that a list is about: the caller's, or for the root the one in the query, or all."""
    return caller(request) or request.query_params.get("tenant_id") or None


def require_access(request: Request, tenant_id: str, what: str) -> None:
    """What belongs to another tenant does not exist for the caller. Raises NotFound."""
    tenant = caller(request)
    if tenant is not None and tenant != tenant_id:
        raise NotFound(what)
