"""Which requests start runs: the rest pass where the executions of the plan are used up.

The engine's routes, with and without its mount /api/v1: a run, a batch of them, a trigger that is fired, a webhook.
A path is read more widely here than the engine reads it (slashes, escapes and white space that it may or may not
overlook): what is refused in vain starts nothing anyway, and what passes in vain would be free.
"""

import re
from urllib.parse import unquote_to_bytes

from rest_bridge.proxy.targets import PathTarget

_STARTS = re.compile(
    rb"\s*/+(?:api/+v1/+)?(?:instances(?:/+batch)?|triggers/+[^/]+/+fire|webhooks/+[^/]+)[/\s]*", re.IGNORECASE
)


def starts_run(method: str, target: PathTarget) -> bool:
    """Whether the request starts runs. All that comes through the gateway does."""
    if target.slug is not None:
        return True
    return method.upper() == "POST" and _STARTS.fullmatch(unquote_to_bytes(target.engine_path)) is not None
