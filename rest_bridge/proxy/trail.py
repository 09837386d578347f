"""What became known of one request while it was decided."""

from dataclasses import dataclass

from rest_bridge.proxy.entries import Route
from rest_bridge.proxy.targets import PathTarget
from server.domain.decisions import Credential, Decision


@dataclass(slots=True)
class Trail:
    """Filled in as far as the decision comes. No route: there is no such instance, or nobody could be asked.

    `problem` says, for the owner of the policies, why no decision could be made. The credential itself, the query, the
    headers and the body are left out on purpose: what is not here cannot be recorded.
    """

    decision_id: bytes
    method: str
    path: PathTarget
    route: Route | None = None
    credential: Credential | None = None
    decision: Decision | None = None
    problem: str | None = None
