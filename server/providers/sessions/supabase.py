"""Supabase access tokens, verified here: by the project's public keys, or by its legacy shared secret."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from server.identity.tokens import BadToken, VerifyingKey, header, load_jwks, shared_secret, verify

AUDIENCE = "authenticated"
KEYS_TTL_S = 600.0  # Supabase sends max-age=600
REFETCH_S = 10.0
MAX_JWKS = 256 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A signed-in user, with all claims of the token."""

    user_id: str
    email: str | None
    claims: Mapping[str, Any]


class Sessions(Protocol):
    """Says who a session token belongs to."""

    async def verify(self, token: str) -> Session:
        """The user. Raises BadToken."""
        ...


class SupabaseSessions:
    """Sessions of one Supabase project.

    Which key verifies a token follows from our configuration and its `kid`, never from the algorithm that it claims.
    """

    def __init__(
        self, *, url: str, jwt_secret: str, http: httpx.AsyncClient, clock: Callable[[], float] = time.time
    ) -> None:
        self._issuer = f"{url.rstrip('/')}/auth/v1" if url else None
        self._secret = shared_secret(jwt_secret) if jwt_secret else None
        self._http = http
        self._clock = clock
        self._keys: dict[str, VerifyingKey] = {}
        self._fetched = -KEYS_TTL_S
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Session:
        """Checks signature, times, issuer, audience and role: project API keys are JWTs too, and no sessions."""
        key = await self._key(header(token))
        claims = verify(token, key, issuer=self._issuer, audience=AUDIENCE, now=self._clock())
        if claims.get("role") != AUDIENCE or claims.get("is_anonymous") is True:
            raise BadToken("role")
        email = claims.get("email")
        return Session(user_id=claims["sub"], email=email if isinstance(email, str) else None, claims=claims)

    async def _key(self, found: Mapping[str, Any]) -> VerifyingKey:
        kid = found.get("kid")
        if self._issuer and isinstance(kid, str):
            await self._refresh(kid)
            if kid in self._keys:
                return self._keys[kid]
        if self._secret is not None:
            return self._secret
        raise BadToken("kid")

    async def _refresh(self, kid: str) -> None:
        """Fetches the keys where they are old, or lack this one; then at most every 10 s, whoever asks."""
        async with self._lock:
            age = time.monotonic() - self._fetched
            if age < REFETCH_S or (kid in self._keys and age < KEYS_TTL_S):
                return
            self._fetched = time.monotonic()
            self._keys = await self._fetch() or self._keys

    async def _fetch(self) -> dict[str, VerifyingKey]:
        try:
            answer = await self._http.get(f"{self._issuer}/.well-known/jwks.json", timeout=5)
            if answer.status_code != 200 or len(answer.content) > MAX_JWKS:
                return {}
            return load_jwks(answer.json())
        except (httpx.HTTPError, ValueError):
            return {}  # the last good keys go on serving
