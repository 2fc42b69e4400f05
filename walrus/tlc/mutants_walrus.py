"""Bugs planted in Walrus.tla by its constant `Bug`, each of which TLC must refuse, by the property we expect.

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

import tempfile
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

    @property
    def config(self) -> str:
        """Where it is looked for."""
        return f"{self.spec}-mutants"

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.bug or self.expected


def _walrus(bug: str, expected: str, about: str, **constants: str) -> Mutant:
    return Mutant(spec="walrus", bug=bug, expected=expected, about=about, constants=constants)


def _searched(mutant: Mutant) -> Mutant:
    """A mutant whose bug a random walk finds late or never."""
    return replace(mutant, random=False)


_SMALL = {"MaxSegments": "2", "MaxEntries": "1"}
_GROUP = {"Group": "{g1}"}

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
    else:
        text += "SYMMETRY Symmetry\n"
    with tempfile.TemporaryDirectory(prefix="walrus-mutant-") as scratch:
        config = Path(scratch) / f"{mutant.spec}-mutant.cfg"
        config.write_text(text)
        return run_tlc(spec_of(base), config, arguments=arguments, timeout=timeout)
