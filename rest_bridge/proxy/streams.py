"""The answers that are under way, and their end when what let them in is over.

A revoked key, a changed policy, a suspended instance: the decision refuses requests that begin later. Those that go on,
such as server-sent events, WebSockets and long downloads, are checked again here, and cut.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rest_bridge.proxy import refusals
from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.entries import RUNNING
from rest_bridge.proxy.passes import Pass
from rest_bridge.proxy.refusals import Refusal
from rest_bridge.proxy.routes import Knowledge
from server.domain.decisions import Credential, Decision, UnknownKey, refused
from server.identity.turns import TooManyWaiting

# How late the end of a key or of the lease is noticed. A change is noticed at once.
TICK_S = 0.25


class Stream:
    """One answer under way. `cut` is called with the reason when it must end, perhaps more than once."""

    __slots__ = ("cut", "passed")

    def __init__(self, passed: Pass, cut: Callable[[Refusal], None]) -> None:
        self.passed = passed
        self.cut = cut


class Streams:
    """All answers under way that this proxy watches."""

    def __init__(self, knowledge: Knowledge, clock: Callable[[], float] = time.time) -> None:
        self._knowledge = knowledge
        self._clock = clock
        self._open: set[Stream] = set()
        self._of_org: Counter[str] = Counter()
        self._unchecked: set[Stream] = set()
        self._wake = asyncio.Event()
        self._checking = asyncio.Lock()
        knowledge.on_change(self._changed)

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def watched(self, passed: Pass, cut: Callable[[Refusal], None]) -> Iterator[None]:
        """Watches an answer for as long as the context lasts: every change from now on is checked."""
        stream = Stream(passed, cut)
        self._open.add(stream)
        self._of_org[passed.org_id] += 1
        try:
            yield
        finally:
            self._open.discard(stream)
            self._left(passed.org_id)
            self._unchecked.discard(stream)

    def crowded(self, org_id: str, limit: int | None) -> Refusal | None:
        """The refusal of one more, where the organization has as many as its plan allows (None: any number).

        All proxies together allow that many, so each allows its share.
        """
        if limit is None or self._of_org[org_id] < max(1, limit // self._knowledge.proxies):
            return None
        return refusals.too_many_streams(limit)

    async def run(self) -> None:
        """Checks for as long as the proxy lives."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            await self.check()

    async def check(self) -> None:
        """Checks whatever a change or the time concerns. When it returns, all that changed before was checked."""
        async with self._checking:
            self._wake.clear()
            await self._check_all()

    def cut_all(self) -> None:
        """Ends every answer: it cannot be watched any more."""
        for stream in tuple(self._open):
            stream.cut(refusals.not_in_touch())

    async def problem(self, passed: Pass) -> Refusal | None:
        """Why a request with this pass may not go on now; None where it may. Raises ServerAway."""
        if not self._knowledge.is_fresh():
            return refusals.not_in_touch()
        route = await self._knowledge.route(passed.instance_id)
        if route is None:
            return refusals.no_such_instance(passed.instance_id)
        if route.upstream is None or route.status != RUNNING:
            return refusals.not_running(passed.instance_id, route.status)
        if passed.mark not in route.marks.values():
            return refusals.policy_changed()
        return None if passed.key is None else await self._problem_of_key(passed.key, passed.instance_id)

    async def _problem_of_key(self, digest: bytes, instance_id: str) -> Refusal | None:
        try:
            key: Credential = await self._knowledge.key(digest, instance_id) or UnknownKey()
        except TooManyWaiting as error:
            raise ServerAway("too many keys are being asked for") from error
        reason = refused(key, datetime.fromtimestamp(self._clock(), UTC))
        if reason is None:
            return None
        return refusals.not_let_in(Decision(allowed=False, reason=reason), key, had_token=True)

    def _left(self, org_id: str) -> None:
        self._of_org[org_id] -= 1
        if not self._of_org[org_id]:
            del self._of_org[org_id]

    def _changed(self, instance_id: str | None, key: bytes | None) -> None:
        """Something changed. With neither, anything may have."""
        anything = instance_id is None and key is None
        self._check_soon(
            stream
            for stream in self._open
            if anything or stream.passed.instance_id == instance_id or (key is not None and stream.passed.key == key)
        )

    def _check_soon(self, streams: Iterable[Stream]) -> None:
        self._unchecked.update(streams)
        if self._unchecked:
            self._wake.set()

    async def _check_all(self) -> None:
        if not self._knowledge.is_fresh():
            self.cut_all()
            return
        now = self._clock()
        self._unchecked.update(one for one in self._open if one.passed.until is not None and one.passed.until <= now)
        for stream in tuple(self._unchecked):
            await self._check(stream)

    async def _check(self, stream: Stream) -> None:
        """Whoever cannot be checked now is checked again with the next tick, until the lease ends."""
        self._unchecked.discard(stream)
        try:
            problem = await self.problem(stream.passed)
        except ServerAway:
            self._unchecked.add(stream)
            return
        if problem is not None and stream in self._open:
            stream.cut(problem)
