"""The invariants that tests ask of a `NodeWorld` notice what they are named after."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.broker.invariants import NAMES, Invariants
from tests.broker.world import NodeWorld, batch, three
from walrus.segments import Position, Segment

KEY = ("t", 1)


@pytest.fixture
def world() -> NodeWorld:
    """t/1 is sealed with a, b, c; t/2 holds d; all acknowledged."""
    world = three(max_segment_entries=3)
    world.register("t")
    assert world.put(1, "t", "a", "b", "c") == [b"OK"] * 3
    world.until(lambda: world.topic("t").current == 2 and world.settled())
    assert world.put(1, "t", "d") == [b"OK"]
    return world


def another_entry(world: NodeWorld, checks: Invariants) -> None:
    world.stores[2][0].entries["t/1"][1] = b"x"


def an_entry_of_a_replica(world: NodeWorld, checks: Invariants) -> None:
    world.stores[world.topic("t").open.replicas[1]][0].write("t/2", batch("x"))


def a_segment_that_is_not_open(world: NodeWorld, checks: Invariants) -> None:
    world.stores[1][0].write("t/7", batch("x"))


def two_short_disks(world: NodeWorld, checks: Invariants) -> None:
    for node in (1, 2):
        del world.stores[node][0].entries["t/2"][:]
        world.stores[node][0]._durable["t/2"] = 0


def two_short_disks_of_a_sealed_segment(world: NodeWorld, checks: Invariants) -> None:
    checks.acked[KEY] = 0
    for node in (1, 2):
        world.stores[node][0]._durable["t/1"] = 2


def another_count(world: NodeWorld, checks: Invariants) -> None:
    _replace(checks, count=2)


def an_open_segment_before_the_last(world: NodeWorld, checks: Invariants) -> None:
    checks.sealed.clear()
    checks.metadata.topics["t"].sealed_total = 0
    _replace(checks, count=None)


def a_wrong_sum(world: NodeWorld, checks: Invariants) -> None:
    checks.metadata.topics["t"].sealed_total = 4


def a_cursor_beyond_the_end(world: NodeWorld, checks: Invariants) -> None:
    checks.metadata.topics["t"].cursors = {"": Position(2, 9)}


def a_lease_for_what_is_sealed(world: NodeWorld, checks: Invariants) -> None:
    world.nodes[3].leases._granted["t"] = 1


def an_entry_left_out(world: NodeWorld, checks: Invariants) -> None:
    checks.delivered("t", "", b"b")


def _replace(checks: Invariants, count: int | None) -> None:
    segments: list[Segment] = checks.metadata.topics["t"].segments
    segments[0] = msgspec.structs.replace(segments[0], count=count)


PLANTED: dict[str, list[Callable[[NodeWorld, Invariants], None]]] = {
    "AckedDurable": [two_short_disks],
    "CursorInBounds": [a_cursor_beyond_the_end],
    "DeliveredIsPrefix": [an_entry_left_out],
    "DomainConsistency": [an_open_segment_before_the_last],
    "LastSealedIsSum": [a_wrong_sum],
    "NoWritesPastOpen": [a_segment_that_is_not_open],
    "OpenLeaderMatchesMap": [a_lease_for_what_is_sealed],
    "PrefixAgree": [another_entry],
    "SealedStable": [another_count, two_short_disks_of_a_sealed_segment],
    "SingleWriter": [an_entry_of_a_replica],
}


def test_every_invariant_has_a_bug_planted() -> None:
    assert PLANTED.keys() == NAMES


@pytest.mark.parametrize(
    ("name", "plant"),
    [(name, plant) for name, plants in PLANTED.items() for plant in plants],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_bug_is_named(
    world: NodeWorld, name: str, plant: Callable[[NodeWorld, Invariants], None]
) -> None:
    checks = Invariants(world)
    checks.check()
    with pytest.raises(AssertionError, match=f"^{name}: "):
        plant(world, checks)
        checks.check()
