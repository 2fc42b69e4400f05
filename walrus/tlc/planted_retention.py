"""Bugs planted in Retention.tla, each with the configuration that must refuse it, and probes."""

from __future__ import annotations

from walrus.tlc.patches import Patch
from walrus.tlc.planted import Planted, Probe


def _bug(config: str, name: str, expected: str, about: str, *patches: Patch) -> Planted:
    return Planted(config=f"retention-{config}", name=name, expected=expected, about=about, patches=patches)


def _probe(config: str, name: str, about: str) -> Probe:
    return Probe(config=f"retention-{config}", name=name, about=about)


_COMPARES_FIRST = "/\\ from = state.first"
_SPARES_THE_OPEN = "/\\ first <= state.current                       "
_LOOKS_AT_GROUPS = "/\\ ~Protect \\/ first <= state.mark              "

PLANTED = (
    _bug(
        "quick-lives",
        "TrimsTheOpen",
        "TrimmedIsSealed",
        "a Trim takes the open segment, too",
        Patch("MayTrim", _SPARES_THE_OPEN, "/\\ first <= state.current + 1                   "),
    ),
    _bug(
        "quick-lives",
        "TrimWithoutCompare",
        "TrimmedStaysTrimmed",
        "a late Trim brings segments back",
        Patch("MayTrim", _COMPARES_FIRST, ""),
        Patch("MayTrim", "/\\ from < first", "/\\ first >= state.born"),
    ),
    _bug(
        "quick-lives",
        "NoTombstone",
        "TrimmedStaysTrimmed",
        "a topic that is registered anew begins with segment 1 again",
        Patch("Ended", "!.next = state.current + 1", "!.next = 1"),
    ),
    _bug(
        "quick-lives",
        "DeleteWithoutFence",
        "NoAckAfterDelete",
        "a DELETE removes the topic at once, and its writer goes on acknowledging",
        Patch("Deleted", "[state EXCEPT !.deleting = TRUE]", "Ended(state)"),
    ),
    _bug(
        "quick-lives",
        "SealsWithoutStop",
        "NoAckAfterDelete",
        "a topic that is to be deleted is sealed though its writer has not stopped and no majority is fenced",
        Patch("Seal", "/\\ Committed.current \\in stopped", ""),
    ),
    _bug(
        "quick-lives",
        "RegistersBeforeTheEnd",
        "NoAckAfterDelete",
        "a name is registered anew although the topic that is to be deleted is not sealed",
        Patch(
            "Registered",
            "IF ~IsThere(state) /\\ command.number = state.next",
            "IF (state.deleting /\\ command.number = state.current + 1)\n"
            "       \\/ (~IsThere(state) /\\ command.number = state.next)",
        ),
        Patch(
            "Registered",
            "!.born = state.next, !.first = state.next, !.current = state.next",
            "!.born = command.number, !.first = command.number, !.current = command.number",
        ),
        Patch("Registered", "!.mark = state.next", "!.mark = command.number, !.deleting = FALSE"),
    ),
    _bug(
        "quick-lives",
        "RegisterWithoutCompare",
        "OnlyWhatWasMeant",
        "a late REGISTER brings a deleted topic back",
        Patch("Registered", "~IsThere(state) /\\ command.number = state.next", "~IsThere(state)"),
        Patch("AskToRegister", "/\\ Committed.life < MaxLives", "/\\ Committed.life = 0"),
    ),
    _bug(
        "quick-lives",
        "DeleteWithoutCompare",
        "OnlyWhatWasMeant",
        "a late DELETE takes the next topic of that name",
        Patch("Deleted", "IsThere(state) /\\ command.number = state.born", "IsThere(state)"),
    ),
    _bug(
        "quick-lives",
        "KeepsCopies",
        "SpaceIsGivenBack",
        "a replica keeps the copies of segments that were trimmed",
        Patch("Apply", "IF n \\in Retained(history[2]) THEN copy[n] ELSE 0", "copy[n]"),
    ),
    _bug(
        "quick-lives",
        "CountsNothing",
        "SkippedIsCounted",
        "a group's mark jumps and nothing says so",
        Patch("TrimmedTo", "!.skipped = @ + (Max(state.mark, first) - state.mark)", "!.skipped = @"),
    ),
    _bug(
        "quick-lives",
        "MarkStays",
        "MarkInBounds",
        "a group stays at what was trimmed",
        Patch("TrimmedTo", "!.mark = Max(@, first),", ""),
    ),
    _bug(
        "quick-protect",
        "TrimsWhatIsNotDone",
        "ProtectedUntilAcked",
        "whether groups are done is asked when a Trim is proposed, and not where it is applied",
        Patch("MayTrim", _LOOKS_AT_GROUPS, ""),
    ),
    _bug(
        "quick-seek",
        "OldSeekCounts",
        "OnlyWhatWasMeant",
        "a SEEK of a deleted topic moves the group of the next one",
        Patch("Moved", "/\\ command.number >= state.born", ""),
    ),
    _bug(
        "quick-seek",
        "SeekBelow",
        "MarkInBounds",
        "a SEEK goes to what is trimmed",
        Patch("Moved", "!.mark = Max(command.number, state.first)", "!.mark = command.number"),
    ),
    _bug(
        "full-lives",
        "NoTombstone",
        "TrimmedStaysTrimmed",
        "a topic that is registered anew begins with segment 1 again",
        Patch("Ended", "!.next = state.current + 1", "!.next = 1"),
    ),
    _bug(
        "full-protect",
        "TrimsWhatIsNotDone",
        "ProtectedUntilAcked",
        "whether groups are done is asked when a Trim is proposed, and not where it is applied",
        Patch("MayTrim", _LOOKS_AT_GROUPS, ""),
    ),
    _bug(
        "liveness",
        "PlansFromTheBeginning",
        "a temporal property",
        "a Trim is planned from where the topic began, not from where it begins now",
        Patch("TrimPlanned", "Trim(Committed.first,", "Trim(Committed.born,"),
    ),
    _bug(
        "liveness",
        "SparesTheNewest",
        "a temporal property",
        "the newest sealed segment is taken for the open one",
        Patch("MayTrim", _SPARES_THE_OPEN, "/\\ first < state.current                        "),
    ),
    _bug(
        "liveness",
        "WaitsForOneMore",
        "a temporal property",
        "a group protects the last segment that it is done with",
        Patch("MayTrim", _LOOKS_AT_GROUPS, "/\\ ~Protect \\/ first < state.mark               "),
    ),
    _bug(
        "liveness",
        "DeleteComparesTheFirst",
        "a temporal property",
        "a DELETE is compared with where the topic begins now: once it was trimmed, none fits",
        Patch("Deleted", "command.number = state.born", "command.number = state.first"),
    ),
    _bug(
        "liveness",
        "DeletedGoesOn",
        "a temporal property",
        "the Seal of a topic that is to be deleted opens the next segment, as that of any other",
        Patch("SealedOne", "IF state.deleting THEN Ended(state) ELSE", ""),
        Patch(
            "Seal", "Committed.deleting \\/ Committed.current < MaxNumber", "Committed.current < MaxNumber"
        ),
    ),
    _bug(
        "liveness",
        "StopsAtDelete",
        "a temporal property",
        "a replica does not get past the DELETE of a topic that it has copies of",
        Patch("Apply", "/\\ Len(history) > 1", "/\\ Len(history) > 1 /\\ IsThere(history[2])"),
    ),
    _bug(
        "full-idle",
        "ProtectsUnasked",
        "a temporal property",
        "a group that is idle holds up the retention of a topic without protect_groups",
        Patch("MayTrim", _LOOKS_AT_GROUPS, "/\\ first <= state.mark                          "),
    ),
)

PROBES = (
    _probe("quick-lives", "ProbeTrims", "a segment is trimmed"),
    _probe("quick-lives", "ProbeSecondLife", "a topic is registered anew after a DELETE"),
    _probe("quick-lives", "ProbeMissed", "a group misses a segment"),
    _probe("quick-lives", "ProbeOldFrame", "a frame of a deleted topic is on its way to the next one"),
)
