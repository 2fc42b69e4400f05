"""Bugs planted in Delivery.tla, each with the configuration that must refuse it, and probes."""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"delivery-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"delivery-{config}", name=name, about=about)


_OK_BEFORE_COMMIT = Patch("Answer", "/\\ IsDone(View(o), d[2])", "")
_OTHERS_ENDED = "\\A other \\in Owners \\ {o} : sealing[other] \\/ ~MayServe(other)"

PLANTED = (
    _bug(
        "quick-owners",
        "OkBeforeCommit",
        "PromisedIsCommitted",
        "an ACK is answered before Raft has committed it",
        _OK_BEFORE_COMMIT,
    ),
    _bug(
        "quick-owners",
        "OkWithoutLease",
        "AckedNotRedelivered",
        "an owner answers ACKs although its lease is over",
        Patch("Answer", "Serves(o)", "View(o).owner = o"),
    ),
    _bug(
        "quick-owners",
        "FormerOwnerAnswers",
        "AckedNotRedelivered",
        "an owner that was replaced answers ACKs that its proposal has committed since",
        Patch("Answer", "Serves(o)", "TRUE"),
    ),
    _bug(
        "quick-owners",
        "RenewsByContactAlone",
        "AckedNotRedelivered",
        "a lease is renewed by a message of the Raft leader, whatever it knows that this node does not",
        Patch(
            "AskForLease",
            "lease' = [lease EXCEPT ![o] = Len(history)]",
            "lease' = [lease EXCEPT ![o] = view[o]]",
        ),
    ),
    _bug(
        "full-seek",
        "LeaseFromTheAnswer",
        "AckedNotRedelivered",
        "a lease counts from its answer, not from its question",
        Patch("AskForLease", "~MayServe(other)", "~Serves(other)"),
    ),
    _bug(
        "quick-owners",
        "ServesAfterRefusal",
        "AckedNotRedelivered",
        "a refused connection is taken for the end of the earlier owner's lease",
        Patch("AskForLease", _OTHERS_ENDED, "TRUE"),
    ),
    _bug(
        "quick-owners",
        "SealsAndGoesOn",
        "SealHandsOn",
        "an owner hands out entries after it has said what is out",
        Patch("CanHandOut", "~sealing[o]", "TRUE"),
    ),
    _bug(
        "quick-owners",
        "SealWithoutGroups",
        "SealHandsOn",
        "a Seal leaves out what is done and what is out",
        Patch(
            "ProposeSeal",
            "done |-> View(o).done \\cup Of(o, noted[o]), out |-> out[o]",
            "done |-> {}, out |-> {}",
        ),
    ),
    _bug(
        "quick-holes",
        "MarkPastHole",
        "NothingSkipped",
        "the mark moves to the last acknowledged entry, past one that is not",
        Patch("Acknowledged", "low |-> 0", "low |-> CHOOSE p \\in done : \\A q \\in done : q <= p"),
    ),
    _bug(
        "quick-holes",
        "JoinWithoutRanges",
        "MarkOnlyRises",
        "a commit replaces the entries done above the mark instead of joining them",
        Patch("Join", "state.done \\cup record.done", "record.done"),
    ),
    _bug(
        "quick-holes",
        "ExpireAcknowledges",
        "NothingSkipped",
        "an entry whose visibility timeout ends counts as done",
        Patch(
            "Return",
            "UNCHANGED <<history, seals, ownerVars, noted, held, finished, dead, promised, redelivered>>",
            "noted' = [noted EXCEPT ![o] = @ \\cup {delivery}]\n        /\\ "
            "UNCHANGED <<history, seals, ownerVars, held, finished, dead, promised, redelivered>>",
        ),
    ),
    _bug(
        "quick-holes",
        "DeadBeforeAppend",
        "NothingSkipped",
        "an entry is done for its group before it is in the dead-letter topic",
        Patch("NoteDead", "p \\in dead", "TRUE"),
    ),
    _bug(
        "quick-window",
        "NoWindow",
        "OutIsBounded",
        "entries are handed out however far they are above the mark",
        Patch("CanHandOut", "p <= View(o).low + Window", "TRUE"),
    ),
    _bug(
        "quick-seek",
        "OldGenerationCounts",
        "NothingSkipped",
        "an ACK from before a SEEK is committed after it",
        Patch(
            "Step",
            "IF record.generation = state.generation THEN Join(state, record) ELSE state",
            "Join(state, record)",
        ),
    ),
    _bug(
        "liveness",
        "FormerOwnerKeepsLease",
        "a temporal property",
        "an owner that learns of its end keeps its lease",
        Patch("LoseLease", "lease[o] # 0", "lease[o] # 0 /\\ View(o).owner = o"),
    ),
    _bug(
        "full-seek",
        "OldGenerationCounts",
        "NothingSkipped",
        "an ACK from before a SEEK is committed after it",
        Patch(
            "Step",
            "IF record.generation = state.generation THEN Join(state, record) ELSE state",
            "Join(state, record)",
        ),
    ),
    _bug(
        "full-window",
        "SealWithoutGroups",
        "SealHandsOn",
        "a Seal leaves out what is done and what is out",
        Patch(
            "ProposeSeal",
            "done |-> View(o).done \\cup Of(o, noted[o]), out |-> out[o]",
            "done |-> {}, out |-> {}",
        ),
    ),
)

PROBES = (
    _probe("quick-owners", "ProbeRedelivery", "an entry is out at two owners"),
    _probe("quick-owners", "ProbeStaleOwner", "an owner serves that was replaced"),
    _probe("quick-owners", "ProbeServesAtOnce", "a successor serves beside a predecessor that sealed"),
    _probe("quick-owners", "ProbeHandedOn", "a Seal hands on what is out"),
    _probe("quick-holes", "ProbeHole", "a later entry is done before an earlier one"),
    _probe("quick-seek", "ProbeGoesBack", "a SEEK goes back behind what was promised"),
    _probe("quick-holes", "ProbeGivenUp", "an entry goes to the dead-letter topic"),
)
