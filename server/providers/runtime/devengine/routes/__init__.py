"""The HTTP routes, one file per resource, and the table that lists them all."""

from starlette.routing import Route

from server.providers.runtime.devengine.routes import (
    approvals,
    artifacts,
    credentials,
    cron,
    instances,
    missing,
    sequences,
    stream,
    system,
    triggers,
    webhooks,
)

# The last of them answers for what the real engine has and this one has not.
ROUTES: list[Route] = [
    *system.ROUTES,
    *sequences.ROUTES,
    *instances.ROUTES,
    *stream.ROUTES,
    *triggers.ROUTES,
    *webhooks.ROUTES,
    *credentials.ROUTES,
    *approvals.ROUTES,
    *cron.ROUTES,
    *artifacts.ROUTES,
    *missing.ROUTES,
]
