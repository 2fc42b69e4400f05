"""Bugs planted in Publish.tla, each with the configuration that must refuse it, and probes."""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"publish-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"publish-{config}", name=name, about=about)


_RECOVERED = "TableAfter(begun[s], s, SubSeq(log[s], 1, n), 1)"

PLANTED = (
    _bug(
        "quick-failover",
        "SealWithoutTable",
        "NoDuplicateAppend",
        "a Seal hands on no table: a number that comes again is a new producer's",
        Patch("SealWithTable", "Ended(Len(log[s]), table[s])", "Ended(Len(log[s]), EmptyTable)"),
    ),
    _bug(
        "quick-failover",
        "RecoveryForgetsTail",
        "NoDuplicateAppend",
        "a recovery computes the table of what was acknowledged, and keeps more",
        Patch("RecoverWithTable", _RECOVERED, "TableAfter(begun[s], s, SubSeq(log[s], 1, acked[s]), 1)"),
    ),
    _bug(
        "quick-failover",
        "RecoveryTakesWritersTable",
        "NumbersWithoutGap",
        "a recovery takes over the table of a copy that is longer than what it keeps",
        Patch("RecoverWithTable", _RECOVERED, "table[s]"),
    ),
    _bug(
        "quick-failover",
        "RepeatBeforeCommit",
        "RepeatOkImpliesAcked",
        "a repetition is answered although its entry is not acknowledged",
        Patch("Repeat", "known.segment = s => known.end <= acked[s]", "TRUE"),
    ),
    _bug(
        "quick-failover",
        "DropsWhileUnderWay",
        "NoDuplicateAppend",
        "a producer is dropped while something of it is under way, and that is taken for a new one's",
        Patch("Drop", "dropped' = dropped \\cup {p}", "UNCHANGED dropped"),
    ),
    _bug(
        "quick-failover",
        "TakesGaps",
        "NumbersWithoutGap",
        "a number is appended although an earlier one is missing",
        Patch("PubAppend", "f[2] = known.next", "f[2] >= known.next"),
    ),
    _bug(
        "full-segments",
        "RecoveryForgetsTheSeal",
        "NoDuplicateAppend",
        "a recovery computes the table of its segment alone",
        Patch("RecoverWithTable", "TableAfter(begun[s],", "TableAfter(EmptyTable,"),
    ),
    _bug(
        "liveness",
        "AnswersItsOwnOnly",
        "a temporal property",
        "a writer answers repetitions of what it appended itself, and of nothing that it was handed",
        Patch(
            "Repeat",
            "known.segment = s => known.end <= acked[s]",
            "known.segment = s /\\ known.end <= acked[s]",
        ),
    ),
    _bug(
        "liveness",
        "AcknowledgesWithTheNext",
        "a temporal property",
        "an entry is acknowledged once there is another one behind it",
        Patch("Ack", "n <= Len(log[s])", "n < Len(log[s])"),
    ),
)

PROBES = (
    _probe(
        "quick-failover",
        "ProbeRepeatAfterRecovery",
        "an entry that only a recovery kept is answered as a repetition",
    ),
    _probe("liveness", "ProbeRepeatAfterRecovery", "an entry that only a recovery kept is answered at last"),
    _probe("quick-failover", "ProbeLostAndSentAgain", "an entry that a recovery lost is appended again"),
    _probe("quick-failover", "ProbeDroppedComesBack", "a recovery brings back a producer that was dropped"),
)
