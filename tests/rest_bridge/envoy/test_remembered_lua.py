"""What a worker of Envoy may repeat, whatever comes in between, in whatever order it is answered."""

import pytest

from tests.rest_bridge.envoy.lua_worker import INSTANCE, Request, Worker, entry, leased


@pytest.fixture
def worker() -> Worker:
    worker = Worker()
    worker.has_a_lease()
    return worker


def repeats(worker: Worker, credential: str = "Bearer k", **more: str) -> bool:
    """Whether a request is decided without a question."""
    request = worker.request(credential, **more)
    assert not request.waits
    return request.passed


def renews(worker: Worker, *lines: str, version: int = 10, credential: str = "Bearer k") -> Request:
    """Half a lease later a request asks for another, and is told these lines."""
    worker.passes(101)
    request = worker.request(credential)
    assert request.waits
    worker.answer(request, leased(version), *lines)
    return request


def test_what_is_learnt_is_repeated(worker: Worker) -> None:
    worker.learns()
    request = worker.request()
    assert request.passed
    assert [request.header(name) for name in ("authorization", "x-orch8-cluster", "x-api-key")] == [
        None,
        "engine_http",
        "engine",
    ]


def test_the_log_is_told_whose_a_repeated_request_is(worker: Worker) -> None:
    worker.learns()
    for request in (worker.request(), worker.request()):
        assert request.passed
        assert (request.told("x-orch8-org"), request.told("x-orch8-instance")) == ("org_a", INSTANCE)


def test_what_comes_once_is_not_asked_about(worker: Worker) -> None:
    assert not repeats(worker, "Bearer once")
    assert worker.request("Bearer once").asks_about_itself


def test_nothing_is_repeated_without_a_lease() -> None:
    worker = Worker()
    worker.has_a_lease()
    worker.learns()
    worker.passes(201)
    renewing = worker.request()
    assert renewing.waits
    assert not repeats(worker)
    worker.answer(renewing, status=503)
    assert not renewing.passed
    assert not repeats(worker)


def test_a_lease_counts_from_the_question(worker: Worker) -> None:
    worker.learns()
    worker.passes(101)
    slow = worker.request()
    worker.passes(150)
    worker.answer(slow, leased(10))
    assert slow.passed
    worker.passes(49)
    renewing = worker.request()
    assert renewing.waits
    assert repeats(worker)
    worker.passes(2)
    assert not repeats(worker)


@pytest.mark.parametrize("change", [f"i {INSTANCE}", "k aa"])
def test_what_has_changed_is_forgotten(worker: Worker, change: str) -> None:
    worker.learns()
    worker.learns("bearer k")
    assert not renews(worker, change, version=11).passed
    assert not worker.request().passed
    assert not worker.request("bearer k").passed


def test_what_has_not_changed_is_not_forgotten(worker: Worker) -> None:
    worker.learns()
    assert renews(worker, "i inst_other", "k bb", version=11).passed


def test_a_reset_forgets_everything(worker: Worker) -> None:
    worker.learns()
    worker.passes(101)
    request = worker.request()
    worker.answer(request, leased(20, reset=True))
    assert not request.passed


def test_an_answer_that_is_older_than_what_is_known_is_not_kept(worker: Worker) -> None:
    worker.request()
    learning = worker.request()
    renews(worker, f"i {INSTANCE}", version=11, credential="Bearer other")
    worker.answer(learning, leased(10), entry())
    assert learning.passed, "this request was decided when it was asked about"
    worker.request()
    assert worker.request().asks_about_itself


def test_a_late_answer_raises_no_version_after_starting_over(worker: Worker) -> None:
    """Two proxies: one that knows 12 and is slow, and one that lags at 10, from which the worker starts over."""
    renews(worker, version=12)
    others = [f"Bearer {number}" for number in range(20)]
    for credential in (*others, "Bearer slow"):
        worker.request(credential)
    slow = worker.request("Bearer slow")
    for behind in [worker.request(credential) for credential in others]:
        worker.answer(behind, leased(10))
    worker.passes(101)
    again = worker.request()
    assert again.asks == "-"
    worker.answer(again, leased(10, reset=True))
    worker.learns()
    worker.answer(slow, leased(12))
    worker.passes(101)
    renewing = worker.request()
    assert renewing.asks is not None
    assert renewing.asks.split("\n")[0] == "10", "it must hear of 11 and 12"
    worker.answer(renewing, leased(12), "k aa")
    assert not renewing.passed


