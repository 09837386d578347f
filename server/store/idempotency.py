"""Queries about calls with an Idempotency-Key: who runs one, and what it answered."""

import base64
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.store.dialects import insert
from server.store.sealing import Sealer
from server.store.tables import IdempotencyRow


@dataclass(frozen=True, kw_only=True, slots=True)
class CallKey:
    """What a key stands for: one call of one method, of one organization."""

    org_id: str
    method: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAnswer:
    """What a call answered: the message's bytes, or those of the error's status, and the headers beside it.

    `version` is the change that the answer speaks of: it is true once every proxy knows that.
    """

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    failed: bool = False
    version: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known of a key: who runs the call now, the request's SHA-256, and the answer once there is one."""

    owner: str
    fingerprint: bytes
    answer: StoredAnswer | None


class IdempotencyKeys:
    """The keys' repository. It seals and opens the answers: one of them may hold a new API key."""

    def __init__(self, session: AsyncSession, sealer: Sealer) -> None:
        self._session = session
        self._sealer = sealer

    async def claim(
        self, key: CallKey, *, fingerprint: bytes, owner: str, now: datetime, lease_until: datetime, forgotten: datetime
    ) -> Entry:
        """The entry of a key. Its owner is `owner` where the call is to be run now. One before `forgotten` is none."""
        await self._session.exec(delete(IdempotencyRow).where(_is(key), col(IdempotencyRow.created_at) <= forgotten))
        row = {"org_id": key.org_id, "method": key.method, "key": key.key, "fingerprint": fingerprint}
        new = insert(self._session, IdempotencyRow).values(
            **row, owner=owner, lease_until=lease_until, size=0, created_at=now
        )
        await self._session.exec(new.on_conflict_do_nothing())
        query = select(IdempotencyRow).where(_is(key)).with_for_update()
        found = (await self._session.exec(query)).first()
        if found is None:  # whoever had it has just dropped it
            return Entry(owner="", fingerprint=fingerprint, answer=None)
        if found.answer is None and found.lease_until <= now and found.fingerprint == fingerprint:
            found.owner, found.lease_until = owner, lease_until
            await self._session.flush()
        answer = None if found.answer is None else _read(self._sealer.open(found.answer, _place(key)))
        return Entry(owner=found.owner, fingerprint=found.fingerprint, answer=answer)

    async def answer(self, key: CallKey, owner: str, answer: StoredAnswer) -> bool:
        """Keeps the answer of a call. False, and nothing kept, where somebody else runs it by now, or it has one."""
        sealed = self._sealer.seal(_written(answer), _place(key))
        mine = (_is(key), col(IdempotencyRow.owner) == owner, col(IdempotencyRow.answer).is_(None))
        done = await self._session.exec(update(IdempotencyRow).where(*mine).values(answer=sealed, size=len(sealed)))
        return bool(done.rowcount)

    async def revise(self, key: CallKey, owner: str, answer: StoredAnswer | None) -> None:
        """Replaces the answer that a call has; None takes it back."""
        sealed = None if answer is None else self._sealer.seal(_written(answer), _place(key))
        mine = (_is(key), col(IdempotencyRow.owner) == owner)
        size = 0 if sealed is None else len(sealed)
        await self._session.exec(update(IdempotencyRow).where(*mine).values(answer=sealed, size=size))

    async def drop(self, key: CallKey, owner: str) -> None:
        """Forgets a call that came to no answer."""
        mine = (_is(key), col(IdempotencyRow.owner) == owner, col(IdempotencyRow.answer).is_(None))
        await self._session.exec(delete(IdempotencyRow).where(*mine))

    async def usage(self, org_id: str, since: datetime) -> tuple[int, int]:
        """How many keys an organization has used since then, and how many bytes their answers take."""
        young = (col(IdempotencyRow.org_id) == org_id, col(IdempotencyRow.created_at) > since)
        query = select(func.count(), func.coalesce(func.sum(IdempotencyRow.size), 0)).where(*young)
        count, size = (await self._session.exec(query)).one()
        return int(count), int(size)

    async def forget(self, before: datetime, limit: int) -> int:
        """Drops at most so many keys that are older than this. Says how many."""
        age = col(IdempotencyRow.created_at)
        old = select(IdempotencyRow.id).where(age <= before).order_by(age).limit(limit)
        done = await self._session.exec(delete(IdempotencyRow).where(col(IdempotencyRow.id).in_(old)))
        return done.rowcount


def _is(key: CallKey) -> ColumnElement[bool]:
    return and_(
        col(IdempotencyRow.org_id) == key.org_id,
        col(IdempotencyRow.method) == key.method,
        col(IdempotencyRow.key) == key.key,
    )


def _place(key: CallKey) -> str:
    return f"idempotency_keys/{key.org_id}/{key.method}/{key.key}/answer"


def _written(answer: StoredAnswer) -> str:
    body = base64.b64encode(answer.body).decode()
    return json.dumps({"body": body, "headers": answer.headers, "failed": answer.failed, "version": answer.version})


def _read(text: str) -> StoredAnswer:
    found = json.loads(text)
    return StoredAnswer(
        body=base64.b64decode(found["body"]),
        headers=tuple((str(name), str(value)) for name, value in found["headers"]),
        failed=found["failed"],
        version=found["version"],
    )
