"""The one way to verify a JWT: bare python-jose ignores `kid` and `crit`, and accepts a missing `exp`."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jose import jwk, jwt
from jose.backends.base import Key

LEEWAY_S = 30
MAX_TOKEN = 16 * 1024
MIN_RSA_BITS = 2048
SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Each algorithm with the key type, and the curve, that it needs.
ASYMMETRIC = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
}
PUBLIC_PARTS = ("kty", "n", "e", "x", "y", "crv")


class BadToken(Exception):
    """The token is not accepted. The message is for our log, never for the caller."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key and the one algorithm that it is for: a token's header never chooses."""

    algorithm: str
    key: Key


def shared_secret(secret: str) -> VerifyingKey:
    """The key of an issuer that still signs with a shared secret (HS256)."""
    encoded = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    return VerifyingKey("HS256", jwk.construct({"kty": "oct", "k": encoded, "alg": "HS256"}, "HS256"))


def load_jwks(document: Any, allowed: frozenset[str] = frozenset(ASYMMETRIC)) -> dict[str, VerifyingKey]:
    """The usable signing keys of a JWKS document, by `kid`. Whatever is not sound is left out."""
    rows = document.get("keys") if isinstance(document, Mapping) else None
    keys = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("kid"), str) and (key := _load(row, allowed)):
            keys[row["kid"]] = key
    return keys


def _load(row: Mapping[str, Any], allowed: frozenset[str]) -> VerifyingKey | None:
    kind = (row.get("kty"), row.get("crv"))
    algorithm = row.get("alg") or next((name for name, needs in ASYMMETRIC.items() if needs == kind), None)
    if algorithm not in allowed or ASYMMETRIC.get(algorithm) != kind or row.get("use", "sig") != "sig":
        return None
    try:
        if kind[0] == "RSA" and len(base64.urlsafe_b64decode(row["n"] + "==")) * 8 < MIN_RSA_BITS:
            return None
        return VerifyingKey(algorithm, jwk.construct({k: row[k] for k in PUBLIC_PARTS if k in row}, algorithm))
    except Exception:  # noqa: BLE001 - a broken key, however broken, is no key
        return None


def header(token: str) -> Mapping[str, Any]:
    """The header of a token that has the right shape, not verified. Raises BadToken."""
    if len(token) > MAX_TOKEN or SHAPE.fullmatch(token) is None:
        raise BadToken("shape")
    try:
        found = jwt.get_unverified_header(token)
    except Exception as error:
        raise BadToken(f"header: {type(error).__name__}") from error
    if "crit" in found:
        raise BadToken("crit")
    return found


def claimed_issuer(token: str) -> str | None:
    """The `iss` that a token claims, not verified: good for choosing a policy and nothing else. Raises BadToken."""
    header(token)
    try:
        found = jwt.get_unverified_claims(token).get("iss")
    except Exception as error:
        raise BadToken(f"claims: {type(error).__name__}") from error
    return found if isinstance(found, str) else None


def verify(token: str, key: VerifyingKey, *, issuer: str | None, audience: str | None, now: float) -> dict[str, Any]:
    """The claims of a token that is signed with this key, valid at `now` (Unix seconds). Raises BadToken.

    `exp` and `sub` must be there; `issuer` None leaves `iss` unchecked, and `audience` None `aud`.
    """
    if header(token).get("alg") != key.algorithm:
        raise BadToken("alg")
    try:
        claims = jwt.decode(token, key.key, algorithms=[key.algorithm], options=_SIGNATURE_ONLY)
        _check_members(token)
        _check_times(claims, now)
    except BadToken:
        raise
    except Exception as error:
        raise BadToken(type(error).__name__) from error
    _check_names(claims, issuer, audience)
    return claims


# Times, issuer and audience are checked here and not by the library, which lets odd types pass.
_SIGNATURE_ONLY = {f"verify_{name}": False for name in ("aud", "iat", "exp", "nbf", "iss", "sub", "jti", "at_hash")}


def _check_members(token: str) -> None:
    """Raises BadToken where a name stands twice in an object: whoever else reads the token may take the other value."""
    for part in token.split(".")[:2]:
        json.loads(base64.urlsafe_b64decode(part + "=="), object_pairs_hook=_unique)


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise BadToken("a name twice")
    return found


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if type(value) not in (int, float) or not abs(float(value or 0)) < 2**53:
            raise BadToken(name)
    if claims["exp"] <= now - LEEWAY_S:
        raise BadToken("expired")
    if max(claims.get("nbf") or 0, claims.get("iat") or 0) > now + LEEWAY_S:
        raise BadToken("not yet valid")


def _check_names(claims: Mapping[str, Any], issuer: str | None, audience: str | None) -> None:
    subject, given = claims.get("sub"), claims.get("aud")
    if not isinstance(subject, str) or not 1 <= len(subject) <= 1024:
        raise BadToken("sub")
    if issuer is not None and claims.get("iss") != issuer:
        raise BadToken("iss")
    if audience is not None and audience not in (given if isinstance(given, list) else [given]):
        raise BadToken("aud")