def test_while_one_asks_again_others_go_on(worker: Worker) -> None:
    worker.learns(fresh=50, good=2050)
    worker.passes(51)
    asking = worker.request()
    assert asking.asks_about_itself
    assert repeats(worker)
    worker.answer(asking, leased(10), entry(fresh=50, good=2050))
    assert asking.passed
    assert repeats(worker)


def test_what_is_no_longer_good_is_left_to_ext_authz(worker: Worker) -> None:
    worker.learns(fresh=20, good=50)
    worker.passes(51)
    refused = worker.request()
    worker.answer(refused, leased(10))
    assert not refused.passed
    assert not repeats(worker)


def test_a_proxy_that_does_not_answer_takes_nothing_away(worker: Worker) -> None:
    worker.learns(fresh=20, good=5000)
    worker.passes(21)
    asking = worker.request()
    worker.answer(asking, status=504)
    assert not asking.passed
    assert repeats(worker)


@pytest.mark.parametrize(
    "more", [{"cookie": "a=b"}, {"upgrade": "websocket"}, {"accept": "a/b, TEXT/event-stream"}], ids=str
)
def test_what_depends_on_more_is_left_to_ext_authz(worker: Worker, more: dict[str, str]) -> None:
    worker.learns()
    assert not repeats(worker, **more)


@pytest.mark.parametrize("instance", ["inst_" + "a" * 41, "inst_A", "inst_", "other"])
def test_what_is_no_id_is_not_looked_at(worker: Worker, instance: str) -> None:
    for _ in range(3):
        request = worker.request(instance=instance)
        assert (request.waits, request.passed) == (False, False)


def test_a_long_credential_is_not_remembered(worker: Worker) -> None:
    for _ in range(3):
        request = worker.request("Bearer " + "x" * 5000)
        assert (request.waits, request.passed) == (False, False)


def test_an_empty_field_stays_one(worker: Worker) -> None:
    worker.learns(subject="")
    request = worker.request()
    assert (request.header("x-gateway-subject"), request.header("x-api-key")) == ("", "engine")


def reports(worker: Worker) -> dict[str, int]:
    """Renews the lease, and gives how many requests of whom were reported with that."""
    worker.passes(101)
    asking = worker.request()
    assert asking.asks is not None
    said = [line.split(" ", 2) for line in asking.asks.split("\n")[1:]]
    worker.answer(asking, leased(10), *["t - - - - -"] * len(said))
    return {whose: int(count) for _, count, whose in said}


def test_uses_are_reported_in_turn_two_seconds_later(worker: Worker) -> None:
    """More than fit into one report, all of them in use all the time."""
    worker.learns(whose=f"{INSTANCE} org_a key_0 -")
    for number in range(450):
        worker.learns(f"Bearer {number}", whose=f"{INSTANCE} org_a key_{number} -")
    for _ in range(3):
        for number in range(450):
            assert repeats(worker, f"Bearer {number}")
    early = [reports(worker) for _ in range(19)]
    assert not any(early)
    later = [reports(worker) for _ in range(3)]
    assert [len(report) for report in later] == [200, 200, 50]
    assert later[0][f"{INSTANCE} org_a key_0 -"] > later[0][f"{INSTANCE} org_a key_1 -"] == 3


@pytest.mark.parametrize("terms", ["8 - 10 8 4", "- 8 10 8 4"])
def test_uses_are_reported_at_once_where_half_of_what_may_pass_has_passed(worker: Worker, terms: str) -> None:
    worker.learns(terms=terms)
    for _ in range(4):
        assert repeats(worker)
    assert not reports(worker)
    assert list(reports(worker).values()) == [5]


def test_a_rate_that_is_used_up_is_asked_about(worker: Worker) -> None:
    worker.learns(terms="2 - 10 8 4")
    for left in ("7", "6"):
        request = worker.request()
        assert [request.told(f"ratelimit-{name}") for name in ("limit", "remaining", "reset")] == ["10", left, "4"]
    assert worker.request().asks_about_itself


def test_what_is_drawn_for_a_record_is_asked_about() -> None:
    worker = Worker()
    first = worker.request()
    worker.answer(first, leased(10, reset=True, sample=1.0))
    second = worker.request()
    worker.answer(second, leased(10, sample=1.0), entry())
    drawn = worker.request()
    assert drawn.lua.question["x-orch8-drawn"] == "1"
    assert repeats(worker), "not all at once, however many there are"
    worker.passes(51)
    assert worker.request().lua.question["x-orch8-drawn"] == "1"
