"""The strict wrapper: what a good token is, and sixteen and more that are none."""

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwt

from server.identity.tokens import BadToken, VerifyingKey, claimed_issuer, header, load_jwks, shared_secret, verify
from tests.support.issuer import EC, RSA, Issuer, part, pem, public_pem, public_row

ISS = "https://issuer.example"
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = load_jwks({"keys": [public_row(RSA, "rsa", "RS256"), public_row(EC, "ec", "ES256")]})


@pytest.fixture
def issuer() -> Issuer:
    issuer = Issuer()
    issuer.name = ISS
    return issuer


def check(token: str, key: VerifyingKey = KEYS["rsa"], now: float | None = None, **names: Any) -> dict[str, Any]:
    wanted = {"issuer": ISS, "audience": "orch8"} | names
    return verify(token, key, now=time.time() if now is None else now, **wanted)


def test_good_tokens_pass(issuer: Issuer) -> None:
    assert check(issuer.sign())["sub"].startswith("repo:acme")
    assert check(issuer.sign(key=EC, algorithm="ES256", kid="ec"), KEYS["ec"])
    assert check(issuer.sign(aud=["other", "orch8"]))
    assert check(issuer.sign(aud=None), audience=None)
    assert check(issuer.sign(nbf=int(time.time()) + 20, iat=int(time.time()) + 20)), "within the leeway"
    assert check(issuer.sign(exp=int(time.time()) - 20)), "within the leeway"


def hostile(issuer: Issuer) -> dict[str, Any]:
    good = issuer.sign()
    head, body, signature = good.split(".")
    now = int(time.time())
    confused = jwt.encode(issuer.claims(), "x" * 32, algorithm="HS256", headers={"kid": "rsa"})
    unsigned = f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}."
    return {
        "alg none": unsigned,
        "alg none with a signature": f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}.{signature}",
        "alg in another case": f"{part({'alg': 'rs256', 'kid': 'rsa'})}.{body}.{signature}",
        "HMAC with something": confused,
        "HMAC with the public key": hmac_with(public_pem(RSA), issuer),
        "another algorithm of the family": issuer.sign(algorithm="RS512"),
        "key of another type": issuer.sign(key=EC, algorithm="ES256"),
        "another key": issuer.sign(key=OTHER),
        "changed body": f"{head}.{part(issuer.claims(sub='somebody else'))}.{signature}",
        "cut signature": f"{head}.{body}.{signature[:-6]}",
        "no signature": f"{head}.{body}.",
        "crit": signed_with({"crit": ["b64"], "b64": False}, issuer),
        "no exp": issuer.sign(exp=None),
        "exp as text": issuer.sign(exp=str(now + 300)),
        "exp null": raw(issuer, exp="null"),
        "exp infinite": raw(issuer, exp="Infinity"),
        "exp true": raw(issuer, exp="true"),
        "expired": issuer.sign(exp=now - 31),
        "not yet valid": issuer.sign(nbf=now + 60),
        "issued in the future": issuer.sign(iat=now + 60),
        "another issuer": issuer.sign(iss=f"{ISS}/"),
        "no issuer": issuer.sign(iss=None),
        "issuer as list": raw(issuer, iss=json.dumps([ISS])),
        "another audience": issuer.sign(aud="other"),
        "audience that begins alike": issuer.sign(aud="orch8x"),
        "no audience": issuer.sign(aud=None),
        "audience as object": raw(issuer, aud='{"orch8": 1}'),
        "no subject": issuer.sign(sub=None),
        "subject as number": raw(issuer, sub="5"),
        "issuer twice": forged(f'{{"iss":"https://evil.example",{json.dumps(issuer.claims())[1:]}'.encode()),
        "a nested name twice": raw(issuer, roles='{"a": 1, "a": 2}'),
        "body is no object": forged(b"[1]"),
        "body is no JSON": forged(b"\xff{"),
        "deep body": forged(b'{"a":' * 4000 + b"1" + b"}" * 4000),
        "too large": issuer.sign(pad="x" * 20_000),
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.x",
        "junk in the signature": f"{head}.{body}.{signature[:5]}!{signature[5:]}",
        "line break": f"{good}\n",
        "empty": "",
        "padding": f"{head}=.{body}.{signature}",
    }


