"""Bugs planted in Order.tla, each with the configuration that must refuse it, and probes."""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"order-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"order-{config}", name=name, about=about)


_TAKES_TWICE = Patch("Take", "f.request > seen[Process(s)]", "TRUE")
_OVERTAKEN_GO_BACK = (
    Patch("Settle", "IF out.taken > 0 THEN returned ELSE <<>>", "<<>>"),
    Patch("Settle", "IF out.taken > 0 THEN <<>> ELSE returned", "returned"),
)

PLANTED = (
    _bug(
        "quick-rollover",
        "TakesOvertaken",
        "ProducerOrder",
        "a forward is taken although a later one was",
        Patch("Take", "f.request > seen[Process(s)]", "f.request # seen[Process(s)]"),
    ),
    _bug(
        "quick-rollover",
        "OvertakenGoBack",
        "AnsweredInOrder",
        "what a later forward has overtaken is sent again, behind it",
        *_OVERTAKEN_GO_BACK,
    ),
    _bug(
        "quick-rollover",
        "TakesBackEarly",
        "AnsweredInOrder",
        "what was handed back is sent again while later entries are on their way",
        Patch("TakeBack", "sent = <<>>", "TRUE"),
    ),
    _bug(
        "quick-rollover",
        "HandedBackGoesBehind",
        "ProducerOrder",
        "what was handed back goes behind what waits",
        Patch("TakeBack", "returned \\o waiting", "waiting \\o returned"),
    ),
    _bug("quick-rollover", "TakesTwice", "NoDuplicate", "a repeated forward is taken again", _TAKES_TWICE),
    _bug(
        "quick-rollover",
        "HandsBackWhatItTook",
        "NoDuplicate",
        "a forward that was written is handed back when it arrives again",
        Patch("HandBack", "f.request > seen[p]", "TRUE"),
    ),
    _bug(
        "quick-rollover",
        "SettlesTheUnknown",
        "NoDuplicate",
        "a forward without an outcome counts as handed back",
        Patch("Settle", "out.known", "TRUE"),
    ),
    _bug(
        "quick-rollover",
        "AnswersWhole",
        "AnswersAreTrue",
        "all of a forward is answered OK, of which a part was taken",
        Patch("Ack", "Reply(w.f, w.taken)", "Reply(w.f, Len(w.f.entries))"),
    ),
    _bug(
        "quick-rollover",
        "TakesWhileSealing",
        "AnswersAreTrue",
        "a sealing writer acknowledges what it does not append",
        Patch("Take", "log' = [log EXCEPT", "log' = IF s \\in sealing THEN log ELSE [log EXCEPT"),
        Patch("Take", "IF s \\in sealing THEN 0 ELSE ", ""),
        Patch("Take", "IF n = 0", "IF n = 0 \\/ s \\in sealing"),
        Patch("Take", "Reply(f, 0)}", "Reply(f, n)}"),
    ),
    _bug(
        "quick-unknown",
        "UnknownIsRefused",
        "AnswersAreTrue",
        "what was given up is reported as not written",
        Patch("Settle", 'ELSE "unknown"', 'ELSE "refused"'),
    ),
    _bug(
        "quick-unknown",
        "RetriesTheUnknown",
        "AnswersAreTrue",
        "what was given up is sent again",
        Patch(
            "GiveUp",
            "Unknown(Len(sent[i].entries))",
            "[taken |-> 0, acked |-> FALSE, refused |-> TRUE, known |-> TRUE]",
        ),
    ),
    _bug(
        "quick-unknown",
        "AnyoneHandsBack",
        "AnswersAreTrue",
        "a process hands back what was sent to another one's segment",
        Patch("HandBack", "Process(f.segment)", "Process(f.segment + 1)"),
    ),
    _bug(
        "quick-unknown",
        "ExpiresEarly",
        "AnsweredInOrder",
        "what waits is refused before what was sent is answered",
        Patch("Expire", "sent = <<>>", "TRUE"),
    ),
    _bug(
        "quick-unknown",
        "AnswersUnacknowledged",
        "AnswersAreTrue",
        "what was taken is answered before it is acknowledged",
        Patch("Take", "/\\ UNCHANGED replies", "/\\ replies' = replies \\cup {Reply(f, n)}"),
    ),
    _bug("full-return", "TakesTwice", "NoDuplicate", "a repeated forward is taken again", _TAKES_TWICE),
    _bug(
        "full-four",
        "OvertakenGoBack",
        "AnsweredInOrder",
        "what a later forward has overtaken is sent again, behind it",
        *_OVERTAKEN_GO_BACK,
    ),
)

PROBES = (
    _probe("quick-rollover", "ProbeHandedBack", "an entry that was handed back is acknowledged"),
    _probe("quick-rollover", "ProbeOvertaken", "a forward is overtaken on its way"),
    _probe("quick-rollover", "ProbeSplit", "a forward is taken in part"),
    _probe("quick-unknown", "ProbeUnknownWritten", "an entry of unknown outcome is in the log"),
    _probe("quick-unknown", "ProbeUnknownLost", "an entry of unknown outcome is not in the log"),
)
