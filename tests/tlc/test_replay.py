"""Behaviours of Raft.tla, performed on real servers: no difference; one for each planted bug that shows."""

from __future__ import annotations

import os

import pytest

from tests.consensus import test_mutants as planted
from tools.sees import performed, written
from walrus.tlc.replay import replay
from walrus.tlc.replay_raft import Cluster
from walrus.tlc.run import TlcError

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
COUNT = 2_000 if DEEP else 150
"""Behaviours; each is 60 states at most."""

SEEN: dict[planted.Patch, str] = {
    planted.vote_not_persisted: "requests",
    planted.vote_sent_before_it_is_durable: "requests",
    planted.votes_twice_a_term: "votes",
    planted.votes_for_any_log: "votes",
    planted.ack_before_durable: "matched",
    planted.leader_counts_itself_at_once: "commit_index",
    planted.commits_with_a_minority: "commit_index",
    planted.truncates_without_comparing: "log",
    planted.accepts_without_a_predecessor: "log",
    planted.believes_any_commit_index: "commit_index",
}
"""Planted bugs, and the variable that differs first."""

NOT_SEEN: dict[planted.Patch, str] = {
    planted.counts_votes_instead_of_voters: "no answer arrives twice in a replay",
    planted.trims_before_durable: "a crash leaves what was written whole: the journal is another component's",
}


def test_each_planted_bug_is_seen_or_there_is_a_reason() -> None:
    bugs = {*planted.FOUND_BY_CHAOS, *(bug for bug, _ in planted.FOUND_BY_A_SCHEDULE)}
    assert bugs == {*SEEN, *NOT_SEEN}


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
@pytest.mark.parametrize("bug", SEEN, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_a_difference(bug: planted.Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    written(COUNT)
    bug(monkeypatch)
    outcome = performed(written(COUNT))
    assert outcome.differences, f"{bug.__name__} is not seen"
    assert outcome.differences[0].variable.startswith(SEEN[bug])


def test_only_raft_is_performed() -> None:
    with pytest.raises(TlcError, match=r"only behaviours of Raft\.tla can be performed; try raft-simulate"):
        replay("walrus-simulate")
