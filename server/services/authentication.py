"""Who calls the management API: a member by session, or a program by API key (contract, "Who may call")."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from server.domain.access import Caller, Engine, KeyHolder
from server.domain.instances import Phase
from server.domain.keys import digest, is_ingest_key, looks_like_key, well_formed
from server.errors import PermissionDenied, TokenInvalid, Unauthenticated
from server.identity.tokens import BadToken
from server.providers.sessions.cookies import access_token
from server.providers.sessions.supabase import Sessions
from server.services.identifiers import Clock
from server.services.organizations import OrganizationsService
from server.store.database import Database


class Authenticator:
    """Turns credentials into a caller."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        organizations: OrganizationsService,
        clock: Clock,
        cookie_name: str,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._organizations = organizations
        self._clock = clock
        self._cookie_name = cookie_name

    async def by_bearer(self, authorization: str) -> Caller:
        """The caller that an Authorization header names. Raises Unauthenticated."""
        credential = _bearer(authorization)
        if looks_like_key(credential):
            return await self._by_key(credential)
        return await self._by_token(credential)

    async def engine(self, authorization: str) -> Engine:
        """The engine whose ingest key an Authorization header holds. Raises Unauthenticated.

        The last events of an instance that is being deleted are taken; once nothing is left of it, its key is none.
        """
        found, key = None, _bearer(authorization)
        if is_ingest_key(key):
            async with self._database.read() as tx:
                found = await tx.instances.by_ingest_key(digest(key))
        if found is None or found.phase is Phase.DELETED:
            raise Unauthenticated(
                "This is not the ingest key of an instance. An engine is told its own when it starts."
            )
        return Engine(org_id=found.org_id, instance_id=found.instance_id)

    async def by_cookie(self, cookie: str) -> Caller | None:
        """The member whose session a Cookie header holds, or None where it holds none. Raises TokenInvalid."""
        token = access_token(cookie, self._cookie_name)
        return None if token is None else await self._by_token(token)

    async def _by_token(self, token: str) -> Caller:
        try:
            session = await self._sessions.verify(token)
        except BadToken:
            raise TokenInvalid from None
        return await self._organizations.member(session)

    async def _by_key(self, text: str) -> Caller:
        key = None
        if well_formed(text):
            async with self._database.read() as tx:
                key = await tx.api_keys.by_digest(digest(text))
        if key is None:
            raise Unauthenticated("This API key is unknown. Check that it was copied whole.")
        if refusal := key.refusal(self._clock()):
            raise refusal
        return KeyHolder(org_id=key.org_id, key_id=key.id, instance_id=key.instance_id)


def _bearer(authorization: str) -> str:
    scheme, _, credential = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated("Send the credential as 'Authorization: Bearer …'.")
    return credential.strip()


def check_origin(origin: str | None, fetch_site: str | None, own_hosts: Iterable[str]) -> None:
    """Refuses a write with a cookie that a page of another site sent (architecture, decision 9).

    A program sends neither header, and passes. `own_hosts` are the host[:port] that count as this site.
    """
    foreign = fetch_site == "cross-site"
    if origin is not None:
        foreign = foreign or urlsplit(origin).netloc not in set(own_hosts)
    if foreign:
        raise PermissionDenied("A page of another site may not do this with your session.")
