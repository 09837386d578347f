import base64
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

from server.identity.tokens import BadToken
from server.providers.sessions.cookies import access_token, default_name
from server.providers.sessions.supabase import SupabaseSessions
from tests.support import sessions

URL = "https://project.supabase.co"


class Issuer:
    """The project's key server, with the keys that it has at the moment."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.fetches = 0
        self.down = False

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{URL}/auth/v1/.well-known/jwks.json"
        self.fetches += 1
        return httpx.Response(500) if self.down else httpx.Response(200, json={"keys": self.keys})

    def add(self, private: Any, kid: str, algorithm: str, **changes: Any) -> Callable[..., str]:
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        row = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in jwk.construct(public, algorithm).to_dict().items()
        }
        self.keys.append(row | {"kid": kid, "use": "sig"} | changes)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

        def sign(alg: str = algorithm, **claims: Any) -> str:
            return str(jwt.encode(sessions.claims(**claims), pem, algorithm=alg, headers={"kid": kid}))

        return sign


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def verifier(issuer: Issuer) -> Any:
    async with httpx.AsyncClient(transport=httpx.MockTransport(issuer.answer)) as http:
        yield SupabaseSessions(url=URL, jwt_secret="", http=http)


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256")])
async def test_public_keys_verify(issuer: Issuer, verifier: SupabaseSessions, key: Any, algorithm: str) -> None:
    sign = issuer.add(key, "k1", algorithm)
    found = await verifier.verify(sign())
    assert found.email == "ana@example.com"
    await verifier.verify(sign())
    assert issuer.fetches == 1


async def test_algorithm_never_chooses_the_key(issuer: Issuer, verifier: SupabaseSessions) -> None:
    sign = issuer.add(RSA, "k1", "RS256")
    public = base64.urlsafe_b64decode(issuer.keys[0]["n"] + "==")
    hmac_with_public = jwt.encode(sessions.claims(), public.hex(), algorithm="HS256", headers={"kid": "k1"})
    none = f"{_part({'alg': 'none', 'kid': 'k1'})}.{_part(sessions.claims())}.eA"
    for bad in (hmac_with_public, none, sign("RS512"), sessions.token()):
        with pytest.raises(BadToken):
            await verifier.verify(bad)


def _part(value: Any) -> str:
    import json

    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_other_issuer_weak_or_misused_keys_are_refused(issuer: Issuer, verifier: SupabaseSessions) -> None:
    other = issuer.add(RSA, "good", "RS256")(iss="https://other.supabase.co/auth/v1")
    weak = issuer.add(rsa.generate_private_key(public_exponent=65537, key_size=1024), "weak", "RS256")()
    encryption = issuer.add(EC, "enc", "ES256", use="enc")()
    for bad in (other, weak, encryption):
        with pytest.raises(BadToken):
            await verifier.verify(bad)


async def test_unknown_kid_is_asked_for_at_a_bounded_rate(issuer: Issuer, verifier: SupabaseSessions) -> None:
    sign = issuer.add(RSA, "k1", "RS256")
    await verifier.verify(sign())
    rotated = issuer.add(EC, "k2", "ES256")
    for _ in range(5):
        with pytest.raises(BadToken):
            await verifier.verify(rotated())
    assert issuer.fetches == 1, "ten seconds have not passed"
    verifier._fetched -= 11
    await verifier.verify(rotated())
    assert issuer.fetches == 2


async def test_last_good_keys_serve_while_the_project_is_down(issuer: Issuer, verifier: SupabaseSessions) -> None:
    sign = issuer.add(RSA, "k1", "RS256")
    await verifier.verify(sign())
    issuer.down = True
    verifier._fetched -= 3600
    await verifier.verify(sign())
    assert issuer.fetches == 2


async def test_secret_verifies_where_the_project_still_signs_with_it() -> None:
    async with httpx.AsyncClient() as http:
        verifier = SupabaseSessions(url="", jwt_secret=sessions.SECRET, http=http)
        assert (await verifier.verify(sessions.token(sub="u1"))).user_id == "u1"
        with pytest.raises(BadToken):
            await verifier.verify(sessions.token(exp=time.time() - 31))
        await verifier.verify(sessions.token(exp=time.time() - 20))


@pytest.mark.parametrize(
    "value",
    ["", "base64-", "base64-!!", "base64-eHg", "{", "[]", "[1]", "null", "%7B%22access_token%22%3A1%7D", "[" * 5000],
)
def test_broken_cookies_hold_no_session(value: str) -> None:
    assert access_token(f"{sessions.COOKIE}={value}; x", sessions.COOKIE) is None


def test_cookies_of_two_headers_are_joined_with_a_comma_and_still_found() -> None:
    token = sessions.token()
    for form in sessions.cookie_forms(token).values():
        assert access_token(f"a=1,{form}, b=2", sessions.COOKIE) == token


def test_cookie_name_follows_the_project() -> None:
    assert default_name("https://abc.supabase.co") == "sb-abc-auth-token"
    assert default_name("http://127.0.0.1:54321") == "sb-127-auth-token"
