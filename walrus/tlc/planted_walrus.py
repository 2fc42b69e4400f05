"""Bugs planted in Walrus.tla, each with the configuration that must refuse it, and probes.

The configurations are checked to their end without the bug, so each of these says what that was worth.
"""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"walrus-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"walrus-{config}", name=name, about=about)


PLANTED = (
    _bug(
        "quick-failover",
        "NoFenceCheck",
        "AckedDurable",
        "replicas take the writer's frames although fenced",
        Patch("ReplicaAppend", "<<t, s>> \\notin fenced[n]", "TRUE"),
    ),
    _bug(
        "quick-failover",
        "MinorityFence",
        "AckedDurable",
        "one fenced replica is enough to recover",
        Patch("Suffices", "Majority(certain, replicas)", "certain # {}"),
    ),
    _bug(
        "quick-failover",
        "ReadThenFence",
        "AckedDurable",
        "the length is read first, the fence noted later",
        Patch(
            "Fence",
            "fenced' = [fenced EXCEPT ![n] = @ \\cup {<<t, s>>}]",
            "fenced' = IF \\E a \\in answers : a.node = n"
            " THEN [fenced EXCEPT ![n] = @ \\cup {<<t, s>>}] ELSE fenced",
        ),
        Patch(
            "Fence",
            "answers' = answers \\cup {answer}",
            "answers' = IF \\E a \\in answers : a.node = n THEN answers ELSE answers \\cup {answer}",
        ),
        Patch(
            "AnswersUpTo",
            "a.topic = t /\\ a.segment = s",
            "a.topic = t /\\ a.segment = s /\\ <<t, s>> \\in fenced[a.node]",
        ),
    ),
    _bug(
        "quick-failover",
        "ShortestCopyWins",
        "AckedDurable",
        "recovery takes the shortest length answered",
        Patch("AnswersUpTo", "a.length <= length", "a.length >= length"),
    ),
    _bug(
        "quick-failover",
        "AckByMinority",
        "AckedDurable",
        "one copy is enough to acknowledge",
        Patch(
            "Ack",
            "Majority({m \\in Replicas(t, s) : matched[m][t][s] >= count}, Replicas(t, s))",
            "\\E m \\in Replicas(t, s) : matched[m][t][s] >= count",
        ),
    ),
    _bug(
        "quick-failover",
        "WriterIgnoresFence",
        "AckedDurable",
        "the writer goes on although its own node is fenced",
        Patch("MayWrite", "<<t, s>> \\notin fenced[n]", "TRUE"),
        Patch("Ack", "<<t, s>> \\notin fenced[n]", "TRUE"),
    ),
    _bug(
        "quick-failover",
        "SealBeforeCopy",
        "SealedStable",
        "recovery seals before a majority holds the count",
        Patch("RecoverySealAt", "Majority(holders, Replicas(t, s))", "TRUE"),
    ),
    _bug(
        "quick-failover",
        "CopyTruncates",
        "AckedDurable",
        "copying cuts a copy back to the count",
        Patch("CopyTailFrom", "Length(n, t, s) < upto", "Length(n, t, s) # upto"),
        Patch(
            "Extended",
            "log[n][t][s] \\o SubSeq(log[from][t][s], Length(n, t, s) + 1, upto)",
            "SubSeq(log[from][t][s], 1, upto)",
        ),
    ),
    _bug(
        "quick-failover",
        "SealWithoutCompare",
        "LastSealedIsSum",
        "a second seal is applied to a sealed segment",
        Patch("SealWith", "IsOpen(t, s)", "s <= Known(t)"),
        Patch(
            "SealWith",
            "segments |-> Append(",
            "segments |-> IF ~IsOpen(t, s) THEN [@.segments EXCEPT ![s] = closed] ELSE Append(",
        ),
    ),
    _bug(
        "quick-failover",
        "NoGapCheck",
        "SeqOrder",
        "a replica takes a frame beyond its end",
        Patch(
            "ReplicaAppend",
            "Batches(t, s, Length(n, t, s), count)",
            "UNION {Batches(t, s, from, count) : from \\in Length(n, t, s)..MaxEntries}",
        ),
    ),
    _bug(
        "quick-failover",
        "NoDuplicateCheck",
        "SeqOrder",
        "a replica appends a frame that it already has",
        Patch(
            "ReplicaAppend",
            "Batches(t, s, Length(n, t, s), count)",
            "UNION {Batches(t, s, from, count) : from \\in 0..Length(n, t, s)}",
        ),
    ),
    _bug(
        "quick-failover",
        "AnyoneWrites",
        "SingleWriter",
        "a replica originates entries",
        Patch("MayWrite", "lease[n][t] = s", "view[n][t] = s /\\ n \\in Replicas(t, s)"),
        Patch("Writes", "IF lease[n][t] <= WriteTo THEN lease[n][t] ELSE 0", "view[n][t]"),
    ),
    _bug(
        "quick-failover",
        "FencedReplicaReports",
        "AckedDurable",
        "fenced replicas report what was copied to them, and the writer counts it although fenced",
        Patch("Report", "FsyncEach", "TRUE"),
        Patch("Report", "<<t, s>> \\notin fenced[n]", "TRUE"),
        Patch("Ack", "<<t, s>> \\notin fenced[n]", "TRUE"),
    ),
    _bug(
        "quick-rollover",
        "AppendsWhileSealing",
        "AckedDurable",
        "the writer goes on appending after it proposed a count",
        Patch("MayWrite", "<<t, s>> \\notin sealing", "TRUE"),
    ),
    _bug(
        "quick-rollover",
        "OpenBeforeSeal",
        "NoWritesPastOpen",
        "the next segment is written before the seal is committed",
        Patch("MayWrite", "lease[n][t] = s", "lease[n][t] \\in {s, s - 1}"),
        Patch(
            "Writes",
            "IF lease[n][t] <= WriteTo THEN lease[n][t] ELSE 0",
            "IF <<t, lease[n][t]>> \\in sealing THEN lease[n][t] + 1 ELSE lease[n][t]",
        ),
        Patch("BeginSeal", "s < MaxSegments", "s + 1 < MaxSegments"),
    ),
    _bug(
        "quick-rollover",
        "TotalMissesSeal",
        "LastSealedIsSum",
        "the total grows by what was acknowledged",
        Patch("SealWith", "@.sealed_total + p.count", "@.sealed_total + acked[t][s]"),
    ),
    _bug(
        "quick-rollover",
        "LeaseOutlivesSegment",
        "OpenLeaderMatchesMap",
        "a lease outlives its segment",
        Patch("Apply", "lease' = [lease EXCEPT ![n][t] = 0]", "lease' = lease"),
    ),
    _bug(
        "quick-rollover",
        "NoGapCheck",
        "SeqOrder",
        "a replica takes a frame beyond its end",
        Patch(
            "ReplicaAppend",
            "Batches(t, s, Length(n, t, s), count)",
            "UNION {Batches(t, s, from, count) : from \\in Length(n, t, s)..MaxEntries}",
        ),
    ),
    _bug(
        "quick-rollover",
        "SealsUnacknowledged",
        "SealedStable",
        "the writer proposes what it has, acknowledged or not",
        Patch("AllAcknowledged", "acked[t][s] = Length(n, t, s)", "TRUE"),
        Patch("ProposeSeal", "count |-> acked[t][s]", "count |-> Length(n, t, s)"),
    ),
    _bug(
        "quick-register",
        "SealWithoutCompare",
        "LastSealedIsSum",
        "a seal is applied twice",
        Patch("SealWith", "IsOpen(t, s)", "s <= Known(t)"),
        Patch(
            "SealWith",
            "segments |-> Append(",
            "segments |-> IF ~IsOpen(t, s) THEN [@.segments EXCEPT ![s] = closed] ELSE Append(",
        ),
    ),
    _bug(
        "quick-crash",
        "FenceForgottenAtRestart",
        "AckedDurable",
        "fences are kept in memory only",
        Patch(
            "Forget",
            "UNCHANGED <<checkpoint, incarnation, fenced>>",
            "fenced' = [fenced EXCEPT ![n] = {}] /\\ UNCHANGED <<checkpoint, incarnation>>",
        ),
    ),
    _bug(
        "quick-crash",
        "LeaderResumesAfterRestart",
        "SingleWriter",
        "a restarted leader goes on in its old segment",
        Patch("IsLeader", "Segment(t, s).incarnation = incarnation[n]", "TRUE"),
    ),
    _bug(
        "full-checkpoint",
        "NoteDroppedTooEarly",
        "AckedDurable",
        "a fence is forgotten before a checkpoint knows the seal",
        Patch("ForgetFence", "s < checkpoint[n][t]", "s < view[n][t]"),
    ),
    _bug(
        "quick-power",
        "UnsureCountsAsSure",
        "AckedDurable",
        "recovery trusts the length of a copy that lost power",
        Patch("Suffices", "Majority(certain, replicas)", "Majority(nodes, replicas)"),
    ),
    _bug(
        "full-power",
        "OldFrameMakesSure",
        "AckedDurable",
        "a frame sent before the power loss makes a copy sure again",
        Patch("BecomeSure", "Length(n, t, s) >= unsure[n][t][s]", "Length(n, t, s) > 0"),
    ),
    _bug(
        "quick-fsync",
        "AckBeforeFsync",
        "AckedDurable",
        "entries are acknowledged before they are synced",
        Patch("LeaderAppend", "IF FsyncEach THEN matched ELSE", "IF FALSE THEN matched ELSE"),
        Patch("ReplicaAppend", "IF FsyncEach THEN matched", "IF FALSE THEN matched"),
    ),
    _bug(
        "quick-fsync",
        "CopiedNotSynced",
        "SealedStable",
        "what was copied is answered before it is synced",
        Patch("CopyTailFrom", "IF FsyncEach THEN", "IF FALSE THEN"),
    ),
    _bug(
        "quick-fsync",
        "FenceNotSynced",
        "SealedStable",
        "a fence is answered before what was appended is synced",
        Patch("Fence", "IF FsyncEach THEN", "IF FALSE THEN"),
    ),
    _bug(
        "quick-damage",
        "DamagedIsSure",
        "AckedDurable",
        "a damaged copy answers a fence as if it were whole",
        Patch("Fence", "sure |-> Sure(n, t, s)", "sure |-> TRUE"),
    ),
    _bug(
        "quick-cursors",
        "ReadUnacknowledged",
        "CursorInBounds",
        "readers get what is not acknowledged",
        Patch("Readable", "acked[t][s]", "Length(n, t, s)"),
    ),
    _bug(
        "full-force",
        "ReadUnacknowledged",
        "CursorInBounds",
        "readers get what is not acknowledged",
        Patch("Readable", "acked[t][s]", "Length(n, t, s)"),
    ),
    _bug(
        "quick-cursors",
        "ReaderSkipsTail",
        "DeliveredIsPrefix",
        "readers leave a segment at what was acknowledged of it",
        Patch(
            "Advance", "p[2] >= Segment(t, p[1]).count", "p[2] >= Min(acked[t][p[1]], Segment(t, p[1]).count)"
        ),
    ),
    _bug(
        "quick-cursors",
        "CommitsHandedOut",
        "DeliveredIsPrefix",
        "a cursor is committed before the delivery is confirmed",
        Patch(
            "Confirmed",
            "IF handed[n][t][g] # NoPosition THEN handed[n][t][g] ELSE reading[n][t][g]",
            "reading[n][t][g]",
        ),
    ),
    _bug(
        "quick-cursors",
        "HandsOutAhead",
        "DeliveredIsPrefix",
        "a second delivery leaves before the first is confirmed",
        Patch("HandOut", "handed[n][t][g] = NoPosition", "TRUE"),
    ),
    _bug(
        "quick-cursors",
        "SealsHandedOut",
        "DeliveredIsPrefix",
        "a seal takes a cursor along that is not confirmed",
        Patch("ProposeSeal", "\\A g \\in Group : handed[n][t][g] = NoPosition", "TRUE"),
    ),
    _bug(
        "full-cursors",
        "StaleCursor",
        "CursorInBounds",
        "a deposed leader's cursor is committed",
        Patch(
            "CommitCursors",
            "Before(metadata[t].cursors[g], m.position)",
            "metadata[t].cursors[g] # m.position",
        ),
    ),
    _bug(
        "quick-chain",
        "HandsOutAhead",
        "DeliveredIsPrefix",
        "a second delivery leaves before the first is confirmed",
        Patch("HandOut", "handed[n][t][g] = NoPosition", "TRUE"),
    ),
    _bug(
        "quick-groups",
        "GroupsShareConfirmation",
        "DeliveredIsPrefix",
        "a delivery to any group confirms this one's",
        Patch(
            "Confirm",
            "Delivery(t, g, handed[n][t][g], reading[n][t][g]) \\in received",
            "\\E h \\in Group : Delivery(t, h, handed[n][t][g], reading[n][t][g]) \\in received",
        ),
    ),
    _bug(
        "quick-replicas",
        "ReplicaBeforeCopy",
        "AckedDurable",
        "a replica enters the set before it holds the segment",
        Patch("ProposeReplicas", "new \\ old \\subseteq whole", "TRUE"),
        Patch("ProposeReplicas", "Majority(whole, new)", "TRUE"),
    ),
    _bug(
        "quick-replicas",
        "DownToOne",
        "ReplicasKept",
        "a replica set gets smaller than it has to be",
        Patch("ProposeReplicas", "Cardinality(new) >= Min(ReplicationFactor, Cardinality(members))", "TRUE"),
    ),
    _bug(
        "quick-members",
        "RemovesTheNeeded",
        "DomainConsistency",
        "a node is removed that a segment needs",
        Patch("RemoveNode", "~Needed(n)", "TRUE"),
    ),
    _bug(
        "quick-members",
        "EmptyDiskTakesPart",
        "AckedDurable",
        "a member that comes back with an empty disk goes on",
        Patch("Rejoin", "n \\notin members", 'MayFail("removal")'),
    ),
    _bug(
        "quick-members",
        "SealToTheRemoved",
        "DomainConsistency",
        "a segment opens at a node that was removed meanwhile",
        Patch("SealWith", "replicas \\subseteq members", "TRUE"),
    ),
    _bug(
        "quick-topics",
        "TopicsShareSeals",
        "SealedStable",
        "a seal of one topic is applied to the other",
        Patch(
            "Seal",
            "p.topic = t /\\ SealWith(p, n, replicas)",
            "SealWith([p EXCEPT !.topic = t], n, replicas)",
        ),
    ),
    _bug(
        "full-failover",
        "MinorityFence",
        "AckedDurable",
        "one fenced replica is enough to recover",
        Patch("Suffices", "Majority(certain, replicas)", "certain # {}"),
    ),
    _bug(
        "full-fsync",
        "AckBeforeFsync",
        "AckedDurable",
        "entries are acknowledged before they are synced",
        Patch("LeaderAppend", "IF FsyncEach THEN matched ELSE", "IF FALSE THEN matched ELSE"),
        Patch("ReplicaAppend", "IF FsyncEach THEN matched", "IF FALSE THEN matched"),
    ),
    _bug(
        "liveness",
        "NeverConfirms",
        "a temporal property",
        "a delivery is confirmed only when none waits",
        Patch("Confirm", "handed[n][t][g] # NoPosition", "handed[n][t][g] = NoPosition"),
    ),
)

