"""Behaviours of Raft.tla that a test writes down: states, each made from the one before by an action.

The methods of `Told` are actions of Raft.tla with the variables that they change; their conditions are up to
the test. TLC writes random behaviours of this form, and `walrus.tlc.replay` performs either kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walrus.tlc.values import TlaRecord

State = dict[str, Any]


def founded(servers: int = 2, terms: int = 1, **other: Any) -> State:
    """Return the beginning of a behaviour: servers that all vote, founded by one committed entry."""
    nodes = range(1, servers + 1)
    none = dict.fromkeys(nodes, 0)
    founding = TlaRecord(term=1, voters=frozenset(nodes), learners=frozenset())
    return {
        "role": dict.fromkeys(nodes, "Follower"),
        "current_term": dict.fromkeys(nodes, 1),
        "voted_for": none,
        "log": dict.fromkeys(nodes, (founding,)),
        "commit_index": dict.fromkeys(nodes, 1),
        "base": none,
        "persisted": dict.fromkeys(nodes, 1),
        "requests": frozenset(),
        "votes": frozenset(),
        "leader_of": (0,) * terms,
        "leader_log": ((),) * terms,
        "leader_commit": (0,) * terms,
        "matched": (none,) * terms,
        "elections": frozenset(),
        "budget": {},
    } | other


class Told:
    """A behaviour as it is told, action by action."""

    def __init__(self, servers: int, terms: int) -> None:
        budget = {"restarts": 1, "snapshots": 1, "step_downs": 1, "changes": 1}
        self.states = [founded(servers, terms, budget=budget)]

    def campaigns(self, node: int) -> None:
        """Timeout(node), without pre-votes."""
        term, log = self._of("current_term", node) + 1, self._of("log", node)
        request = TlaRecord(term=term, candidate=node, last_term=log[-1]["term"], last_index=len(log))
        self._then(
            node,
            {"current_term": term, "voted_for": node, "role": "Candidate"},
            requests=self.states[-1]["requests"] | {request},
            votes=self._votes(term, node, node),
        )

    def updates_term(self, node: int, term: int) -> None:
        """UpdateTerm(node, term)."""
        self._then(node, {"current_term": term, "voted_for": 0, "role": "Follower"})

    def votes(self, node: int, candidate: int) -> None:
        """HandleRequestVoteRequest(node)."""
        votes = self._votes(self._of("current_term", node), node, candidate)
        self._then(node, {"voted_for": candidate}, votes=votes)

    def becomes_leader(self, node: int) -> None:
        """BecomeLeader(node)."""
        term = self._of("current_term", node)
        self._then(
            node,
            {"role": "Leader"},
            elections=self.states[-1]["elections"] | {(term, node)},
            leader_of=self._in_term("leader_of", term, node),
            leader_log=self._in_term("leader_log", term, self._of("log", node)),
            leader_commit=self._in_term("leader_commit", term, self._of("commit_index", node)),
        )

    def steps_down(self, node: int) -> None:
        """CheckQuorumFailed(node)."""
        self._then(node, {"role": "Follower"}, budget=self._spent("step_downs"))

    def appends(self, node: int) -> None:
        """ClientRequest(node)."""
        term = self._of("current_term", node)
        entry = TlaRecord(term=term, voters=frozenset(), learners=frozenset())
        log = (*self._of("log", node), entry)
        self._then(node, {"log": log}, leader_log=self._in_term("leader_log", term, log))

    def persists(self, node: int) -> None:
        """Persist(node)."""
        self._then(node, {"persisted": len(self._of("log", node))})

    def accepts(self, node: int, last: int) -> None:
        """AcceptAppendEntriesRequest(node, last - 1, last), where it lacks that entry."""
        log = self.states[-1]["leader_log"][self._of("current_term", node) - 1][:last]
        self._then(node, {"log": log, "persisted": last}, matched=self._matched(node, last))

    def commits(self, node: int, index: int) -> None:
        """AdvanceCommitIndex(node, index)."""
        sent = self._in_term("leader_commit", self._of("current_term", node), index)
        self._then(node, {"commit_index": index}, leader_commit=sent)

    def compacts(self, node: int, index: int) -> None:
        """CompactLog(node, index)."""
        self._then(node, {"base": index}, budget=self._spent("snapshots"))

    def installs(self, node: int, leader: int) -> None:
        """InstallSnapshot(node), where it lacks the entries."""
        index = self._of("base", leader)
        log = self._of("log", leader)[:index]
        after = {"log": log, "base": index, "commit_index": index, "persisted": index}
        self._then(node, after, matched=self._matched(node, index))

    def _then(self, node: int, of_node: Mapping[str, object], **others: object) -> None:
        before = self.states[-1]
        self.states.append(before | {name: before[name] | {node: of_node[name]} for name in of_node} | others)

    def _of(self, name: str, node: int) -> Any:
        return self.states[-1][name][node]

    def _votes(self, term: int, voter: int, candidate: int) -> frozenset[TlaRecord]:
        vote = TlaRecord(term=term, voter=voter, candidate=candidate)
        return frozenset(self.states[-1]["votes"] | {vote})

    def _in_term(self, name: str, term: int, value: object) -> tuple[Any, ...]:
        before = self.states[-1][name]
        return (*before[: term - 1], value, *before[term:])

    def _matched(self, node: int, index: int) -> tuple[Any, ...]:
        term = self._of("current_term", node)
        before = self.states[-1]["matched"][term - 1]
        return self._in_term("matched", term, before | {node: max(before[node], index)})

    def _spent(self, name: str) -> dict[str, int]:
        budget = self.states[-1]["budget"]
        return budget | {name: budget[name] - 1}
