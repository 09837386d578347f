from datetime import UTC, datetime, timedelta

from server.domain.restarts import RestartPolicy, Restarts

POLICY = RestartPolicy(most=3, window=timedelta(minutes=10))
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_first_end_is_answered_at_once_and_later_ones_with_growing_pauses() -> None:
    restarts = Restarts().ended(POLICY, NOW)
    assert (restarts.next_at, restarts.down_since, restarts.since) == (NOW, NOW, NOW)
    for seconds, pause in ((0, 1), (1, 2), (3, 60), (63, 60)):
        restarts = restarts.started(POLICY, after(seconds))
        assert restarts.next_at == after(seconds + pause)
    assert restarts.is_failing(POLICY)


def test_recovery_ends_the_outage_but_not_the_count() -> None:
    once = Restarts().ended(POLICY, NOW).started(POLICY, NOW).recovered()
    assert (once.down_since, once.count) == (None, 1)
    again = once.ended(POLICY, after(0.5))
    assert again.next_at == after(1), "not before the pause is over"
    assert once.ended(POLICY, after(5)).next_at == after(5)


def test_quiet_window_forgives() -> None:
    failing = Restarts(count=9, since=NOW, next_at=after(60))
    assert failing.ended(POLICY, after(599)).count == 9
    fresh = failing.ended(POLICY, after(601))
    assert (fresh.count, fresh.next_at, fresh.is_failing(POLICY)) == (0, after(601), False)
