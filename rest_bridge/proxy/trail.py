"""What became known of one request while it was decided."""

from dataclasses import dataclass

from rest_bridge.proxy.entries import Route
from rest_bridge.proxy.targets import PathTarget
from server.domain.decisions import DEFAULT_GUARD, Credential, Decision, Guard, KeyCredential


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

    @property
    def key_id(self) -> str | None:
        """The API key that a policy has accepted."""
        credential = self.credential
        return credential.key_id if isinstance(credential, KeyCredential) and self._guard is not None else None

    @property
    def policy_id(self) -> str | None:
        """The policy that has accepted the credential; None too where it is the one that every tunnel has."""
        return self._guard.policy_id if self._guard is not None and self._guard is not DEFAULT_GUARD else None

    @property
    def _guard(self) -> Guard | None:
        return self.decision.guard if self.decision is not None else None
