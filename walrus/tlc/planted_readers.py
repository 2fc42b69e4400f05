"""Bugs planted in what Walrus.tla says of readers: deliveries, cursors, and what is lost. And probes.

Beside `planted_walrus.py`, which has those of the writers, recoveries, replica sets and members.
"""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted_walrus import bug, probe

PLANTED = (
    bug(
        "quick-cursors",
        "ReadUnacknowledged",
        "CursorInBounds",
        "readers get what is not acknowledged",
        Patch("Readable", "acked[t][s]", "Length(n, t, s)"),
    ),
    bug(
        "full-force",
        "ReadUnacknowledged",
        "CursorInBounds",
        "readers get what is not acknowledged",
        Patch("Readable", "acked[t][s]", "Length(n, t, s)"),
    ),
    bug(
        "quick-readers",
        "ReaderSkipsTail",
        "DeliveredIsPrefix",
        "readers leave a segment at what was acknowledged of it",
        Patch(
            "Advance", "p[2] >= Segment(t, p[1]).count", "p[2] >= Min(acked[t][p[1]], Segment(t, p[1]).count)"
        ),
    ),
    bug(
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
    bug(
        "quick-cursors",
        "HandsOutAhead",
        "DeliveredIsPrefix",
        "a second delivery leaves before the first is confirmed",
        Patch("HandOut", "handed[n][t][g] = NoPosition", "TRUE"),
    ),
    bug(
        "quick-cursors",
        "SealsHandedOut",
        "DeliveredIsPrefix",
        "a seal takes a cursor along that is not confirmed",
        Patch("ProposeSeal", "\\A g \\in Group : handed[n][t][g] = NoPosition", "TRUE"),
    ),
    bug(
        "quick-commits",
        "StaleCursor",
        "CursorInBounds",
        "a deposed leader's cursor is committed",
        Patch(
            "CommitCursors",
            "Before(metadata[t].cursors[g], m.position)",
            "metadata[t].cursors[g] # m.position",
        ),
    ),
    bug(
        "quick-chain",
        "HandsOutAhead",
        "DeliveredIsPrefix",
        "a second delivery leaves before the first is confirmed",
        Patch("HandOut", "handed[n][t][g] = NoPosition", "TRUE"),
    ),
    bug(
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
    bug(
        "quick-gap",
        "StepsOverTheSilent",
        "DeliveredIsPrefix",
        "a replica that does not answer is taken to have nothing",
        Patch("StepOver", "up[m] /\\ ~gives(m)", "up[m] => ~gives(m)"),
    ),
    bug(
        "quick-gap",
        "StepsOverWhatOneLacks",
        "DeliveredIsPrefix",
        "an entry is given up that one replica cannot give",
        Patch("StepOver", "\\A m \\in Replicas(t, s) : up[m]", "\\E m \\in Replicas(t, s) : up[m]"),
    ),
    bug(
        "full-force",
        "CursorBeyondForcedSeal",
        "CursorInBounds",
        "a cursor stays beyond the count that an operator accepted",
        Patch("SealWith", "Earlier(metadata[t].cursors[g], <<s, p.count>>)", "metadata[t].cursors[g]"),
    ),
    bug(
        "full-force",
        "LateCursorBeyondForcedSeal",
        "CursorInBounds",
        "a cursor is committed beyond the count that an operator accepted",
        Patch("CommitCursors", "InBounds(t, m.position)", "TRUE"),
    ),
    bug(
        "quick-readers",
        "ReadPastSeal",
        "CursorInBounds",
        "sealed segments are read to the end of a copy",
        Patch(
            "Advance",
            "p[2] >= Segment(t, p[1]).count",
            "\\A m \\in Replicas(t, p[1]) : p[2] >= Length(m, t, p[1])",
        ),
        Patch("Readable", "Segment(t, s).count", "Length(n, t, s)"),
    ),
    bug(
        "quick-readers",
        "ReadUnacknowledged",
        "CursorInBounds",
        "readers get what is not acknowledged",
        Patch("Readable", "acked[t][s]", "Length(n, t, s)"),
    ),
    bug(
        "liveness",
        "NeverConfirms",
        "a temporal property",
        "a delivery is confirmed only when none waits",
        Patch("Confirm", "handed[n][t][g] # NoPosition", "handed[n][t][g] = NoPosition"),
    ),
    bug(
        "guards-places",
        "GroupsShareCommits",
        "DeliveredIsPrefix",
        "a cursor is committed for another group, too",
        Patch("CommitCursors", "m.group = g", "TRUE"),
    ),
    bug(
        "guards-places",
        "TopicsShareCommits",
        "CursorInBounds",
        "a cursor is committed for another topic, too",
        Patch("CommitCursors", "m.topic = t", "TRUE"),
    ),
    bug(
        "guards-places",
        "TopicsShareDeliveries",
        "DeliveredIsPrefix",
        "a delivery reaches the readers of another topic, too",
        Patch("Deliver", "d.topic = t", "TRUE"),
    ),
    bug(
        "guards-moves",
        "ComparesOffsetsAlone",
        "CursorInBounds",
        "a place in an earlier segment is the later one if its offset is larger",
        Patch("Before", "p[1] = q[1] /\\ p[2] < q[2]", "p[2] < q[2]"),
    ),
    bug(
        "guards-lost",
        "StepsOverWhileHanded",
        "DeliveredIsPrefix",
        "a group steps over what is lost before the delivery in front of it is confirmed",
        Patch("StepOver", "handed[n][t][g] = NoPosition", "TRUE"),
    ),
)

PROBES = (
    probe("quick-chain", "ProbeEmptyChain", "two segments end empty, one after the other"),
    probe("quick-cursors", "ProbeRedelivery", "an entry is handed out again that reached a client"),
    probe("quick-cursors", "ProbeSealedWithCursors", "a seal takes a cursor along"),
    probe("quick-gap", "ProbeSteppedOver", "a group goes on behind an entry that is lost"),
    probe("quick-commits", "ProbeSealedWithCursors", "a seal takes a cursor along"),
    probe("quick-readers", "ProbeDeposedTail", "a copy is longer than the sealed count"),
    probe("full-force", "ProbeGivenUp", "an operator gives up what was acknowledged"),
    probe("guards-lost", "ProbeSteppedOver", "a group goes on behind an entry that is lost"),
    probe("guards-moves", "ProbeSealedWithCursors", "a seal takes a cursor along"),
)
