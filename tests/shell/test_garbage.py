"""Garbage: what is young does not pile up, although as many objects go as are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.node.harness import Cluster, wait_for
from walrus.shell import garbage

MADE = 200_000


@pytest.fixture
def as_in_a_node() -> Iterator[None]:
    """The thresholds of a node, for the time of a test; nothing is frozen."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(garbage.YOUNG, garbage.MIDDLE, garbage.FULL)
    yield
    gc.set_threshold(*before)


def young() -> int:
    return len(gc.get_objects(0)) + len(gc.get_objects(1))


@pytest.mark.usefixtures("as_in_a_node")
def test_what_takes_the_place_of_something_else_is_no_longer_young_after_a_look() -> None:
    old: list[list[int] | None] = [[number] for number in range(MADE)]
    gc.collect()
    new = []
    for number in range(MADE):
        new.append([number])
        old[number] = None
    if young() < MADE / 2:  # CPython 3.11 to 3.13 count what is made less what goes
        pytest.skip("this interpreter collects meanwhile")
    garbage.collect_young()
    assert young() < garbage.YOUNG
    assert len(new) == MADE


@pytest.mark.process
def test_a_node_without_work_looks_four_times_a_second(cluster: Cluster) -> None:
    def looks() -> int:
        return int(cluster[1].metrics()["garbage_collections"])

    before = looks()
    wait_for(lambda: looks() >= before + 8, "what is young to be collected")
