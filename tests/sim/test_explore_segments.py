"""The exploration of the real segment protocol: what it counts, what it merges, and what it finds."""

from __future__ import annotations

import pytest

from walrus.sim import mutants
from walrus.sim.__main__ import main
from walrus.sim.explore_node import SegmentNode, look
from walrus.sim.explore_segments import SegmentBounds, explore_segments


def test_every_short_behaviour_holds() -> None:
    outcome = explore_segments(SegmentBounds(depth=5))
    assert outcome.violation is None, outcome.path
    assert outcome.complete
    assert outcome.states[:4] == [1, 7, 30, 111], "distinct states per depth"


@pytest.mark.parametrize(
    "extent",
    [
        SegmentBounds(depth=5, puts=1, deaths=0, slow=2),
        SegmentBounds(depth=4, lapses=1, ticks=1, repeats=1),
        SegmentBounds(depth=7, puts=0, deaths=1, packets=4),
    ],
    ids=["slow", "time", "deaths"],
)
def test_it_holds_where_an_entry_is_acknowledged(extent: SegmentBounds) -> None:
    outcome = explore_segments(extent, "acked")
    assert outcome.violation is None, outcome.path
    assert sum(outcome.states) > 500


def test_the_same_search_finds_the_same_states() -> None:
    assert explore_segments(SegmentBounds(depth=4)) == explore_segments(SegmentBounds(depth=4))


def test_a_search_that_is_given_up_says_so() -> None:
    assert not explore_segments(SegmentBounds(depth=9, states=200)).complete


def test_nodes_that_have_done_the_same_look_the_same_and_others_do_not() -> None:
    one, other = SegmentNode(1), SegmentNode(1)
    for node, ticks in ((one, 2), (other, 3)):
        for _ in range(ticks):
            node.tick()
    assert look(one, one.now) == look(other, other.now), "times are told from now on, and not from the start"
    other.copies.fence(other.copies.get(("t", 1)), lambda: None)
    assert look(one, one.now) != look(other, other.now)


@pytest.mark.parametrize(
    ("name", "start", "steps"),
    [
        ("acks_at_one_copy", "open", 1),
        ("no_fence_check", "open", 3),
        ("sealed_after_one_fence", "open", 1),
        ("shortest_copy_wins", "acked", 3),
    ],
)
def test_a_planted_bug_has_a_shortest_counterexample(name: str, start: str, steps: int) -> None:
    mutant = mutants.find(name)
    with mutants.planted(mutant):
        outcome = explore_segments(SegmentBounds(depth=steps), start)
        shorter = explore_segments(SegmentBounds(depth=steps - 1), start)
    assert outcome.violation is not None, f"{name} survives {steps} steps"
    assert outcome.violation.name in mutant.expected, outcome.violation
    assert len(outcome.path) == steps
    assert shorter.violation is None


def test_without_the_assertions_of_the_code_the_judge_finds_it() -> None:
    """The harm shows later: an entry is acknowledged that the recovery does not keep."""
    mutant = mutants.find("no_fence_check")
    with mutants.planted(mutant), mutants.unasserted():
        outcome = explore_segments(SegmentBounds(depth=8, puts=1, deaths=0, packets=4), "acked")
    assert outcome.violation is not None
    assert outcome.violation.name == "AckedDurable", outcome.violation
    assert "is acknowledged, and durable on" in outcome.violation.what


def test_the_command_prints_states_and_a_counterexample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "segments", "--depth", "3"]) == 0
    told = capsys.readouterr().out
    assert "depth  3:       111 new states" in told
    assert "held: all states up to depth 3" in told
    assert main(["explore", "segments", "--depth", "4", "--mutant", "no_fence_check"]) == 1
    told = capsys.readouterr().out
    assert "recovers t/1" in told
    assert "AckedDurable: " in told
    assert "3 steps, a shortest counterexample" in told
