"""The exploration of the real Raft class: what it counts, what it merges, and what it finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from walrus.sim import mutants
from walrus.sim.__main__ import main
from walrus.sim.explore import Bounds, explore


def test_every_short_behaviour_holds() -> None:
    outcome = explore(Bounds(depth=5))
    assert outcome.violation is None, outcome.path
    assert outcome.complete
    assert outcome.states[:4] == [1, 2, 6, 22], "distinct states per depth"


def test_after_two_leaders_in_turn_it_holds() -> None:
    outcome = explore(Bounds(depth=6, terms=5, commands=0, deaths=0, heartbeats=0), "turns")
    assert outcome.violation is None, outcome.path
    assert sum(outcome.states) > 100


def test_states_that_differ_by_names_only_are_one() -> None:
    merged, all_of_them = (explore(Bounds(depth=4, symmetric=symmetric)) for symmetric in (True, False))
    assert sum(merged.states) < sum(all_of_them.states) / 3


def test_the_same_search_finds_the_same_states() -> None:
    assert explore(Bounds(depth=4)) == explore(Bounds(depth=4))


def test_a_search_that_is_given_up_says_so() -> None:
    assert not explore(Bounds(depth=9, states=200)).complete


@pytest.mark.parametrize(
    ("name", "start", "steps"),
    [
        ("vote_not_persisted", "fresh", 2),
        ("hard_state_not_persisted", "fresh", 2),
        ("wins_with_half", "fresh", 2),
        ("votes_twice", "fresh", 3),
        ("commits_by_minority", "fresh", 3),
        ("vote_sent_before_durable", "fresh", 6),
        ("commits_old_terms", "fresh", 6),
        ("accepts_without_predecessor", "turns", 4),
    ],
)
def test_a_planted_bug_has_a_shortest_counterexample(name: str, start: str, steps: int) -> None:
    mutant = mutants.find(name)
    with mutants.planted(mutant):
        outcome = explore(Bounds(depth=steps, terms=5), start)
    assert outcome.violation is not None, f"{name} survives {steps} steps"
    assert outcome.violation.name in mutant.expected, outcome.violation
    assert len(outcome.path) == steps
    assert explore(Bounds(depth=steps - 1, terms=5), start).violation is None


def test_what_waits_for_a_slow_disk_counts_for_nothing() -> None:
    mutant, steps = mutants.find("leader_counts_unwritten"), 5
    bounds = Bounds(depth=steps, commands=0, deaths=0, heartbeats=0, slow=2)
    with mutants.planted(mutant):
        assert explore(replace(bounds, slow=0)).violation is None, "no disk is slow"
        outcome = explore(bounds)
    assert outcome.violation is not None, f"it survives {steps} steps"
    assert outcome.violation.name in mutant.expected, outcome.violation
    assert len(outcome.path) == steps
    assert explore(bounds).violation is None


def test_a_lone_voter_does_not_lead_by_a_vote_that_waits_for_a_slow_disk() -> None:
    mutant, bounds = mutants.find("own_vote_counts_before_durable"), Bounds(nodes=1, depth=3, slow=2)
    assert explore(bounds).violation is None
    with mutants.planted(mutant):
        outcome = explore(bounds)
    assert outcome.violation is not None
    assert outcome.violation.name == "ElectionSafety", outcome.violation
    assert len(outcome.path) == 3, "two candidacies, and the end of the first write"


def test_the_command_prints_states_and_a_counterexample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--nodes", "3", "--depth", "3"]) == 0
    told = capsys.readouterr().out
    assert "depth  3:        22 new states" in told
    assert "held: all states up to depth 3" in told
    assert main(["explore", "--depth", "4", "--mutant", "votes_twice"]) == 1
    told = capsys.readouterr().out
    assert "  1  1 times out, and 2 would vote for it" in told
    assert "ElectionSafety: " in told
    assert "3 steps, a shortest counterexample" in told
    assert main(["explore", "--mutant", "nothing"]) == 2
