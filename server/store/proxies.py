"""Queries about the proxies that may still serve what they know."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.tables import ProxyRow


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownProxy:
    """A proxy that said hello, and for how long it serves without us."""

    id: str
    stale_limit_ms: int
    seen_at: datetime


class Proxies:
    """The proxies' repository."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def all(self) -> list[KnownProxy]:
        """Every proxy that has not taken leave."""
        found = await self._session.exec(select(ProxyRow))
        return [KnownProxy(id=row.id, stale_limit_ms=row.stale_limit_ms, seen_at=row.seen_at) for row in found]

    async def save(self, proxy: KnownProxy) -> None:
        """Remembers a proxy."""
        await self._session.merge(ProxyRow(id=proxy.id, stale_limit_ms=proxy.stale_limit_ms, seen_at=proxy.seen_at))
        await self._session.flush()

    async def remove(self, proxy_id: str) -> None:
        """Forgets a proxy: it cannot serve any more."""
        await self._session.exec(delete(ProxyRow).where(col(ProxyRow.id) == proxy_id))
