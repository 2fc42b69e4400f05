"""Bugs planted in Raft.tla, each with the configuration that must refuse it, and probes.

The configurations are checked to their end without the bugs; each bug here shows what that check is worth.
"""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"raft-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"raft-{config}", name=name, about=about)


_VOTES_TWICE = Patch(
    "HandleRequestVoteRequest", "voted_for[n] \\in {None, r.candidate}", 'role[n] = "Follower"'
)
_NO_LOG_CHECK = Patch("HandleRequestVoteRequest", "AtLeast(r.last_term, r.last_index, log[n])", "TRUE")
_OLD_TERM = Patch("AdvanceCommitIndex", "log[n][index].term = t", "TRUE")
_QUORUM = "Quorum(Holders(n, index), VotersOf(n))"
_FORGET_VOTE = Patch(
    "Restart",
    "UNCHANGED <<current_term, voted_for,",
    "voted_for' = [voted_for EXCEPT ![n] = None] /\\ UNCHANGED <<current_term,",
)
_SNAPSHOT_UNCOMMITTED = (
    Patch("CompactLog", "index <= commit_index[n]", "index <= Len(log[n])"),
    Patch(
        "CompactLog",
        "UNCHANGED <<serverVars, log, commit_index,",
        "commit_index' = [commit_index EXCEPT ![n] = Max(@, index)] /\\ UNCHANGED <<serverVars, log,",
    ),
)

PLANTED = (
    _bug(
        "quick-elections",
        "VotesTwice",
        "ElectionSafety",
        "a server votes for two candidates in a term",
        _VOTES_TWICE,
    ),
    _bug(
        "quick-elections",
        "OldVotesCount",
        "ElectionSafety",
        "votes of an earlier election are counted",
        Patch("BecomeLeader", " /\\ v.term = t", ""),
    ),
    _bug(
        "quick-elections",
        "VoteWithoutLogCheck",
        "LeaderCompleteness",
        "votes go to candidates with incomplete logs",
        _NO_LOG_CHECK,
    ),
    _bug(
        "quick-elections",
        "CommitByMinority",
        "LeaderCompleteness",
        "one copy is enough to commit",
        Patch("AdvanceCommitIndex", _QUORUM, "Holders(n, index) # {}"),
    ),
    _bug(
        "quick-conflicts",
        "VoteWithoutLogCheck",
        "LeaderCompleteness",
        "votes go to candidates whose logs conflict",
        _NO_LOG_CHECK,
    ),
    _bug(
        "quick-conflicts",
        "CommitByMinority",
        "LeaderCompleteness",
        "one copy is enough to commit",
        Patch("AdvanceCommitIndex", _QUORUM, "Holders(n, index) # {}"),
    ),
    _bug(
        "quick-conflicts",
        "CommitOldTerm",
        "LeaderCompleteness",
        "an entry of an older term is committed by counting copies (Figure 8)",
        _OLD_TERM,
    ),
    _bug(
        "quick-conflicts",
        "NoPrevCheck",
        "LogMatching",
        "entries are taken without their predecessor",
        Patch("MayTake", "TermAt(log[n], prev) = TermAt(leader_log[t], prev)", "TRUE"),
    ),
    _bug(
        "quick-conflicts",
        "LeaderOverwrites",
        "LeaderAppendOnly",
        "a new leader replaces an uncommitted entry of its own log",
        Patch(
            "Appended",
            "Append(@, entry)",
            "IF Len(@) > commit_index[n] /\\ @[Len(@)].term < current_term[n]"
            " THEN SubSeq(@, 1, Len(@) - 1) \\o <<entry>> ELSE Append(@, entry)",
        ),
    ),
    _bug(
        "quick-restart",
        "CutWithoutCompare",
        "CommittedNeverLost",
        "an old request cuts off later entries",
        Patch("Merged", "conflict \\/ last > Len(log[n])", "TRUE"),
    ),
    _bug(
        "quick-restart",
        "AckBeforePersist",
        "CommittedNeverLost",
        "a follower answers before it wrote the entries",
        Patch("AcceptAppendEntriesRequest", "Len(merged), last)", "Min(persisted[n], Len(merged)), last)"),
    ),
    _bug(
        "quick-restart",
        "LeaderCountsUnwritten",
        "CommittedNeverLost",
        "the leader counts its own copy too early",
        Patch("Holders", "persisted[n] >= index", "TRUE"),
    ),
    _bug(
        "quick-restarts",
        "VoteForgotten",
        "ElectionSafety",
        "the vote is not persisted",
        _FORGET_VOTE,
    ),
    _bug(
        "quick-restarts",
        "TermForgotten",
        "ElectionSafety",
        "neither term nor vote is persisted",
        Patch(
            "Restart",
            "UNCHANGED <<current_term, voted_for,",
            "current_term' = [current_term EXCEPT ![n] = Max(1, LastTerm(log[n]))]"
            " /\\ voted_for' = [voted_for EXCEPT ![n] = None] /\\ UNCHANGED <<",
        ),
    ),
    _bug(
        "quick-snapshots",
        "SnapshotUncommitted",
        "StateMachineSafety",
        "what is not committed enters a snapshot, and is taken to be",
        *_SNAPSHOT_UNCOMMITTED,
    ),
    _bug(
        "quick-snapshots",
        "SnapshotReplacesLog",
        "CommittedNeverLost",
        "a snapshot discards the log that follows it",
        Patch(
            "TakeSnapshot",
            "IF Holds(n, index, from) THEN @ ELSE SubSeq(from, 1, index)",
            "SubSeq(from, 1, index)",
        ),
    ),
    _bug(
        "quick-prevote",
        "VotesTwice",
        "ElectionSafety",
        "a server votes for two candidates in a term",
        _VOTES_TWICE,
    ),
    _bug(
        "quick-membership",
        "ChangeBeforeOwnCommit",
        "LeaderCompleteness",
        "a change begins before the leader has committed in its own term",
        Patch("ChangeMembershipTo", "TermAt(log[n], commit_index[n]) = current_term[n]", "TRUE"),
    ),
    _bug(
        "quick-growth",
        "LearnsBeyondItsLog",
        "StateMachineSafety",
        "a new server takes more for committed than it holds",
        Patch("LearnUpTo", "index <= agreed", "TRUE"),
    ),
    _bug(
        "full-terms",
        "VotesTwice",
        "ElectionSafety",
        "a server votes for two candidates in a term",
        _VOTES_TWICE,
    ),
    _bug(
        "full-figure8",
        "CommitOldTerm",
        "LeaderCompleteness",
        "all of Figure 8, from (b) on",
        _OLD_TERM,
    ),
    _bug(
        "full-snapshots",
        "SnapshotUncommitted",
        "StateMachineSafety",
        "what is not committed enters a snapshot, and is taken to be",
        *_SNAPSHOT_UNCOMMITTED,
    ),
    _bug(
        "full-prevote",
        "VotesTwice",
        "ElectionSafety",
        "a server votes for two candidates in a term",
        _VOTES_TWICE,
    ),
    _bug(
        "full-membership",
        "ChangeWhilePending",
        "LeaderCompleteness",
        "a change begins before the last one is committed",
        Patch("ChangeMembershipTo", "MembershipIndex(log[n]) <= commit_index[n]", "TRUE"),
    ),
    _bug(
        "full-learners",
        "LearnersCount",
        "LeaderCompleteness",
        "learners count towards a commit",
        Patch("AdvanceCommitIndex", _QUORUM, "Cardinality(Holders(n, index)) * 2 > Cardinality(VotersOf(n))"),
    ),
    _bug(
        "full-roles",
        "VoteWithoutLogCheck",
        "LeaderCompleteness",
        "votes go to candidates with incomplete logs",
        _NO_LOG_CHECK,
    ),
    _bug(
        "liveness",
        "NeverCommitsItsTerm",
        "a temporal property",
        "a leader commits entries of other terms only",
        Patch("AdvanceCommitIndex", "log[n][index].term = t", "log[n][index].term # t"),
    ),
    _bug(
        "quick-removal",
        "ShorterLogWins",
        "LeaderCompleteness",
        "votes go to candidates whose logs end in the same term and are shorter",
        Patch("AtLeast", "term = LastTerm(l) /\\ index >= Len(l)", "term = LastTerm(l)"),
    ),
)

