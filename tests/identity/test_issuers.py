"""Discovery and keys, against an issuer that misbehaves."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from server.domain.providers import ASYMMETRIC, RS256
from server.identity.egress import GuardedClient
from server.identity.issuers import Issuers, IssuerUnreachable
from server.identity.tokens import BadToken
from tests.support.issuer import EC, Issuer, public_row, running_issuer


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def issuers(time: Time) -> AsyncIterator[Issuers]:
    async with Issuers(GuardedClient(allow_loopback=True), monotonic=time) as issuers:
        yield issuers


async def test_keys_are_found_once_and_kept(issuer: Issuer, issuers: Issuers) -> None:
    for _ in range(3):
        claims = await issuers.verify(issuer.sign(), issuer.name, RS256)
        assert claims["iss"] == issuer.name
    await issuers.verify(issuer.sign(key=EC, algorithm="ES256", kid="ec"), issuer.name, ASYMMETRIC)
    assert issuer.fetches == ["/.well-known/openid-configuration", "/jwks"]


async def test_algorithm_that_the_provider_does_not_use_is_refused(issuer: Issuer, issuers: Issuers) -> None:
    with pytest.raises(BadToken):
        await issuers.verify(issuer.sign(key=EC, algorithm="ES256", kid="ec"), issuer.name, RS256)


async def test_many_at_once_ask_the_issuer_once(issuer: Issuer, issuers: Issuers) -> None:
    await asyncio.gather(*(issuers.verify(issuer.sign(), issuer.name, RS256) for _ in range(50)))
    assert len(issuer.fetches) == 2


async def test_rotated_key_is_fetched_at_most_every_ten_seconds(issuer: Issuer, issuers: Issuers, time: Time) -> None:
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    fresh = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.keys.append(public_row(fresh, "fresh", "RS256"))
    token = issuer.sign(key=fresh, kid="fresh")
    for _ in range(20):
        with pytest.raises(BadToken):
            await issuers.verify(token, issuer.name, RS256)
    assert len(issuer.fetches) == 2
    time.now += 10.1
    await issuers.verify(token, issuer.name, RS256)
    assert len(issuer.fetches) == 4


@pytest.mark.parametrize(
    ("max_age", "fresh_for"), [("max-age=1", 60), ("max-age=120", 120), ("max-age=99999999", 900), ("no-store", 300)]
)
async def test_max_age_is_honoured_within_bounds(
    issuer: Issuer, issuers: Issuers, time: Time, max_age: str, fresh_for: int
) -> None:
    issuer.jwks_headers = {"Cache-Control": max_age}
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    time.now += fresh_for - 1
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    assert len(issuer.fetches) == 2
    time.now += 2
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    await asyncio.gather(*issuers._tasks)
    assert len(issuer.fetches) == 4


async def test_last_good_keys_serve_while_the_issuer_is_down_and_not_for_ever(
    issuer: Issuer, issuers: Issuers, time: Time
) -> None:
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    issuer.answer = lambda _: web.Response(status=500)
    time.now += 3500
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    await asyncio.gather(*issuers._tasks)
    time.now += 200
    with pytest.raises(IssuerUnreachable):
        await issuers.verify(issuer.sign(), issuer.name, RS256)


async def test_token_without_kid_is_tried_only_where_there_is_one_key(
    issuer: Issuer, issuers: Issuers, time: Time
) -> None:
    with pytest.raises(BadToken):
        await issuers.verify(issuer.sign(kid=None), issuer.name, RS256)
    issuer.keys = issuer.keys[:1]
    time.now += 1000
    await issuers.verify(issuer.sign(kid=None), issuer.name, RS256)


def misbehaviours() -> dict[str, Any]:
    def redirect(where: str) -> Any:
        return lambda _: web.Response(status=302, headers={"Location": where})

    return {
        "redirect inside": {"answer": redirect("/elsewhere")},
        "redirect to the metadata service": {"answer": redirect("http://169.254.169.254/latest/meta-data/")},
        "no JSON": {"answer": lambda _: web.Response(text="<html>")},
        "a list": {"answer": lambda _: web.json_response([])},
        "deep": {"answer": lambda _: web.Response(text="[" * 60_000)},
        "huge": {"answer": lambda _: web.Response(body=b" " * 300_000)},
        "compressed": {"answer": lambda _: web.Response(body=b"x", headers={"Content-Encoding": "gzip"})},
        "another issuer": {"document": {"issuer": "https://token.actions.githubusercontent.com"}},
        "issuer with a slash more": {"document": {"issuer": "http://127.0.0.1/"}},
        "no jwks_uri": {"document": {"jwks_uri": None}},
        "jwks at the metadata service": {"document": {"jwks_uri": "https://169.254.169.254/jwks"}},
        "jwks in a private network": {"document": {"jwks_uri": "https://10.0.0.1/jwks"}},
        "jwks in plain HTTP elsewhere": {"document": {"jwks_uri": "http://example.com/jwks"}},
        "jwks in a file": {"document": {"jwks_uri": "file:///etc/passwd"}},
        "jwks with a password": {"document": {"jwks_uri": "https://user:pass@example.com/jwks"}},
        "empty jwks": {"keys": []},
        "only secrets": {"keys": [{"kty": "oct", "k": "eA", "kid": "rsa", "alg": "HS256"}]},
        "huge jwks": {"jwks_body": b'{"keys": [' + b" " * 300_000 + b"]}"},
    }


@pytest.mark.parametrize("name", list(misbehaviours()))
async def test_misbehaving_issuer_lets_nobody_in(issuer: Issuer, issuers: Issuers, name: str) -> None:
    for attribute, value in misbehaviours()[name].items():
        setattr(issuer, attribute, value)
    with pytest.raises(BadToken, match="of its issuer are not accepted"):
        await issuers.verify(issuer.sign(), issuer.name, RS256)
    assert "/elsewhere" not in issuer.fetches


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_issuer_that_is_down_is_unreachable(issuer: Issuer, issuers: Issuers, status: int) -> None:
    issuer.answer = lambda _: web.Response(status=status)
    with pytest.raises(IssuerUnreachable):
        await issuers.verify(issuer.sign(), issuer.name, RS256)


async def test_last_good_keys_serve_while_the_issuer_answers_nonsense(
    issuer: Issuer, issuers: Issuers, time: Time
) -> None:
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    issuer.document = {"issuer": "https://token.actions.githubusercontent.com"}
    time.now += 1000
    await issuers.verify(issuer.sign(), issuer.name, RS256)
    await asyncio.gather(*issuers._tasks)
    assert len(issuer.fetches) == 3
    await issuers.verify(issuer.sign(), issuer.name, RS256)


async def test_hanging_issuer_is_given_up(issuer: Issuer, issuers: Issuers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GuardedClient.get.__kwdefaults__ or {}, "seconds", 0.2)

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        raise AssertionError

    issuer.answer = never
    with pytest.raises(IssuerUnreachable):
        await issuers.verify(issuer.sign(), issuer.name, RS256)


async def test_discovery_switch_fetches_elsewhere_and_keeps_the_issuers_name() -> None:
    name = "https://token.actions.githubusercontent.com"
    async with running_issuer(name) as issuer:
        for address in (issuer.url, f"{issuer.url}/.well-known/openid-configuration", f"{issuer.url}/github/"):
            async with Issuers(GuardedClient(allow_loopback=True), discovery={name: address}) as issuers:
                assert (await issuers.verify(issuer.sign(), name, RS256))["iss"] == name
