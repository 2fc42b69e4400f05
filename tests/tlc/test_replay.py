"""Behaviours of Raft.tla, performed on real servers: no difference; one for each planted bug that shows."""

from __future__ import annotations

import os

import pytest

from tools.sees import performed, written
from walrus.sim import mutants
from walrus.tlc.replay import replay
from walrus.tlc.replay_raft import Cluster
from walrus.tlc.run import TlcError

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 2_000 if DEEP else 150
"""Behaviours; each is 60 states at most."""

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


@pytest.mark.tla
@pytest.mark.timeout(7_200 if DEEP else 900)
def test_real_servers_come_to_the_states_of_the_spec() -> None:
    outcome = performed(written(COUNT))
    assert [str(difference) for difference in outcome.differences] == []
    assert outcome.behaviours == COUNT
    assert outcome.steps > 20 * COUNT
    assert sum(outcome.beyond.values()) < COUNT / 5, outcome.beyond
    never = {"CheckQuorumFailed"}  # no budget for it in NARROW
    assert {action for action in actions() if not outcome.actions[action]} <= never


def actions() -> set[str]:
    """The actions of Raft.tla, by the driver's methods."""
    return {name[1:] for name in vars(Cluster) if name.startswith("_") and name[1:2].isupper()}


@pytest.mark.tla
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", SEEN)
def test_a_planted_bug_is_a_difference(bug: str) -> None:
    behaviours = written(COUNT)
    with mutants.planted(mutants.find(bug)):
        outcome = performed(behaviours)
    assert outcome.differences, f"{bug} is not seen"
    assert outcome.differences[0].variable.startswith(SEEN[bug])


def test_only_raft_is_performed() -> None:
    with pytest.raises(TlcError, match=r"only behaviours of Raft\.tla can be performed; try raft-simulate"):
        replay("walrus-simulate")