PROBES = (
    _probe("quick-elections", "ProbeTwoLeaders", "a deposed leader still believes"),
    _probe("liveness", "ProbeBegins2", "a later beginning is reached: one leader"),
    _probe("quick-restart", "ProbeBegins3", "two leaders in turn, the first of which has not heard of it"),
    _probe("full-figure8", "ProbeBegins4", "Figure 8 (c)"),
    _probe("quick-conflicts", "ProbeOverwritten", "an acknowledged, uncommitted entry is overwritten"),
    _probe("quick-conflicts", "ProbeConflict", "two logs hold different entries at one index"),
    _probe(
        "quick-conflicts", "ProbeOldEntryCommitted", "an entry of an older term is committed by a newer one"
    ),
    _probe("quick-snapshots", "ProbeSnapshotInstalled", "a follower takes a snapshot"),
    _probe("quick-snapshots", "ProbeSnapshotReplaces", "a snapshot replaces entries that conflict"),
    _probe(
        "quick-snapshots", "ProbeSnapshotKeepsTail", "a follower that takes a snapshot has entries beyond it"
    ),
    _probe("quick-restart", "ProbeTailLost", "a crash takes what the leader had sent but not written"),
    _probe("quick-growth", "ProbeChange", "the membership changes"),
    _probe("full-membership", "ProbeLeaderRemoved", "a leader removes itself"),
    _probe("quick-removal", "ProbeLeaderRemoved", "a leader removes itself"),
)
