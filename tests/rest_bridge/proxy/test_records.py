"""What is recorded, how much of it, and what becomes of it while the server is away."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
import structlog.testing
from google.protobuf.json_format import MessageToDict
from orch8cloud.v1 import decisions_pb2 as pb

from rest_bridge.proxy import records, refusals
from rest_bridge.proxy.cache import ServerAway
from rest_bridge.proxy.record_messages import MAX_CLAIMS, MAX_MISS, MAX_PATH, MAX_POLICIES, record
from rest_bridge.proxy.records import RECORDS_PER_REPORT, UNITS_PER_MINUTE, Records
from rest_bridge.proxy.targets import parse
from rest_bridge.proxy.trail import Trail
from server.domain.decisions import Credential, Guard, KeyCredential, Target, TokenCredential, decide
from server.domain.rules import Rule
from server.identity.credentials import NO_CREDENTIAL, UNKNOWN_KEY
from tests.rest_bridge.proxy import cases

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example"
KEY = KeyCredential(key_id="key_1", org_id="org_a", prefix="orc8_live_abcdefgh")
REFUSED = refusals.no_such_endpoint("inst_1", "hook")


class Sink:
    """Takes reports, or is away."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[pb.Decision], dict[str, int]]] = []
        self.away = False
        self.during: Callable[[], None] = lambda: None

    async def __call__(self, found: Sequence[pb.Decision], dropped: Mapping[str, int]) -> None:
        if self.away:
            raise ServerAway
        self.calls.append((list(found), dict(dropped)))
        self.during()

    @property
    def ids(self) -> list[str]:
        return [one.id for found, _ in self.calls for one in found]

    @property
    def dropped(self) -> dict[str, int]:
        return {name: count for _, dropped in self.calls for name, count in dropped.items()}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(sink: Sink, clock: Clock) -> Callable[..., Records]:
    def make(sample: float = 0, draw: float = 0.5) -> Records:
        return Records(sink, sample=sample, log=structlog.get_logger(), draw=lambda: draw, clock=clock)

    return make


def trail(
    number: int = 0,
    *,
    path: bytes = b"/api/tunnel/inst_1/x",
    allow: tuple[Rule, ...] = (),
    credential: Credential = NO_CREDENTIAL,
    policies: int = 1,
) -> Trail:
    """What is known of a request once it was decided."""
    target = parse(path)
    assert target is not None
    provider = "oidc" if isinstance(credential, TokenCredential) else "api-key"
    guards = [
        Guard(policy_id=f"pol_{at}", provider=provider, issuer=ISSUER if provider == "oidc" else None, allow=allow)
        for at in range(policies)
    ]
    found = Trail(b"dec_%020x" % number, "GET", target, credential=credential)
    where = Target(instance_id=target.instance_id, org_id="org_a")
    found.decision = decide(target=where, guards=guards, credential=credential, now=datetime.fromtimestamp(NOW, UTC))
    return found


