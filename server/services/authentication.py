"""Who calls the management API: a member by session, or a program by API key (contract, "Who may call")."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from server.domain.access import Caller, KeyHolder
from server.domain.keys import digest, looks_like_key, well_formed
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
        scheme, _, credential = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise Unauthenticated("Send the credential as 'Authorization: Bearer …'.")
        credential = credential.strip()
        if looks_like_key(credential):
            return await self._by_key(credential)
        return await self._by_token(credential)

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


def check_origin(origin: str | None, fetch_site: str | None, own_hosts: Iterable[str]) -> None:
    """Refuses a write with a cookie that a page of another site sent (architecture, decision 9).

    A program sends neither header, and passes. `own_hosts` are the host[:port] that count as this site.
    """
    foreign = fetch_site == "cross-site"
    if origin is not None:
        foreign = foreign or urlsplit(origin).netloc not in set(own_hosts)
    if foreign:
        raise PermissionDenied("A page of another site may not do this with your session.")
