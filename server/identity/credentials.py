"""What stands behind a bearer: the same code where requests are let in, and where it is explained."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from server.domain import keys
from server.domain.decisions import (
    BadTokenCredential,
    Credential,
    Guard,
    KeyCredential,
    NoCredential,
    TokenCredential,
    UnknownKey,
)
from server.domain.providers import PROVIDERS
from server.identity.issuers import Issuers
from server.identity.tokens import BadToken, claimed_issuer

FindKey = Callable[[bytes], Awaitable[KeyCredential | None]]

NO_CREDENTIAL = NoCredential()
NO_TOKENS = NoCredential(why="the bearer is no API key, and no policy takes tokens")
UNREADABLE = "the bearer is neither an API key nor a token that can be read"
MAX_SHOWN = 200
UNKNOWN_KEY = UnknownKey()
# Shorter than any issuer's keys are kept: a key that was withdrawn is noticed.
REMEMBER_S = 30.0
# Claims may be as large as a token may be, 16 KB.
MAX_REMEMBERED = 5_000


@dataclass(frozen=True, slots=True)
class _Verified:
    credential: TokenCredential
    until: float


class Tokens:
    """Verifies tokens. Each spelling of one is verified by itself, and remembered for a while, or until it expires."""

    def __init__(self, issuers: Issuers, clock: Callable[[], float] = time.time) -> None:
        self._issuers = issuers
        self._clock = clock
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()

    async def credential(self, token: str, algorithms: Mapping[str, frozenset[str]], party: str = "") -> Credential:
        """The credential of a token, where a policy names its issuer. `algorithms` are those issuers, with theirs.

        One that is not remembered takes a turn of the party. Raises IssuerUnreachable and TooManyWaiting.
        """
        try:
            issuer = claimed_issuer(token)
        except BadToken as error:
            return NoCredential(why=f"{UNREADABLE} ({error})")
        if issuer is None or issuer not in algorithms:
            whose = "without an issuer" if issuer is None else f"of {repr(issuer)[:MAX_SHOWN]}"
            return NoCredential(why=f"no policy takes tokens {whose}")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known.credential.issuer == issuer and self._clock() < known.until:
            return known.credential
        return await self._verify(token, digest, issuer, algorithms[issuer], party)

    async def _verify(
        self, token: str, digest: bytes, issuer: str, algorithms: frozenset[str], party: str
    ) -> Credential:
        try:
            claims = await self._issuers.verify(token, issuer, algorithms, party)
        except BadToken as error:
            return BadTokenCredential(issuer=issuer, why=str(error))
        credential = TokenCredential(issuer=issuer, claims=claims)
        until = min(claims["exp"], self._clock() + REMEMBER_S)
        self._known[digest] = _Verified(credential, until)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return credential


async def identify(
    token: str | None,
    guards: Sequence[Guard],
    find_key: Callable[[bytes], Awaitable[KeyCredential | None]],
    tokens: Tokens,
    party: str = "",
) -> Credential:
    """The credential behind a bearer (contract, "Which provider is tried"). One that nobody here takes counts as none.

    `party` is whose turn a verification takes: the instance that is called. Raises IssuerUnreachable where a token's
    issuer cannot be asked for its keys, and TooManyWaiting.
    """
    if token is None:
        return NO_CREDENTIAL
    if keys.looks_like_key(token):
        return (await find_key(keys.digest(token)) or UNKNOWN_KEY) if keys.well_formed(token) else UNKNOWN_KEY
    algorithms = {guard.issuer: PROVIDERS[guard.provider].algorithms for guard in guards if guard.issuer is not None}
    return await tokens.credential(token, algorithms, party) if algorithms else NO_TOKENS
