"""Recorded runs for RaftTrace.tla: Raft's transitions, and how the cluster was founded.

Raft's events are those with a term. A vote for no server becomes a vote for node 0. Requests that a follower
refuses are recorded for people and left out here: they change no variable of Raft.tla.
"""

from __future__ import annotations

from collections.abc import Sequence

from walrus.tlc.trace_spec import UNLIMITED, Event, Run, TraceSpec, in_one, tla_set, values_of

NO_VOTE = 0

EVENTS = {
    *("PreVote", "Timeout", "HandleRequestVoteRequest", "HandleRequestVoteResponse", "UpdateTerm"),
    *("BecomeLeader", "CheckQuorumFailed", "ClientRequest", "Persist", "AcceptAppendEntriesRequest"),
    *("AdvanceCommitIndex", "LearnCommitIndex", "CompactLog", "InstallSnapshot", "StepDown", "Restart"),
    *("HandleAppendEntriesResponse", "HandleInstallSnapshotResponse"),
}
_FIELDS = {
    *("ev", "node", "role", "current_term", "commit_index", "last_log_index", "last_log_term"),
    *("transfer", "sender", "granted", "index", "kind", "voters", "learners", "voted_for"),
    *(
        "persisted_term",
        "persisted_vote",
        "persisted_index",
        "prev_log_index",
        "match_index",
        "added",
        "success",
    ),
}
_VOTES = ("voted_for", "persisted_vote")


def raft_events(events: Run) -> list[Event]:
    """Return the events that RaftTrace.tla knows, with the values that it reads."""
    found = []
    for event in events:
        if "current_term" in event and event["ev"] in EVENTS:
            kept = {name: value for name, value in event.items() if name in _FIELDS}
            votes = {name: kept[name] or NO_VOTE for name in _VOTES if name in kept}
            found.append(kept | votes)
    return found


def _founded(events: Run) -> tuple[set[int], int]:
    """Return the founders, whose logs were not empty at their first start, and how many entries they had."""
    first: dict[int, int] = {}
    for event in raft_events(events):
        if event["ev"] == "Restart":
            first.setdefault(event["node"], event["last_log_index"])
    founders = {node for node, length in first.items() if length}
    return founders, max(first.values(), default=0)


def _definitions(runs: Sequence[Run]) -> dict[str, str]:
    founded = [_founded(run) for run in runs]
    founders = ", ".join(tla_set(nodes) for nodes, _ in founded)
    lengths = ", ".join(str(length) for _, length in founded)
    return {"Founders": f"<<{founders}>>", "FoundedLength": f"<<{lengths}>>"}


def _constants(_: Sequence[Run], runs: Sequence[Run], nodes: set[int]) -> dict[str, str]:
    servers = tla_set(nodes | values_of(runs, "node", "sender", "voters", "learners"))
    return {
        "Node": servers,
        "InitVoters": "{}",
        "InitLearners": "{}",
        "MayCampaign": servers,
        "Changes": '{"add", "promote", "demote", "remove"}',
        **dict.fromkeys(("PreVotes", "Commands"), "TRUE"),
        "Begun": "1",
        "MaxTerm": str(max(values_of(runs, "current_term"), default=1)),
        "MaxLog": str(max(values_of(runs, "last_log_index"), default=1)),
        **dict.fromkeys(("MaxRestarts", "MaxChanges", "MaxSnapshots", "MaxStepDowns"), UNLIMITED),
        "None": str(NO_VOTE),
    }


RAFT = TraceSpec(
    name="Raft",
    parts=in_one(raft_events),
    definitions=_definitions,
    constants=_constants,
    step_constraint="SoundStep",
)
