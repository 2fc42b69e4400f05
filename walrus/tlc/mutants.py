"""Mutants: bugs planted in the specs, each of which TLC must refuse, by the property we expect.

A spec that can do nothing violates nothing, and an invariant that is too weak holds always. So every rule
of the protocols that matters can be switched off by the constant `Bug`, one at a time, and this table says
which property must notice. A mutant that survives is a hole in the invariants; one that is caught by another
property than expected is a rule that we did not understand. Probes are the other half: statements such as
"no two recoveries ever choose different counts" which must be *violated*, or the model never gets where
the protocol is interesting.

Searches are breadth-first, so a counterexample is a shortest one, except where that would take long: there
TLC walks at random with a fixed seed, which finds the same behaviour each time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from walrus.tlc.configs import config_file, spec_of, with_constants
from walrus.tlc.run import TlcResult, run_tlc


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug (or, with no `bug`, a probe) and what must be violated."""

    spec: str
    bug: str
    expected: str
    about: str
    constants: dict[str, str] = field(default_factory=dict)
    random: bool = True
    """Walk at random instead of searching breadth-first."""
    depth: str = "70"
    """Length of a random walk."""
    behaviours: str = ""
    """The specification to use instead of the configuration's: one that begins later, and stays narrow."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return f"{self.spec}:{self.bug or self.expected}"


def _walrus(bug: str, expected: str, about: str, **constants: str) -> Mutant:
    return Mutant(spec="walrus", bug=bug, expected=expected, about=about, constants=constants)


def _raft(bug: str, expected: str, about: str, **constants: str) -> Mutant:
    return Mutant(spec="raft", bug=bug, expected=expected, about=about, constants=constants)


def _searched(mutant: Mutant) -> Mutant:
    """A mutant whose bug a random walk finds late or never."""
    return replace(mutant, random=False)


def _led(mutant: Mutant) -> Mutant:
    """A mutant whose bug needs a leader, and another one after it."""
    return replace(mutant, random=False, behaviours="LedSpec")


def _turns(mutant: Mutant) -> Mutant:
    """A mutant whose bug needs several elections: they begin when two servers have led in turn."""
    return replace(mutant, random=False, behaviours="TurnsSpec")


_SMALL = {"MaxSegments": "2", "MaxEntries": "1"}
_GROUP = {"Group": "{g1}"}
_CALM = {"MaxRestarts": "0", "MaxSnapshots": "0"}
_FOUR = {"Node": "{n1, n2, n3, n4}", "MaxLog": "4", "MaxChanges": "2"}

MUTANTS: tuple[Mutant, ...] = (
    _walrus("NoFenceCheck", "AckedDurable", "replicas take the writer's frames although fenced"),
    _walrus("MinorityFence", "AckedDurable", "one fenced replica is enough to recover"),
    _walrus("ReadThenFence", "AckedDurable", "the length is read first, the fence noted later"),
    _walrus("ShortestCopyWins", "AckedDurable", "recovery takes the shortest length answered"),
    _searched(
        _walrus(
            "FenceForgottenAtRestart",
            "AckedDurable",
            "fences are kept in memory only",
            **_SMALL,
            MaxCrashes="1",
        )
    ),
    _searched(
        _walrus(
            "AppendsWhileSealing",
            "AckedDurable",
            "the writer goes on appending after it proposed a count",
            MaxSegments="2",
        )
    ),
    _walrus("AckByMinority", "AckedDurable", "one copy is enough to acknowledge"),
    _walrus(
        "AckBeforeFsync",
        "AckedDurable",
        "--fsync each, but entries are acknowledged before they are synced",
        MaxSegments="1",
        MaxEntries="1",
        FsyncEach="TRUE",
        MaxPowerLosses="1",
    ),
    _walrus("FencedReplicaReports", "AckedDurable", "a fenced replica reports what was copied to it"),
    _walrus("WriterIgnoresFence", "AckedDurable", "the writer goes on although its own node is fenced"),
    _searched(
        _walrus(
            "UnsureCountsAsSure",
            "AckedDurable",
            "recovery trusts the length of a copy that lost power",
            **_SMALL,
            MaxPowerLosses="1",
        )
    ),
    _searched(
        _walrus(
            "OldFrameMakesSure",
            "AckedDurable",
            "a frame sent before the power loss makes a copy sure again",
            MaxSegments="2",
            SealAt="2",
            MaxPowerLosses="1",
        )
    ),
    _walrus("SealBeforeCopy", "SealedStable", "recovery seals before a majority holds the count"),
    _walrus("CopyTruncates", "SealedStable", "copying cuts a copy back to the count"),
    _walrus("SealWithoutCompare", "SealedStable", "a second seal is applied to a sealed segment"),
    _walrus(
        "ReplicaBeforeCopy",
        "SealedStable",
        "a replica enters the set before it holds the segment",
        ReplicationFactor="2",
        MaxReplicaChanges="1",
    ),
    _walrus("OpenBeforeSeal", "NoWritesPastOpen", "the next segment is written before the seal is committed"),
    _walrus(
        "LeaderResumesAfterRestart",
        "SingleWriter",
        "a restarted leader goes on in its old segment",
        MaxCrashes="1",
    ),
    _walrus("AnyoneWrites", "SingleWriter", "a replica originates entries"),
    _walrus("NoGapCheck", "SeqOrder", "a replica takes a frame beyond its end"),
    _walrus("NoDuplicateCheck", "SeqOrder", "a replica appends a frame that it already has"),
    _walrus("TotalMissesSeal", "LastSealedIsSum", "the total grows by what was acknowledged"),
    _walrus("LeaseOutlivesSegment", "OpenLeaderMatchesMap", "a lease outlives its segment"),
    _walrus("ReadUnacknowledged", "CursorInBounds", "readers get what is not acknowledged", **_GROUP),
    _walrus(
        "ReadPastSeal", "CursorInBounds", "readers get a deposed leader's tail", **_GROUP, MaxSegments="2"
    ),
    _walrus("ReaderSkipsTail", "DeliveredIsPrefix", "readers leave at the commit index", **_GROUP),
    _walrus("CursorBeforeDelivery", "DeliveredIsPrefix", "a cursor is committed too early", **_GROUP),
    _walrus("StaleCursor", "CursorInBounds", "a deposed leader's cursor is committed", **_GROUP),
    _searched(_raft("VoteForgotten", "ElectionSafety", "the vote is not persisted", MaxSnapshots="0")),
    _raft("TermForgotten", "ElectionSafety", "the term is not persisted"),
    _raft("VotesTwice", "ElectionSafety", "a server votes for two candidates in a term"),
    _raft("OldBallotsCount", "ElectionSafety", "ballots of an earlier election are counted"),
    _raft("VoteWithoutLogCheck", "LeaderCompleteness", "votes go to candidates with incomplete logs"),
    _turns(
        _raft(
            "CommitOldTerm",
            "LeaderCompleteness",
            "an entry of an older term is committed by counting (Figure 8)",
            **_CALM,
            MaxTerm="5",
            MaxLog="2",
        )
    ),
    _raft("CommitByMinority", "LeaderCompleteness", "one copy is enough to commit", **_CALM),
    _raft("LeaderCountsUnwritten", "CommittedNeverLost", "the leader counts itself too early"),
    _raft("AckBeforePersist", "CommittedNeverLost", "a follower answers before it wrote the entries"),
    _raft("CutWithoutCompare", "CommittedNeverLost", "an old request cuts off later entries"),
    _searched(_raft("NoPrevCheck", "LogMatching", "entries are taken without their predecessor", **_CALM)),
    _searched(_raft("LeaderOverwrites", "LeaderAppendOnly", "a new leader replaces an entry", **_CALM)),
    _raft("SnapshotUncommitted", "StateMachineSafety", "what is not committed enters a snapshot"),
    _raft("SnapshotReplacesLog", "CommittedNeverLost", "a snapshot discards the log that follows it"),
    _raft(
        "LearnersCount",
        "LeaderCompleteness",
        "learners count towards a commit",
        **_CALM,
        Node="{n1, n2, n3, n4}",
        InitLearners="{n4}",
    ),
    _led(
        _raft(
            "ChangeWhilePending",
            "LeaderCompleteness",
            "a change begins before the last one is committed",
            **_CALM,
            MaxChanges="2",
            MaxTerm="3",
            MaxLog="4",
        )
    ),
    _turns(
        _raft(
            "ChangeBeforeOwnCommit",
            "LeaderCompleteness",
            "a change begins before the leader has committed in its own term",
            **_CALM,
            Node="{n1, n2, n3, n4}",
            InitVoters="{n1, n2, n3, n4}",
            MaxChanges="2",
            MaxLog="2",
        )
    ),
)

PROBES: tuple[Mutant, ...] = (
    _walrus("", "ProbeRollover", "a healthy leader rolls over"),
    _walrus("", "ProbeTwoRecoveries", "two recoveries choose different counts"),
    _walrus("", "ProbeTwoSeals", "two seals with different counts are proposed"),
    _walrus("", "ProbeUnackedSurvives", "a seal covers an entry that was never acknowledged"),
    _walrus("", "ProbeDeposedTail", "a copy is longer than the sealed count"),
    _walrus("", "ProbeStaleLeader", "a deposed leader still believes"),
    _walrus("", "ProbeRedelivery", "a reader goes back after a failover", **_GROUP, MaxCrashes="1"),
    _walrus("", "ProbeUnsureWaits", "a fence is answered by an unsure copy", MaxPowerLosses="1"),
    _walrus("", "ProbeSureAgain", "a shortened copy catches up", MaxPowerLosses="1"),
    _raft("", "ProbeTwoLeaders", "a deposed leader still believes"),
    _raft("", "ProbeCommit", "something is committed"),
    _raft("", "ProbeOverwritten", "an acknowledged, uncommitted entry is overwritten"),
    _raft("", "ProbeSnapshotInstalled", "a follower takes a snapshot"),
    _raft("", "ProbeTailLost", "a crash takes what the leader had sent but not written"),
    _raft("", "ProbeChange", "the membership changes", **_FOUR),
    _raft("", "ProbeLeaderRemoved", "a leader removes itself", **_FOUR),
)


def run_mutant(mutant: Mutant, timeout: float = 120.0) -> TlcResult:
    """Check one mutant or probe."""
    base = config_file(f"{mutant.spec}-mutants")
    text = base.read_text()
    constants = {"Bug": f'"{mutant.bug or "none"}"', **mutant.constants}
    text = with_constants(text, constants)
    if not mutant.bug:
        text = text.split("INVARIANTS")[0] + f"INVARIANT {mutant.expected}\n"
    arguments: list[str] = []
    if mutant.random:
        arguments = ["-simulate", "num=100000", "-depth", mutant.depth, "-seed", "1"]
    elif not mutant.behaviours:
        text += "SYMMETRY Symmetry\n"
    if mutant.behaviours:
        text = re.sub(r"SPECIFICATION \w+", f"SPECIFICATION {mutant.behaviours}", text)
        text += "CONSTRAINT TakeTurns\n"
    with tempfile.TemporaryDirectory(prefix="walrus-mutant-") as scratch:
        config = Path(scratch) / f"{mutant.spec}-mutant.cfg"
        config.write_text(text)
        return run_tlc(spec_of(base), config, arguments=arguments, timeout=timeout)


def run_mutants(
    mutants: Iterable[Mutant], report: Callable[[Mutant, TlcResult], None], timeout: float = 120.0
) -> list[str]:
    """Check them all; returns what is wrong, one line each."""
    wrong = []
    for mutant in mutants:
        result = run_mutant(mutant, timeout)
        report(mutant, result)
        if result.violated != mutant.expected:
            wrong.append(f"{mutant.name}: {mutant.expected} should be violated, but {result.violated} was")
    return wrong
