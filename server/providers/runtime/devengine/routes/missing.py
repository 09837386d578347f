"""What the real engine answers and this one does not: 501, so that nobody takes it for a wrong path."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.providers.runtime.devengine.errors import NotFound, NotImplementedHere

# The first path segments of the real engine's API, from its sources at 0.7.1.
RESOURCES = frozenset(
    [
        "alerts",
        "api-docs",
        "api-keys",
        "approvals",
        "artifacts",
        "audit",
        "audit-log",
        "browser-sessions",
        "budgets",
        "changes",
        "circuit-breakers",
        "cluster",
        "continuity",
        "credentials",
        "cron",
        "dataflow",
        "device-sessions",
        "diagnosis",
        "dlq",
        "embed",
        "entitlements",
        "events",
        "federation",
        "handlers",
        "instances",
        "jobs",
        "license",
        "mcp",
        "metrics",
        "migrations",
        "mobile",
        "model-pricing",
        "placement",
        "plugins",
        "pools",
        "preflight",
        "prompts",
        "queues",
        "rate-limits",
        "receipts",
        "releases",
        "rollback",
        "runtimes",
        "sequences",
        "sequences.json",
        "sessions",
        "sub-tenants",
        "swagger-ui",
        "telemetry",
        "triggers",
        "usage",
        "webhook-outbox",
        "workbench",
        "workers",
    ]
)
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


async def missing(request: Request) -> Response:
    """Says which of the two a path is: unknown here, or unknown everywhere."""
    path: str = request.path_params["path"]
    if path.partition("/")[0] in RESOURCES:
        raise NotImplementedHere(f"{request.method} /{path}")
    raise NotFound("no such route")


ROUTES = [Route("/{path:path}", missing, methods=METHODS)]
