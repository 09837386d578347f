"""Hostile requests, made at random: both paths refuse alike, or carry alike and nothing that the caller forged."""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rest_bridge.proxy.targets import BadPath, normalize, parse
from tests.rest_bridge.data_path.cases.case import ANYBODY, AS_ANYBODY, AS_KEY, BY_KEY, HOOK, PLAIN
from tests.rest_bridge.data_path.cases.headers import FORGED, PASSING
from tests.rest_bridge.data_path.conftest import PATHS, World
from tests.rest_bridge.data_path.wire import Answer, request, send
from tests.rest_bridge.proxy.cases import OTHER_ORG_KEY, REVOKED_KEY, SCOPED_KEY, bearer
from tests.rest_bridge.proxy.fake_engine import Seen
from tests.support.calls import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=500,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EVIL = "evil"
OURS = re.compile(r"(x-gateway-|x-orch8-|x-envoy-|fly-).*|x-api-key")

BASES = st.sampled_from(
    [PLAIN, ANYBODY, HOOK, "/api/tunnel/inst_closed", "/api/tunnel", "/api", "http://a.test" + ANYBODY]
)
PIECES = st.sampled_from(
    [
        *"/.%;\\:@?&=+~!$,'()*[]{}|^`\"<>-_aF25ex",
        *("/../", "/./", "..", "//", "/..;", "%2e", "%2E", "%2f", "%5C", "%00", "%25", "%41", "%7e", "%C3%A9", "%zz"),
        *("inst_closed", "inst_plain", "tunnel", "gateway", "plain", "api"),
        *("#", "\x00", "\x7f", "\xe9", " ", "\t"),
    ]
)
# Mostly what a path may hold, so that most requests are carried; now and then anything.
# Space at the end would be the request line's, with which parsers may be lenient (RFC 9112, 3).
TARGETS = st.tuples(BASES, st.lists(PIECES, max_size=8).map("".join)).map(lambda parts: "".join(parts).rstrip())

SPELLINGS = st.sampled_from([str.lower, str.upper, str.title, str.swapcase, lambda name: name.replace("-", "_")])
NAMES = st.one_of(
    st.sampled_from(FORGED),
    st.builds(
        lambda prefix, rest: prefix + rest,
        st.sampled_from(["x-gateway-", "x-orch8-", "fly-", "x-envoy-"]),
        st.text("ab-_", max_size=4),
    ),
    st.sampled_from(sorted(PASSING)),
    st.sampled_from(["connection", "cookie", "x-forwarded-for", "x-forwarded-proto"]),
)
VALUES = st.one_of(
    st.just(EVIL),
    st.builds(
        lambda names: ", ".join(["close", *names]),
        st.lists(st.sampled_from(sorted({*FORGED, "x-tenant-id", "host"})), max_size=3),
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12).map(lambda text: EVIL + text),
    st.sampled_from([EVIL + "\x01", EVIL + "\x00", "\x7f", EVIL + "\t", f"{EVIL}=1; sb-orch8-auth-token={EVIL}"]),
)
HEADERS = st.lists(
    st.builds(lambda spell, name, value: (spell(name), value), SPELLINGS, NAMES, VALUES),
    max_size=5,
    unique_by=lambda header: header[0].lower(),
)
CREDENTIALS = st.sampled_from(
    [
        (),
        BY_KEY,
        BY_KEY,
        (bearer(OTHER_ORG_KEY),),
        (bearer(REVOKED_KEY),),
        (bearer(SCOPED_KEY),),
        (bearer(EVIL),),
        (*BY_KEY, *BY_KEY),
    ]
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])


async def _answer_in_touch(port: int, sent: bytes) -> Answer | None:
    """An answer of a proxy that hears its server: while examples are made up, nothing else runs in this process."""
    answer = await send(port, sent)
    return None if answer.status == 503 and answer.reason == "DATA_PLANE_NOT_READY" else answer


