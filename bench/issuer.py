"""An OpenID Connect issuer of two fixed documents and one token. The upstream's Envoy serves the documents."""

import json
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jwt

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"
AUDIENCE = "orch8-bench"
SUBJECTS = "repo:acme/*"
_SUBJECT = "repo:acme/shop:ref:refs/heads/main"
_VALID_S = 6 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Issuer:
    """`documents` are bodies by path; `token` is good for as long as any run lasts."""

    url: str
    documents: dict[str, str]
    token: str


def new_issuer(url: str) -> Issuer:
    """An issuer with a fresh RSA key, as the CI providers have one."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    row = jwk.construct(public.decode(), "RS256").to_dict() | {"kid": "bench", "use": "sig"}
    documents = {DISCOVERY: {"issuer": url, "jwks_uri": url + JWKS}, JWKS: {"keys": [row]}}
    return Issuer(
        url=url, documents={path: json.dumps(body) for path, body in documents.items()}, token=_token(private, url)
    )


def _token(private: rsa.RSAPrivateKey, url: str) -> str:
    """A token with about the claims of a CI job."""
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    now = int(time.time())
    claims = {
        "iss": url,
        "sub": _SUBJECT,
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + _VALID_S,
        "repository": "acme/shop",
        "repository_owner": "acme",
        "repository_owner_id": "1234567",
        "ref": "refs/heads/main",
        "workflow": "deploy",
        "run_id": "987654321",
    }
    return str(jwt.encode(claims, pem.decode(), algorithm="RS256", headers={"kid": "bench"}))
