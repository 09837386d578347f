"""Idempotency-Key: a call that is sent again is answered again, and not carried out again (contract).

What a call does and what it answers are committed together. So a call without an answer has done nothing, and whoever
comes next may run it: the first one was lost, or the lease of its owner is over. Should that one live on after all, its
commit fails, for the call is not its own any more.

Kept are answers, and the refusals of which the state was the reason (FINAL). Not kept, so that trying again can help: a
request that is wrong in itself, a credential that is not accepted, a limit of requests, and faults of ours.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from server.errors import (
    FieldViolation,
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidArgument,
    NameTaken,
    NoRunningInstance,
    NotFound,
    PlanLimitReached,
    PlanTooLow,
    RateLimited,
    StateConflict,
)
from server.services.identifiers import Clock
from server.services.propagation import Propagation
from server.services.waiting import Waiters
from server.store.database import Database, UnitOfWork
from server.store.idempotency import CallKey, StoredAnswer

KEEP = timedelta(hours=24)
# Longer than any call works before it commits.
LEASE = timedelta(seconds=10)
# How long the second of two waits for the first, and how often it looks whether another server has ended it.
WAIT_S = 15.0
POLL_S = 0.5
# Of one organization, within KEEP.
MOST_KEYS = 10_000
MOST_BYTES = 64 * 1024 * 1024
KEY = re.compile(r"[\x20-\x7e]{1,255}")
FINAL = (NotFound, NameTaken, StateConflict, PlanLimitReached, PlanTooLow, NoRunningInstance)

T_contra = TypeVar("T_contra", contravariant=True)


class Keep(Protocol[T_contra]):
    """Keeps the answer of a call in the transaction of its work, just before the commit.

    A call may keep another answer later: that one then stands. `version` is the change of which the answer speaks,
    where it must not be given before every proxy knows that.
    """

    async def __call__(self, tx: UnitOfWork, made: T_contra, version: int | None = None) -> None:
        """Does nothing where the call has no Idempotency-Key."""


class Retract(Protocol):
    """Takes back the answer that a call has kept, in the transaction that takes back its work."""

    async def __call__(self, tx: UnitOfWork) -> None:
        """Does nothing where the call has no Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that is ours to run."""

    key: CallKey
    owner: str


def check_key(key: str) -> str:
    """The key. Raises InvalidArgument where it is none."""
    if KEY.fullmatch(key) is None:
        what = "must have 1 to 255 printable ASCII characters, such as a random UUID"
        raise InvalidArgument([FieldViolation(field="idempotency-key", description=what)])
    return key


class Idempotency:
    """Which calls were made, and what they answered."""

    def __init__(
        self, *, database: Database, propagation: Propagation, waiters: Waiters, clock: Clock, wait: float = WAIT_S
    ) -> None:
        self._database = database
        self._propagation = propagation
        self._waiters = waiters
        self._clock = clock
        self._wait = wait

    async def begin(self, key: CallKey, fingerprint: bytes) -> Claimed | StoredAnswer:
        """The call to run, or the answer that it had, which is certain everywhere.

        Raises IdempotencyMismatch, IdempotencyInProgress where the first one takes too long, RateLimited where too many
        keys are kept or too many calls wait, and ChangeUnconfirmed.
        """
        found = await self._claim(key, fingerprint)
        if found is None:
            found = await self._await(key, fingerprint)
        if isinstance(found, StoredAnswer) and found.version is not None:
            await self._propagation.confirm(found.version)
        return found

    async def keep(self, tx: UnitOfWork, claimed: Claimed, answer: StoredAnswer) -> None:
        """Keeps the answer with the work. Raises IdempotencyInProgress where somebody else runs the call by now."""
        if not await tx.idempotency.answer(claimed.key, claimed.owner, answer):
            raise IdempotencyInProgress(claimed.key.key)

    async def revise(self, tx: UnitOfWork, claimed: Claimed, answer: StoredAnswer | None) -> None:
        """Keeps another answer than the one that was kept, or none."""
        await tx.idempotency.revise(claimed.key, claimed.owner, answer)

    async def finish(self, claimed: Claimed, answer: StoredAnswer) -> None:
        """Keeps the answer of a call that changed nothing. Raises as keep()."""
        async with self._database.write() as tx:
            await self.keep(tx, claimed, answer)
            await tx.commit()
        self.ended(claimed)

    async def give_up(self, claimed: Claimed) -> None:
        """Lets the next one run the call, unless it has its answer."""
        async with self._database.write() as tx:
            await tx.idempotency.drop(claimed.key, claimed.owner)
            await tx.commit()
        self.ended(claimed)

    def ended(self, claimed: Claimed) -> None:
        """Wakes those who wait for this call."""
        self._waiters.wake(_name(claimed.key))

    async def _claim(self, key: CallKey, fingerprint: bytes) -> Claimed | StoredAnswer | None:
        """None where somebody else is at it."""
        now, owner = self._clock(), secrets.token_hex(16)
        async with self._database.write() as tx:
            entry = await tx.idempotency.claim(
                key, fingerprint=fingerprint, owner=owner, now=now, lease_until=now + LEASE, forgotten=now - KEEP
            )
            if entry.fingerprint != fingerprint:
                raise IdempotencyMismatch(key.key)
            if entry.answer is not None or entry.owner != owner:
                return entry.answer
            await self._check_usage(tx, key.org_id)
            await tx.commit()
        return Claimed(key, owner)

    async def _check_usage(self, tx: UnitOfWork, org_id: str) -> None:
        count, size = await tx.idempotency.usage(org_id, self._clock() - KEEP)
        if count > MOST_KEYS or size > MOST_BYTES:
            what = f"The organization has used {MOST_KEYS} Idempotency-Keys, or {MOST_BYTES} bytes of answers, in 24 h."
            raise RateLimited(what, scope="idempotency keys", limit=MOST_KEYS, retry_after=60)

    async def _await(self, key: CallKey, fingerprint: bytes) -> Claimed | StoredAnswer:
        with self._waiters.waiting(key.org_id, _name(key), self._wait) as waiter:
            while await waiter.again(POLL_S):
                if (found := await self._claim(key, fingerprint)) is not None:
                    return found
        raise IdempotencyInProgress(key.key)


def _name(key: CallKey) -> str:
    return f"{key.method} {key.org_id} {key.key}"
