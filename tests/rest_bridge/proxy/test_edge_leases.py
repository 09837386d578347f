"""Leases of edges: nothing is acknowledged while an edge may still act on what was before it."""

import pytest

from rest_bridge.proxy.edge_leases import DRIFT, EdgeLeases
from rest_bridge.proxy.lease import Lease

SECONDS = 0.2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A proxy in touch with its server, that knows of version 10."""

    def __init__(self, *, stale_limit: float = 60, seconds: float = SECONDS, kept: int = 5) -> None:
        self.clock = Clock()
        self.lease = Lease(stale_limit=stale_limit, clock=self.clock)
        self.lease.renew(self.clock.now)
        self.edges = EdgeLeases(self.lease, seconds=seconds, kept=kept)
        self.edges.started_over(10)
        self.clock.now += 2 * SECONDS

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def world() -> World:
    return World()


def test_what_nobody_repeats_is_settled_at_once(world: World) -> None:
    world.edges.applied(11, "i inst_a")
    assert (world.edges.settled(), world.edges.next_settles_in()) == (11, None)


def test_a_change_settles_when_the_last_lease_from_before_it_is_over(world: World) -> None:
    assert world.edges.settled() == 10
    assert world.edges.renew(None).seconds == SECONDS
    world.passes(SECONDS / 2)
    world.edges.applied(11, "i inst_a")
    assert world.edges.settled() == 10
    assert world.edges.next_settles_in() == pytest.approx(SECONDS * (0.5 + DRIFT))
    world.passes(SECONDS * (0.5 + 2 * DRIFT))
    assert (world.edges.settled(), world.edges.next_settles_in()) == (11, None)


def test_a_lease_from_after_a_change_does_not_delay_it(world: World) -> None:
    world.edges.renew(None)
    world.edges.applied(11, "i inst_a")
    world.passes(SECONDS / 2)
    renewed = world.edges.renew(10)
    assert (renewed.version, list(renewed.changes)) == (11, ["i inst_a"])
    world.edges.applied(12, "k ff")
    world.passes(SECONDS * (0.5 + 2 * DRIFT))
    assert world.edges.settled() == 11
    world.passes(SECONDS)
    assert world.edges.settled() == 12


def test_a_worker_hears_of_each_change_since_what_it_knows(world: World) -> None:
    for version, change in ((11, "i inst_a"), (12, "k ff"), (13, "i inst_b")):
        world.edges.applied(version, change)
    assert set(world.edges.renew(11).changes) == {"k ff", "i inst_b"}
    assert world.edges.renew(13).changes == []


def test_a_worker_that_remembers_nothing_or_missed_more_than_is_kept_starts_over(world: World) -> None:
    assert world.edges.renew(None).reset
    for version in range(11, 17):
        world.edges.applied(version, f"i inst_{version}")
    assert world.edges.renew(10).reset
    assert not world.edges.renew(11).reset
    assert world.edges.renew(9).reset


def test_a_worker_that_knows_more_gets_no_lease(world: World) -> None:
    renewed = world.edges.renew(11)
    assert (renewed.version, renewed.seconds) == (10, 0)
    assert world.edges.over_in() == 0


def test_after_missed_changes_everything_is_forgotten_and_settles_later(world: World) -> None:
    world.edges.renew(10)
    world.edges.applied(11, "i inst_a")
    world.edges.started_over(20)
    assert world.edges.renew(11).reset
    assert world.edges.settled() <= 10
    world.passes(SECONDS * (1 + 2 * DRIFT))
    assert world.edges.settled() == 20


def test_a_version_that_goes_back_is_not_acknowledged_beyond(world: World) -> None:
    world.edges.renew(10)
    world.edges.started_over(4)
    assert world.edges.settled() <= 4
    world.passes(SECONDS * (1 + 2 * DRIFT))
    assert world.edges.settled() == 4


def test_no_lease_outlasts_the_proxys_own() -> None:
    world = World(stale_limit=1)
    world.passes(1 - 2.5 * SECONDS)
    assert world.edges.renew(10).seconds == 0
    world.lease.renew(world.clock.now)
    assert world.edges.renew(10).seconds == SECONDS


def test_a_proxy_that_serves_nothing_without_its_server_grants_none() -> None:
    assert World(stale_limit=0).edges.renew(10).seconds == 0


def test_without_leases_nothing_waits() -> None:
    world = World(seconds=0)
    assert world.edges.renew(10).seconds == 0
    world.edges.applied(11, "i inst_a")
    assert world.edges.settled() == 11


def test_a_proxy_waits_for_leases_of_one_of_its_name_that_was_here_before() -> None:
    clock = Clock()
    edges = EdgeLeases(Lease(stale_limit=60, clock=clock), seconds=SECONDS, succeeds=True)
    edges.started_over(10)
    assert edges.settled() == 0
    assert edges.next_settles_in() == pytest.approx(SECONDS * (1 + DRIFT))
    clock.now += SECONDS * (1 + 2 * DRIFT)
    assert edges.settled() == 10


def test_after_versions_went_back_nobody_is_told_changes_only(world: World) -> None:
    world.edges.started_over(4)
    for version in range(5, 9):
        world.edges.applied(version, "i inst_a")
    world.lease.renew(world.clock.now)
    assert world.edges.renew(6).reset
    world.passes(71)
    world.lease.renew(world.clock.now)
    assert not world.edges.renew(6).reset
