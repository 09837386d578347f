"""An OpenID Connect issuer that can misbehave in every way, on this machine, over real HTTP."""

import base64
import inspect
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def pem(private: Any) -> str:
    encoded = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return str(encoded.decode())


def public_pem(private: Any) -> str:
    encoded = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return str(encoded.decode())


def public_row(private: Any, kid: str, algorithm: str, **changes: Any) -> dict[str, Any]:
    """A key as a JWKS document shows it."""
    return dict(jwk.construct(public_pem(private), algorithm).to_dict()) | {"kid": kid, "use": "sig"} | changes


def part(value: Any) -> str:
    """One part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Issuer:
    """What it signs with, what it shows, and how it answers. `name` is its `iss`; `url` where it really is."""

    def __init__(self) -> None:
        self.url = ""
        self.name = ""
        self.keys = [public_row(RSA, "rsa", "RS256"), public_row(EC, "ec", "ES256")]
        self.document: dict[str, Any] = {}
        self.jwks_headers: dict[str, str] = {}
        self.fetches: list[str] = []
        self.answer: Any = None  # a function that answers everything, or None
        self.jwks_body: bytes | None = None

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that are good now; None leaves one out."""
        now = int(time.time())
        made = {
            "iss": self.name,
            "sub": "repo:acme/shop:ref:refs/heads/main",
            "aud": "orch8",
            "iat": now,
            "exp": now + 300,
        }
        return {name: value for name, value in (made | changes).items() if value is not None}

    def sign(self, *, key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
        headers = {} if kid is None else {"kid": kid}
        return str(jwt.encode(self.claims(**changes), pem(key), algorithm=algorithm, headers=headers))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.fetches.append(request.path)
        if self.answer is not None:
            made = self.answer(request)
            answer: web.StreamResponse = await made if inspect.isawaitable(made) else made
            return answer
        if request.path.endswith("/.well-known/openid-configuration"):
            return web.json_response({"issuer": self.name, "jwks_uri": f"{self.url}/jwks", **self.document})
        if self.jwks_body is not None:
            return web.Response(body=self.jwks_body, content_type="application/json")
        return web.json_response({"keys": self.keys}, headers=self.jwks_headers)


@asynccontextmanager
async def running_issuer(name: str | None = None) -> AsyncIterator[Issuer]:
    """An issuer on a free port; its name is its address unless another is given."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", issuer.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    issuer.url = f"http://127.0.0.1:{port}"
    issuer.name = name or issuer.url
    try:
        yield issuer
    finally:
        await runner.cleanup()