def forged(body: bytes) -> str:
    """A body signed with the right key, whatever it is."""
    from jose import jws

    return str(jws.sign(body, pem(RSA), headers={"kid": "rsa"}, algorithm="RS256"))


def raw(issuer: Issuer, **texts: str) -> str:
    """A token whose claims hold these JSON texts as they are."""
    claims = {name: json.dumps(value) for name, value in issuer.claims().items()} | texts
    return forged(("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in claims.items()) + "}").encode())


def hmac_with(secret: str, issuer: Issuer) -> str:
    import hashlib
    import hmac

    signed = f"{part({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{part(issuer.claims())}"
    return f"{signed}.{part(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"


def signed_with(headers: dict[str, Any], issuer: Issuer) -> str:
    return str(jwt.encode(issuer.claims(), pem(RSA), algorithm="RS256", headers={"kid": "rsa", **headers}))


def test_hostile_tokens_are_refused(issuer: Issuer) -> None:
    tokens = hostile(issuer)
    assert len(tokens) > 35
    accepted = []
    for name, token in tokens.items():
        try:
            check(token)
        except BadToken:
            continue
        accepted.append(name)
    assert accepted == []


def test_header_never_names_the_key(issuer: Issuer) -> None:
    mine = public_row(OTHER, "rsa", "RS256")
    for headers in ({"jwk": mine}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}):
        assert check(signed_with(headers, issuer)), "such headers are ignored, and the right key verifies"


@pytest.mark.parametrize(
    "row",
    [
        public_row(rsa.generate_private_key(public_exponent=65537, key_size=1024), "k", "RS256"),
        public_row(RSA, "k", "RS256", use="enc"),
        public_row(RSA, "k", "RS256", alg="HS256"),
        public_row(RSA, "k", "RS256", alg="none"),
        public_row(EC, "k", "ES256", alg="ES384"),
        public_row(EC, "k", "ES256", alg="RS256"),
        public_row(EC, "k", "ES256", crv="secp256k1", alg=None),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"},
        public_row(RSA, "k", "RS256", n="!!"),
        public_row(RSA, "k", "RS256") | {"kid": 5},
        {"kid": "k"},
        "text",
        None,
    ],
)
def test_unsound_keys_are_left_out(row: Any) -> None:
    assert load_jwks({"keys": [row]}) == {}


@pytest.mark.parametrize("document", [None, [], {}, {"keys": None}, {"keys": {}}, "x", 5])
def test_documents_that_are_none_hold_no_keys(document: Any) -> None:
    assert load_jwks(document) == {}


def test_shared_secret_is_for_one_algorithm() -> None:
    key = shared_secret("a-secret")
    good = jwt.encode({"sub": "a", "exp": time.time() + 60}, "a-secret", algorithm="HS256")
    assert verify(good, key, issuer=None, audience=None, now=time.time())["sub"] == "a"
    for algorithm in ("HS384", "HS512"):
        other = jwt.encode({"sub": "a", "exp": time.time() + 60}, "a-secret", algorithm=algorithm)
        with pytest.raises(BadToken):
            verify(other, key, issuer=None, audience=None, now=time.time())


def test_claimed_issuer_is_read_without_trust(issuer: Issuer) -> None:
    assert claimed_issuer(issuer.sign()) == ISS
    assert claimed_issuer(f"{part({'alg': 'RS256'})}.{part({'iss': 5})}.eA") is None
    for broken in ("x", "a.b.c", f"{part({'alg': 'RS256'})}.{part(b'[' * 9000)}.eA"):
        with pytest.raises(BadToken):
            claimed_issuer(broken)
    assert header(issuer.sign())["kid"] == "rsa"
