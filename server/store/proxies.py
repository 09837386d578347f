"""Queries about the proxies that may still serve what they know, and about the servers that they watch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.dialects import Signal, Turn, insert, signal, take_turn
from server.store.tables import ProxyRow, ServerRow


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownProxy:
    """A proxy that said hello: for how long it serves without us, and what its server says of it.

    `session` names the stream that it watches, or watched last. `acked_version`: it serves nothing older.
    """

    id: str
    stale_limit_ms: int
    server_id: str
    session: str
    acked_version: int = 0
    connected: bool = field(default=True, compare=False)


class Proxies:
    """The proxies' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self) -> list[KnownProxy]:
        """Every proxy that has not taken leave."""
        return [_proxy(row) for row in await self._session.exec(select(ProxyRow))]

    async def save(self, proxy: KnownProxy) -> None:
        """Remembers a proxy, which from now on is this server's and no other's."""
        values = {
            "stale_limit_ms": proxy.stale_limit_ms,
            "server_id": proxy.server_id,
            "session": proxy.session,
            "acked_version": proxy.acked_version,
            "connected": proxy.connected,
        }
        adding = insert(self._session, ProxyRow).values(id=proxy.id, **values)
        await self._session.exec(adding.on_conflict_do_update(index_elements=[col(ProxyRow.id)], set_=values))
        await signal(self._session, Signal.PROXIES)

    async def note(self, proxies: Sequence[KnownProxy]) -> None:
        """Writes down what is new of proxies, where they still watch the stream that is named."""
        for proxy in sorted(proxies, key=lambda proxy: proxy.id):
            same = (col(ProxyRow.id) == proxy.id, col(ProxyRow.session) == proxy.session)
            values = {"acked_version": proxy.acked_version, "connected": proxy.connected}
            await self._session.exec(update(ProxyRow).where(*same).values(values))
        await signal(self._session, Signal.PROXIES)

    async def remove(self, proxy_id: str, session: str) -> None:
        """Forgets a proxy that cannot serve any more, unless it watches another stream by now."""
        same = (col(ProxyRow.id) == proxy_id, col(ProxyRow.session) == session)
        await self._session.exec(delete(ProxyRow).where(*same))
        await signal(self._session, Signal.PROXIES)

    async def beat(self, server_id: str, beat: int) -> None:
        """Notes that a server is there. Its beats grow."""
        await take_turn(self._session, Turn.SERVER, server_id)
        adding = insert(self._session, ServerRow).values(id=server_id, beat=beat)
        await self._session.exec(adding.on_conflict_do_update(index_elements=[col(ServerRow.id)], set_={"beat": beat}))

    async def beats(self) -> dict[str, int]:
        """The last beat of every server."""
        return {row.id: row.beat for row in await self._session.exec(select(ServerRow))}

    async def bury(self, server_id: str, beat: int | None, sessions: Collection[str]) -> bool:
        """Forgets these proxies of a server, and it too once it has no others. False: it has beaten meanwhile.

        A server that does beat later sees after its beat that they are gone: the two take turns.
        """
        await take_turn(self._session, Turn.SERVER, server_id)
        found = await self._session.exec(select(ServerRow.beat).where(col(ServerRow.id) == server_id))
        if found.first() != beat:
            return False
        theirs = col(ProxyRow.server_id) == server_id
        await self._session.exec(delete(ProxyRow).where(theirs, col(ProxyRow.session).in_(sessions)))
        if (await self._session.exec(select(ProxyRow.id).where(theirs))).first() is None:
            await self._session.exec(delete(ServerRow).where(col(ServerRow.id) == server_id))
        await signal(self._session, Signal.PROXIES)
        return True


def _proxy(row: ProxyRow) -> KnownProxy:
    return KnownProxy(
        id=row.id,
        stale_limit_ms=row.stale_limit_ms,
        server_id=row.server_id,
        session=row.session,
        acked_version=row.acked_version,
        connected=row.connected,
    )
