"""The keys of token issuers: found by discovery, cached, fetched again on rotation, kept while the issuer is down."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from server.domain.urls import Refused
from server.identity.egress import Fetched, GuardedClient
from server.identity.tokens import ASYMMETRIC, BadToken, VerifyingKey, header, load_jwks, verify
from server.identity.turns import Turns

DISCOVERY = "/.well-known/openid-configuration"
MAX_DOCUMENT = 64 * 1024
MAX_JWKS = 256 * 1024
# Bounds of the issuer's own max-age, and what is taken where it says nothing. Keys rotate without notice.
MIN_AGE_S, DEFAULT_AGE_S, MAX_AGE_S = 60.0, 300.0, 900.0
REFETCH_S = 10.0
# How long the last good keys serve while the issuer does not answer.
KEEP_S = 3600.0
MAX_ISSUERS = 1000
# Tokens of one party that wait to be verified: about a fifth of a second.
MOST_WAITING = 1000
TOO_MANY_REQUESTS, SERVER_ERRORS = 429, 500
MAX_AGE = re.compile(r"(?:^|[\s,])max-age=(\d{1,9})")


class IssuerUnreachable(Exception):
    """The issuer's keys cannot be had now. The message says why, for the owner of the policy."""


@dataclass(slots=True)
class _Issuer:
    keys: Mapping[str, VerifyingKey] = field(default_factory=dict)
    good_at: float = float("-inf")
    fresh_until: float = float("-inf")
    tried_at: float = float("-inf")
    problem: str = "it was never asked"
    answers: bool = False  # whether the problem is what it answers, which trying again does not change
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Issuers:
    """Verifies tokens of any issuer that a policy names. An issuer is asked once at a time, and at most every 10 s."""

    def __init__(
        self,
        client: GuardedClient,
        *,
        discovery: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`discovery` is the development switch: per issuer, the address of its document (contract).

        The client is closed with it.
        """
        self._client = client
        self._discovery = dict(discovery or {})
        self._clock = clock
        self._monotonic = monotonic
        self._issuers: dict[str, _Issuer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = Turns(at_once=1, most_waiting=MOST_WAITING)

    async def verify(self, token: str, issuer: str, algorithms: frozenset[str], party: str = "") -> dict[str, Any]:
        """The claims of a token that this issuer has signed. Raises BadToken, IssuerUnreachable or TooManyWaiting.

        An issuer whose document or keys cannot be accepted makes its tokens bad: asking again would not help.
        The audience is not checked here: it is the policy's. It takes a turn of the party.
        """
        key = await self._key(issuer, header(token).get("kid"))
        if key.algorithm not in algorithms:
            raise BadToken("alg")
        async with self._turns.turn(party):
            return verify(token, key, issuer=issuer, audience=None, now=self._clock())

    async def close(self) -> None:
        """Gives up what is being fetched, and closes the client."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _key(self, issuer: str, kid: object) -> VerifyingKey:
        found = self._known(issuer)
        if self._stale(found, kid):
            refreshing = asyncio.create_task(self._refresh(issuer, found, kid))
            self._tasks.add(refreshing)
            refreshing.add_done_callback(self._tasks.discard)
            # A known key serves at once; only what cannot be answered without the issuer waits for it.
            if kid not in found.keys:
                await asyncio.shield(refreshing)
        if self._monotonic() - found.good_at > KEEP_S:
            if found.answers:
                raise BadToken(f"the keys of its issuer are not accepted: {found.problem}")
            raise IssuerUnreachable(f"the keys of {issuer} cannot be fetched: {found.problem}")
        if kid is None and len(found.keys) == 1:
            return next(iter(found.keys.values()))
        if not isinstance(kid, str) or kid not in found.keys:
            raise BadToken("kid")
        return found.keys[kid]

    def _known(self, issuer: str) -> _Issuer:
        found = self._issuers.get(issuer)
        if found is None:
            if len(self._issuers) >= MAX_ISSUERS:
                self._issuers.pop(next(iter(self._issuers)))
            found = self._issuers[issuer] = _Issuer()
        return found

    def _stale(self, found: _Issuer, kid: object) -> bool:
        now = self._monotonic()
        wanted = now >= found.fresh_until or (isinstance(kid, str) and kid not in found.keys)
        return wanted and now - found.tried_at >= REFETCH_S

    async def _refresh(self, issuer: str, found: _Issuer, kid: object) -> None:
        async with found.lock:
            if not self._stale(found, kid):
                return
            found.tried_at = self._monotonic()
            try:
                keys, age = await self._fetch(issuer)
            except (Refused, IssuerUnreachable, httpx.HTTPError) as error:
                found.problem, found.answers = str(error) or type(error).__name__, isinstance(error, Refused)
                return
            now = self._monotonic()
            found.keys, found.good_at, found.fresh_until = keys, now, now + age

    async def _fetch(self, issuer: str) -> tuple[dict[str, VerifyingKey], float]:
        document = await self._document(issuer)
        address = document.get("jwks_uri")
        if not isinstance(address, str):
            raise Refused("its document names no jwks_uri")
        answer = await self._client.get(address, limit=MAX_JWKS)
        _check_status(answer, "its keys were")
        keys = load_jwks(answer.json(), frozenset(ASYMMETRIC))
        if not keys:
            raise Refused("it has no usable keys")
        return keys, _age(answer)

    async def _document(self, issuer: str) -> Mapping[str, Any]:
        problem: Exception = Refused("its discovery document cannot be fetched")
        for address in self._addresses(issuer):
            try:
                return _checked(await self._client.get(address, limit=MAX_DOCUMENT), issuer)
            except (Refused, IssuerUnreachable) as error:
                problem = error
        raise problem

    def _addresses(self, issuer: str) -> list[str]:
        """Where the document may be: the development switch may name it, or what it is below."""
        named = self._discovery.get(issuer)
        if named is None:
            return [issuer.rstrip("/") + DISCOVERY]
        return [named] if named.endswith(DISCOVERY) else [named.rstrip("/") + DISCOVERY, named]


def _check_status(answer: Fetched, what: str) -> None:
    """Raises IssuerUnreachable where the issuer has a problem of its own, and Refused where it means what it says."""
    if answer.status >= SERVER_ERRORS or answer.status == TOO_MANY_REQUESTS:
        raise IssuerUnreachable(f"{what} answered with status {answer.status}")
    if answer.status != 200:
        raise Refused(f"{what} answered with status {answer.status}")


def _checked(answer: Fetched, issuer: str) -> Mapping[str, Any]:
    _check_status(answer, "its discovery document was")
    document = answer.json()
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise Refused("its discovery document names another issuer")
    return document


def _age(answer: Fetched) -> float:
    """How long keys are fresh: what the issuer says, within bounds."""
    match = MAX_AGE.search(answer.headers.get("cache-control", "").lower())
    return min(MAX_AGE_S, max(MIN_AGE_S, float(match[1]))) if match else DEFAULT_AGE_S
