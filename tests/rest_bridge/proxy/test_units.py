"""The small parts: paths, cookies, the signature, the cache and the lease."""

import asyncio
from collections.abc import Sequence

import pytest

from rest_bridge.answers import Row
from rest_bridge.proxy.cache import Known, ServerAway
from rest_bridge.proxy.headers import header_text, without_session
from rest_bridge.proxy.lease import Lease, suspend_aware_clock
from rest_bridge.proxy.signing import signature
from rest_bridge.proxy.targets import BadPath, normalize
from rest_bridge.proxy.traffic import MAX_FAILURES, MAX_ROWS, Count, Traffic
from server.domain.addresses import Address
from server.listening import CannotListen, close_socket, open_socket


def test_the_signature_is_the_engines() -> None:
    # The vector of the engine's documentation.
    signed = signature("trigger-secret-example", timestamp="1700000000", nonce="0123456789abcdef", body=b'{"a":1}')
    assert signed == "v1=hkv-12xiBGt3Vrv06dv1lBY583ebHFqoUQ0IOgy4F0M"


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/a/b", "/a/b"),
        ("/a//b", "/a//b"),
        ("//a", "//a"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a//../b", "/a/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/...", "/a/..."),
        ("/a/.b", "/a/.b"),
        ("/a%20b", "/a%20b"),
        ("/a\\b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/a/..;x=1/b", "/b"),
        ("/%41%2D%7e", "/A-~"),
        ("/%%34%31", "/%2541"),
        ("/%2%66", "/%252f"),
        ("/a%", "/a%"),
        ('/{a}"', "/%7Ba%7D%22"),
    ],
)
def test_paths_are_normalized(path: str, normal: str) -> None:
    assert normalize(path.encode()) == normal.encode()


@pytest.mark.parametrize("path", ["/a%2Fb", "/a%2fb", "/a%5cb", "/a%00", "/a\0", "*", ""])
def test_paths_that_could_be_read_in_two_ways_are_refused(path: str) -> None:
    with pytest.raises(BadPath):
        normalize(path.encode())


@pytest.mark.parametrize(
    ("cookies", "left"),
    [
        ([b"a=1"], None),
        ([], None),
        ([b"s=1"], b""),
        ([b"s.0=1; s.1=2"], b""),
        ([b"a=1; s=2", b"b=3"], b"a=1; b=3"),
        ([b"as=1"], b"as=1"),
        ([b"s-user=1;s-code-verifier=2; sx=3"], b"sx=3"),
    ],
)
def test_the_session_is_taken_out_of_the_cookies(cookies: list[bytes], left: bytes | None) -> None:
    assert without_session(cookies, b"s") == left


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("repo:acme/app:ref:refs/heads/main", b"repo:acme/app:ref:refs/heads/main"),
        ("a b\r\nx: 1", b"a%20b%0D%0Ax:%201"),
        ("100%", b"100%25"),
        ("ü", b"%C3%BC"),
        ("lone \ud800", b"lone%20%ED%A0%80"),
    ],
)
def test_a_text_that_callers_choose_becomes_one_header_value(text: str, header: bytes) -> None:
    assert header_text(text) == header


async def test_the_cache_is_bounded_and_asks_once() -> None:
    asked: list[int] = []

    async def fetch(key: int) -> str | None:
        asked.append(key)
        await asyncio.sleep(0)
        return None if key < 0 else str(key)

    known = Known(fetch, limit=2, unknown_limit=1)
    assert await asyncio.gather(*(known.get(1) for _ in range(5))) == ["1"] * 5
    assert [await known.get(key) for key in (-1, -1, 2, 1, 3, 1)] == [None, None, "2", "1", "3", "1"]
    assert asked == [1, -1, 2, 3]
    await known.get(2)
    await known.get(-2)
    await known.get(-1)
    assert asked == [1, -1, 2, 3, 2, -2, -1]


async def test_a_caller_who_goes_does_not_end_the_question_of_others() -> None:
    gate = asyncio.Event()

    async def fetch(key: int) -> str | None:
        await gate.wait()
        return "x"

    known = Known(fetch, limit=1, unknown_limit=1)
    first, second = asyncio.create_task(known.get(1)), asyncio.create_task(known.get(1))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "x"


async def test_what_changes_all_the_time_is_not_served() -> None:
    async def fetch(key: int) -> str | None:
        known.forget(key)
        return "stale"

    known: Known[int, str] = Known(fetch, limit=1, unknown_limit=1)
    with pytest.raises(ServerAway):
        await known.get(1)


def test_a_lease_counts_from_the_question() -> None:
    now = 10.0
    lease = Lease(stale_limit=5, clock=lambda: now)
    assert not lease.is_fresh()
    lease.renew(7.0)
    lease.renew(6.0)
    assert (lease.is_fresh(), lease.heartbeat_interval, lease.bound_ms) == (True, 0.5, 5000)
    lease.stream_lost()
    now = 12.0
    assert lease.is_fresh()
    now = 12.001
    assert not lease.is_fresh()
    assert suspend_aware_clock() <= suspend_aware_clock()


async def test_counts_survive_a_server_that_is_away_for_a_while_and_within_bounds() -> None:
    sent: list[Count] = []
    away = True

    async def report(counts: Sequence[Count], answers: Sequence[Row]) -> None:
        if away:
            raise ServerAway
        sent.extend(counts)
        answered.extend(answers)

    answered: list[Row] = []
    traffic = Traffic(report)
    traffic.answers.count("inst_0", "2xx", 1.0, 100.0)
    for number in range(MAX_ROWS + 10):
        traffic.count(f"inst_{number}", None, None, 200, 1.0)
    await traffic.flush()
    traffic.count("inst_0", None, None, 200, 2.0)
    away = False
    await traffic.flush()
    assert len(sent) == MAX_ROWS
    assert [(one.instance_id, one.minute, one.answers.kinds["2xx"]) for one in answered] == [("inst_0", 60, 1)]
    assert next(one for one in sent if one.instance_id == "inst_0").requests == 2
    away = True
    traffic.count("inst_0", None, None, 200, 3.0)
    traffic.answers.count("inst_0", "5xx", 1.0, 100.0)
    for _ in range(MAX_FAILURES):
        await traffic.flush()
    away = False
    sent.clear()
    answered.clear()
    await traffic.flush()
    assert sent == []
    assert answered == []
    assert traffic.answers.lost == 1


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    address = Address(path=str(tmp_path_factory.mktemp("s") / "p.sock"))
    open_socket(address, "proxy").close()
    living = open_socket(address, "proxy")
    with pytest.raises(CannotListen, match=r"^The proxy cannot listen on unix:.*: address already in use\.$"):
        open_socket(address, "proxy")
    close_socket(living, address)
