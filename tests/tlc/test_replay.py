"""Behaviours of the specs, performed on real servers: no difference; one for each planted bug that shows."""

from __future__ import annotations

import os

import pytest

from tools.sees import performed, written, written_segments
from walrus.sim import mutants
from walrus.tlc.replay import CHECKPOINTS, perform, perform_segments, replay
from walrus.tlc.replay_raft import Cluster
from walrus.tlc.replay_segments import Segments
from walrus.tlc.run import TlcError

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 2_000 if DEEP else 150
"""Behaviours; each is 60 states at most."""
SEGMENTS = 3_000 if DEEP else 40

SEEN = {
    "vote_not_persisted": "requests",
    "vote_sent_before_durable": "requests",
    "votes_twice": "votes",
    "votes_without_log_check": "votes",
    "acks_before_durable": "matched",
    "leader_counts_unwritten": "commit_index",
    "commits_by_minority": "an assertion",
    "cuts_without_compare": "log",
    "accepts_without_predecessor": "log",
    "believes_any_commit_index": "commit_index",
}
"""Planted bugs, and the variable that differs first. The others: docs/planted-bugs.md."""

SEEN_SEGMENTS = {
    "acks_before_fsync": "AckedDurable",
    "writes_after_its_fence": "acked[2]",
    "writes_while_sealing": "AckedDurable",
    "sealed_before_acknowledged": "proposals",
    "writes_without_lease": "Lease",
    "leader_resumes_after_restart": "lease",
    "no_fence_check": "AckedDurable",
    "fence_forgotten_at_restart": "fenced",
    "fence_answered_before_durable": "AckedDurable",
    "sealed_after_one_fence": "AckedDurable",
    "shortest_copy_wins": "AckedDurable",
    "sealed_before_copied": "SealedStable",
    "copy_reported_before_durable": "SealedStable",
    "sealed_without_compare": "DomainConsistency",
    "total_misses_recoveries": "sealed_total",
}
"""The same of the data plane: an invariant that an assertion names, or the variable that differs first."""


@pytest.mark.tla
@pytest.mark.timeout(7_200 if DEEP else 3_000)
def test_real_servers_come_to_the_states_of_the_spec() -> None:
    outcome = performed(written(COUNT))
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.behaviours == COUNT
    assert outcome.steps > 20 * COUNT
    assert sum(outcome.beyond.values()) < COUNT / 5, outcome.beyond
    never = {"CheckQuorumFailed"}  # no budget for it in NARROW
    assert {action for action in actions() if not outcome.actions[action]} <= never


def actions(driver: type = Cluster) -> set[str]:
    """The actions that are performed, by the driver's methods."""
    return {name[1:] for name in vars(driver) if name.startswith("_") and name[1:2].isupper()}


@pytest.mark.tla
@pytest.mark.timeout(7_200 if DEEP else 3_000)
def test_real_segments_come_to_the_states_of_the_spec() -> None:
    outcome = performed(written_segments(SEGMENTS), perform_segments)
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.behaviours == SEGMENTS
    assert outcome.steps > 40 * SEGMENTS
    assert sum(outcome.beyond.values()) < SEGMENTS / 3, outcome.beyond
    rare = {"ProposeSeal", "Repair"} if not DEEP else set()
    never = {"Checkpoint", "ForgetFence"} | rare
    assert {action for action in actions(Segments) if not outcome.actions[action]} <= never


@pytest.mark.tla
@pytest.mark.timeout(3_000)
def test_real_segments_forget_fences_as_the_spec_does() -> None:
    outcome = replay("walrus-simulate", CHECKPOINTS, count=5, depth=40, timeout=2_500)
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.actions["ForgetFence"] and outcome.actions["Checkpoint"]


@pytest.mark.tla
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("bug", [*SEEN, *SEEN_SEGMENTS])
def test_a_planted_bug_is_a_difference(bug: str) -> None:
    of_raft = bug in SEEN
    behaviours = written(COUNT) if of_raft else written_segments(SEGMENTS)
    with mutants.planted(mutants.find(bug)):
        outcome = performed(behaviours, perform if of_raft else perform_segments)
    assert outcome.differences, f"{bug} is not seen"
    assert outcome.differences[0].variable.startswith((SEEN | SEEN_SEGMENTS)[bug])


def test_only_two_specs_are_performed() -> None:
    with pytest.raises(TlcError, match=r"only behaviours of Raft\.tla and Walrus\.tla can be performed; try"):
        replay("order-simulate")