async def outcome(world: World, path: str, sent: bytes) -> tuple[Answer, Seen | None]:
    """The answer of one path, and what its engine saw; whichever it is, it is one that the contract knows."""
    world.engine.seen.clear()
    answer = await eventually(lambda: _answer_in_touch(world.ports[path], sent))
    assert answer.status < 500, answer.body
    if answer.header("x-engine") is None:
        assert answer.reason
        assert world.engine.seen == [], "what is refused never reaches the engine"
        return answer, None
    (seen,) = world.engine.seen
    return answer, seen


def same(outcomes: dict[str, tuple[Answer, Seen | None]]) -> Seen | None:
    """What both engines saw, if the paths agree that they should; fails where the paths disagree."""
    (direct, one), (envoy, other) = outcomes["direct"], outcomes["envoy"]
    assert (direct.status, direct.reason) == (envoy.status, envoy.reason)
    if one is not None and other is not None:
        # The one difference: see the case of an empty query.
        assert one.path.removesuffix("?") == other.path.removesuffix("?")
        assert (one.method, one.body) == (other.method, other.body)
    return one


@BOUNDED
@given(target=TARGETS, credential=CREDENTIALS)
async def test_paths(world: World, target: str, credential: Any) -> None:
    """Both paths read any path alike, as `normalize` and `parse` do, and none leads around a decision."""
    sent = request(target, credential)
    seen = same({path: await outcome(world, path, sent) for path in PATHS})
    if seen is not None:
        assert seen.path.partition("?")[0] == expected(target)
        assert seen.headers["x-gateway-provider"] == ("api-key" if PLAIN[-5:] in _instance(target) else "anonymous")


def expected(target: str) -> str:
    """What the engine is asked for, without the query."""
    path = target.removeprefix("http://a.test").partition("?")[0]
    try:
        found = parse(normalize(path.encode("latin-1")))
    except BadPath:
        found = None
    assert found is not None, "this path leads nowhere"
    return found.engine_path.decode()


def _instance(target: str) -> str:
    path = target.removeprefix("http://a.test").partition("?")[0]
    found = parse(normalize(path.encode("latin-1")))
    return "" if found is None else found.instance_id


@BOUNDED
@given(
    headers=HEADERS,
    credential=CREDENTIALS,
    method=METHODS,
    base=st.sampled_from([f"{PLAIN}/x", f"{ANYBODY}/x", f"{HOOK}/plain"]),
)
async def test_headers(world: World, headers: Any, credential: Any, method: str, base: str) -> None:
    """Both paths take the same headers for good, and no engine sees ours from a caller."""
    sent = request(base, [*headers, *credential], method=method)
    outcomes = {path: await outcome(world, path, sent) for path in PATHS}
    same(outcomes)
    for _, seen in outcomes.values():
        if seen is None:
            continue
        kept = {name: value for name, value in seen.headers.items() if OURS.fullmatch(name.replace("_", "-"))}
        if base.startswith(HOOK):
            kept.pop("x-orch8-signature", None)  # callers may sign where we do not
        assert kept == (AS_KEY if base.startswith(PLAIN) else AS_ANYBODY)
        assert sorted(seen.header_names).count("x-gateway-subject") == 1
        assert "sb-orch8-auth-token" not in seen.headers.get("cookie", "")
        assert not seen.headers.keys() & {
            "authorization",
            "proxy-authorization",
            "te",
            "keep-alive",
            "expect",
            "upgrade",
        }
    (_, one), (_, other) = outcomes.values()
    if one is not None and other is not None:
        assert _comparable(one) == _comparable(other)


def _comparable(seen: Seen) -> dict[str, str]:
    """The headers that both paths must hand on alike: all but those that differ for each request or hop."""
    own = ("x-request-id", "traceparent", "x-forwarded-for", "content-length", "connection")
    return {name: value for name, value in seen.headers.items() if name not in own}