async def test_refusals_are_kept_up_to_a_bound_and_what_is_beyond_is_counted(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()
    with structlog.testing.capture_logs() as logs:
        for number in range(UNITS_PER_MINUTE + 100):
            kept.note(trail(number), REFUSED, clock.now)
        kept.note(trail(9_999, path=b"/api/tunnel/inst_2/x"), REFUSED, clock.now)
        await kept.flush()
        assert sink.ids == [f"dec_{number:020x}" for number in (*range(UNITS_PER_MINUTE), 9_999)]
        assert max(len(found) for found, _ in sink.calls) == RECORDS_PER_REPORT
        assert (sink.dropped, logs) == ({}, []), "they are told once a minute"
        clock.now += 60
        await kept.flush()
        await kept.flush()
    assert sink.dropped == {"inst_1": 100}
    assert [(one["event"], one["instance_id"], one["decisions"]) for one in logs] == [
        ("decisions_not_recorded", "inst_1", 100)
    ]
    kept.note(trail(1), REFUSED, clock.now)
    await kept.flush()
    assert sink.ids[-1] == f"dec_{1:020x}", "a new minute has new room"


async def test_beyond_the_bound_a_sample_goes_on_up_to_as_many_again(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector(draw=0.001)
    for number in range(3 * UNITS_PER_MINUTE):
        kept.note(trail(number), REFUSED, clock.now)
    await kept.flush(last=True)
    assert len(sink.ids) == 2 * UNITS_PER_MINUTE
    assert sink.dropped == {"inst_1": UNITS_PER_MINUTE}


async def test_a_flood_over_many_instances_fills_no_memory(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()
    for number in range(records.MAX_WAITING + 50):
        kept.note(trail(number, path=b"/api/tunnel/inst_%d/x" % number), REFUSED, clock.now)
    await kept.flush(last=True)
    assert len(sink.ids) == records.MAX_WAITING
    assert sum(sink.dropped.values()) == 50
    kept.note(trail(1), REFUSED, clock.now)
    await kept.flush()
    assert len(sink.ids) == records.MAX_WAITING + 1


async def test_the_first_pass_of_a_minute_is_kept_for_each_policy_and_subject(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()
    other = KeyCredential(key_id="key_2", org_id="org_a", prefix="orc8_live_12345678")
    passes = [trail(0, credential=KEY), trail(1, credential=KEY), trail(2, credential=other)]
    for one in passes:
        kept.note(one, None, clock.now)
    kept.note(trail(3, credential=KEY), None, clock.now + 60)
    await kept.flush()
    assert sink.ids == [f"dec_{number:020x}" for number in (0, 2, 3)]


async def test_all_passes_are_kept_where_the_sample_is_all_and_leave_room_for_refusals(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector(sample=1)
    for number in range(UNITS_PER_MINUTE + 10):
        kept.note(trail(number, credential=KEY), None, clock.now)
    kept.note(trail(9_999), REFUSED, clock.now)
    await kept.flush(last=True)
    assert len(sink.ids) == UNITS_PER_MINUTE + 1
    assert sink.ids[-1] == f"dec_{9_999:020x}"
    assert sink.dropped == {}, "a smaller sample is no loss"


async def test_large_explanations_take_more_of_the_room(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()
    rule = {f"claim{number}": "x" for number in range(32)}
    heavy = trail(allow=(rule,) * 64, credential=KEY)
    for _ in range(UNITS_PER_MINUTE):
        kept.note(heavy, REFUSED, clock.now)
    await kept.flush(last=True)
    units = 1 + 32 * 64 // records.CONDITIONS_PER_UNIT
    assert len(sink.ids) == -(-UNITS_PER_MINUTE // units)
    assert sink.dropped == {"inst_1": UNITS_PER_MINUTE - len(sink.ids)}


async def test_records_wait_for_a_server_that_is_away_and_make_room_for_newer_ones(
    collector: Callable[..., Records], sink: Sink, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = record(trail(1), 404, "NOT_FOUND", NOW).ByteSize()
    monkeypatch.setattr(records, "MAX_READY", 10 * size)
    kept = collector()
    sink.away = True
    for number in range(15):
        kept.note(trail(number), REFUSED, clock.now)
        await kept.flush()
    sink.away = False
    await kept.flush()
    assert sink.ids == [f"dec_{number:020x}" for number in range(5, 15)]
    assert sink.dropped == {"inst_1": 5}
    await kept.flush()
    assert len(sink.calls) == 1


async def test_what_is_dropped_while_a_report_is_under_way_is_in_the_next(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()

    def flood() -> None:
        sink.during = lambda: None
        for number in range(UNITS_PER_MINUTE + 7):
            kept.note(trail(number), REFUSED, clock.now)
        kept.note(trail(0), REFUSED, clock.now + 60)

    flood()
    sink.during = flood
    await kept.flush(last=True)
    await kept.flush(last=True)
    assert [dropped for _, dropped in sink.calls if dropped] == [{"inst_1": 7}, {"inst_1": 7}]


async def test_a_record_that_cannot_be_written_spoils_no_other(
    collector: Callable[..., Records], sink: Sink, clock: Clock
) -> None:
    kept = collector()
    broken = trail(1)
    broken.method = None  # type: ignore[assignment]
    with structlog.testing.capture_logs() as logs:
        for one in (trail(0), broken, trail(2)):
            kept.note(one, REFUSED, clock.now)
        await kept.flush()
    assert sink.ids == [f"dec_{number:020x}" for number in (0, 2)]
    assert [one["event"] for one in logs] == ["record_fault"]


def shown(found: pb.Decision) -> dict[str, Any]:
    """As a reader sees it, after the way over the wire."""
    again = pb.Decision.FromString(found.SerializeToString())
    return MessageToDict(again, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def test_a_record_says_who_called_and_why_it_was_refused() -> None:
    wanted, has = "orc8_live_nobody00", "orc8_live_abcdefgh"
    condition = {"claim": "sub", "expected": wanted, "actual": has, "matched": False}
    one = trail(5, allow=({"sub": wanted},), credential=KEY)
    assert shown(record(one, 403, "RULE_MISMATCH", NOW)) == {
        "id": "dec_00000000000000000005",
        "time": "2027-01-15T08:00:00Z",
        "instance_id": "inst_1",
        "method": "GET",
        "path": "/api/tunnel/inst_1/x",
        "slug": None,
        "provider": "api-key",
        "subject": "orc8_live_abcdefgh",
        "claims": {"sub": "orc8_live_abcdefgh", "org_id": "org_a", "key_id": "key_1"},
        "allowed": False,
        "status": 403,
        "reason": "RULE_MISMATCH",
        "policies": [
            {
                "policy_id": "pol_0",
                "provider": "api-key",
                "applicable": True,
                "accepted": True,
                "why": "no rule matches",
                "rules": [{"matched": False, "conditions": [condition]}],
            }
        ],
        "nearest_miss": {
            "policy_id": "pol_0",
            "rule": 0.0,
            "message": "sub is 'orc8_live_abcdefgh', and the rule wants 'orc8_live_nobody00'.",
            "conditions": [condition],
        },
        "cut": [],
    }


def test_a_record_says_what_is_wrong_with_a_key_for_which_no_policy_was_asked() -> None:
    ended = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    for credential, message in (
        (UNKNOWN_KEY, "There is no such API key."),
        (replace(KEY, revoked_at=ended), "The API key orc8_live_abcdefgh… was revoked at 2026-05-04T03:02:01Z."),
        (replace(KEY, expires_at=ended), "The API key orc8_live_abcdefgh… expired at 2026-05-04T03:02:01Z."),
    ):
        answer = shown(record(trail(credential=credential), 401, "KEY_REVOKED", NOW))
        assert (answer["nearest_miss"]["message"], answer["policies"]) == (message, [])


def test_every_part_of_a_record_is_bounded() -> None:
    claims = {"sub": "s" * 1000, "big": ["x" * 100] * 100, "iss": ISSUER}
    rule = {f"big{number}": ["y" * 1000] * 64 for number in range(31)} | {"big": "z"}
    path = b"/api/tunnel/inst_1/" + b"p" * 8_000
    one = trail(path=path, allow=(rule,), credential=TokenCredential(issuer=ISSUER, claims=claims), policies=1_000)
    found = record(one, 403, "RULE_MISMATCH", NOW)
    assert set(found.cut) == {"path", "claims", "policies", "nearest_miss"}
    assert found.ByteSize() < MAX_PATH + MAX_CLAIMS + MAX_POLICIES + MAX_MISS + 8 * 1024
    answer = shown(found)
    assert answer["claims"] is None
    assert len(answer["path"]) == MAX_PATH
    assert answer["policies"][-1]["policy_id"] == "pol_999", "the last policy is the one that counts"
    assert answer["nearest_miss"]["rule"] == 0
    assert "the claim big0 is missing" in answer["nearest_miss"]["message"]


def test_whole_rules_are_left_out_after_what_fits() -> None:
    rule = {"sub": ["y" * 1000] * 10}
    one = trail(allow=(rule,) * 64, credential=KEY, policies=3)
    found = record(one, 403, "RULE_MISMATCH", NOW)
    assert list(found.cut) == ["policies"]
    assert [len(policy.rules) for policy in found.policies] == [4, 0, 0]
    assert all(len(rule.conditions) == 1 for policy in found.policies for rule in policy.rules)


@pytest.mark.parametrize(
    "odd",
    [float("nan"), float("inf"), 10**400, 10**2000, 2**53 + 1, "\ud800", {"\udfff": 1}, True, None, [[]], {}],
    ids=str,
)
def test_any_claim_that_json_can_hold_is_recorded(odd: Any) -> None:
    claims = {"sub": "me", "odd": odd}
    one = trail(allow=({"odd": "x"},), credential=TokenCredential(issuer=ISSUER, claims=claims))
    answer = shown(record(one, 403, "RULE_MISMATCH", NOW))
    assert answer["claims"]["sub"] == "me"
    assert "odd" in answer["claims"]
    assert answer["cut"] == []


def test_claims_that_are_nested_too_deeply_end_in_dots() -> None:
    deep: Any = "end"
    for _ in range(500):
        deep = {"a": [deep]}
    one = trail(credential=TokenCredential(issuer=ISSUER, claims={"sub": "me", "deep": deep}))
    answer = shown(record(one, 200, None, NOW))
    assert "…" in str(answer["claims"]["deep"])


def test_credentials_in_a_path_are_not_recorded() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
    path = f"/api/tunnel/inst_1/a/{cases.KEY}/b/{token}/c?key={cases.KEY}".encode()
    found = record(trail(path=path.partition(b"?")[0]), 401, "UNAUTHENTICATED", NOW)
    assert found.path == f"/api/tunnel/inst_1/a/{cases.PREFIX}…/b/…/c"


def test_a_request_that_was_not_decided_says_what_is_known() -> None:
    target = parse(b"/api/gateway/inst_1/hook")
    assert target is not None
    one = Trail(b"dec_1", "POST", target, problem="the keys of the issuer cannot be fetched")
    answer = shown(record(one, 503, "DATA_PLANE_NOT_READY", NOW))
    assert (answer["slug"], answer["path"]) == ("hook", "/api/gateway/inst_1/hook")
    assert (answer["allowed"], answer["policies"], answer["claims"]) == (False, [], None)
    assert answer["nearest_miss"]["message"] == "the keys of the issuer cannot be fetched."