PROBES = (
    _probe("quick-failover", "ProbeTwoRecoveries", "two recoveries choose different counts"),
    _probe("quick-failover", "ProbeTwoSeals", "two seals with different counts are proposed"),
    _probe("quick-failover", "ProbeUnackedSurvives", "a seal covers an entry that was never acknowledged"),
    _probe("quick-failover", "ProbeDeposedTail", "a copy is longer than the sealed count"),
    _probe("quick-failover", "ProbePartialTail", "a copy has a part of what a recovery chose"),
    _probe("quick-failover", "ProbeStaleLeader", "a deposed leader still believes"),
    _probe("quick-rollover", "ProbeRollover", "a healthy leader rolls over"),
    _probe("quick-rollover", "ProbeLeadsTwice", "a node leads one segment after another"),
    _probe("quick-chain", "ProbeEmptyChain", "two segments end empty, one after the other"),
    _probe("quick-cursors", "ProbeRedelivery", "an entry is handed out again that reached a client"),
    _probe("quick-cursors", "ProbeSealedWithCursors", "a seal takes a cursor along"),
    _probe("quick-power", "ProbeUnsureWaits", "a fence is answered by an unsure copy"),
    _probe("quick-power", "ProbeSureAgain", "a shortened copy catches up"),
    _probe("quick-damage", "ProbeReplaced", "a damaged copy is made anew"),
    _probe("full-force", "ProbeGivenUp", "an operator gives up what was acknowledged"),
    _probe("quick-replicas", "ProbeGrown", "a replica set grows"),
    _probe("quick-replicas", "ProbeShrunk", "a replica set shrinks"),
    _probe("quick-members", "ProbeRejoined", "a node's id joins again"),
    _probe("full-checkpoint", "ProbeFenceForgotten", "a note of a fence is dropped"),
)
