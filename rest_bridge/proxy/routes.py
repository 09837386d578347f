"""What the proxy knows of instances and keys, and whether it may still act on it."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rest_bridge.proxy.cache import Known, ServerAway, Standing
from rest_bridge.proxy.edge_leases import EdgeLeases
from rest_bridge.proxy.entries import Route
from rest_bridge.proxy.lease import Lease
from server.domain.decisions import KeyCredential
from server.identity.turns import TooManyWaiting, Turns

MAX_ROUTES = 50_000
MAX_KEYS = 200_000
MAX_UNKNOWN = 50_000
# Unseen keys of one instance that the server is asked for at once, and that wait for it.
KEYS_AT_ONCE = 8
MOST_WAITING = 1_000

# Hears which instance or key (by SHA-256) changed; neither: anything may have.
Changed: TypeAlias = Callable[[str | None, bytes | None], None]

__all__ = ["Knowledge", "ServerAway"]


class Knowledge:
    """Routes and keys, asked for on demand and forgotten on change.

    `version` is that of the last change applied, `proxies` how many there are, this one included. `edges` has the
    leases of those who act on what was known here.
    """

    def __init__(
        self,
        *,
        fetch_route: Callable[[str], Awaitable[Route | None]],
        fetch_key: Callable[[bytes], Awaitable[KeyCredential | None]],
        lease: Lease,
        edges: EdgeLeases,
    ) -> None:
        self.lease = lease
        self.edges = edges
        self.version = 0
        self.proxies = 1
        self._routes = Known(fetch_route, limit=MAX_ROUTES, unknown_limit=MAX_UNKNOWN)
        turns = Turns(at_once=KEYS_AT_ONCE, most_waiting=MOST_WAITING)
        self._keys = Known(fetch_key, limit=MAX_KEYS, unknown_limit=MAX_UNKNOWN, turns=turns)
        self._tell: Changed = _nobody
        self.stopping = False

    def on_change(self, tell: Changed) -> None:
        """Has every change told, once it is applied here."""
        self._tell = tell

    def is_fresh(self) -> bool:
        """Whether requests may be decided now."""
        return self.lease.is_fresh()

    def is_ready(self) -> bool:
        """Whether more requests should be sent here."""
        return self.is_fresh() and not self.stopping

    def standing(self) -> dict[str, Standing]:
        """How each cache stands, by its name."""
        return {"routes": self._routes.standing(), "keys": self._keys.standing()}

    async def route(self, instance_id: str) -> Route | None:
        """An instance, or None where there is none. Raises ServerAway, also where too many ask for unseen ones."""
        try:
            return await self._routes.get(instance_id)
        except TooManyWaiting:
            raise ServerAway("too many instances are being asked for") from None

    def known_route(self, instance_id: str) -> Route | None:
        """An instance, if it is known at once."""
        return self._routes.known(instance_id)

    async def key(self, sha256: bytes, instance_id: str) -> KeyCredential | None:
        """A key by its digest, or None where there is none. Raises ServerAway.

        Raises TooManyWaiting where too many unseen keys are brought to this instance.
        """
        return await self._keys.get(sha256, instance_id)

    def route_changed(self, version: int, instance_id: str) -> None:
        """An instance, its policies or its upstream changed."""
        self._routes.forget(instance_id)
        self._applied(version, f"i {instance_id}")
        self._tell(instance_id, None)

    def key_changed(self, version: int, sha256: bytes) -> None:
        """A key changed."""
        self._keys.forget(sha256)
        self._applied(version, f"k {sha256.hex()}")
        self._tell(None, sha256)

    def start_over(self, version: int) -> None:
        """Changes up to this version were missed: anything may be different. It may be lower than the last one."""
        self._routes.forget_all()
        self._keys.forget_all()
        self.version = version
        self.edges.started_over(version)
        self._tell(None, None)

    def _applied(self, version: int, change: str) -> None:
        self.version = max(self.version, version)
        self.edges.applied(self.version, change)


def _nobody(_instance_id: str | None, _key: bytes | None) -> None:
    """Nobody wants to hear of changes."""
