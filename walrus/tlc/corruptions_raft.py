"""Recorded runs of Raft, corrupted: each kind is a step that no server may take. RaftTrace.tla refuses it.

As in `corruptions.py`, a kind is a function of a run and a source of randomness. It picks a place that suits
it and returns the run as it would have been recorded then, or None where no place suits it. There is no
second judge here: a kind picks only places at which the result is impossible, and its docstring says why. A
place does not suit where the result could still be a legal run, as at the last event of a server, whose
state no later event contradicts.

    terms and votes   a term that goes back; a vote given twice, to a candidate that never asked, or counted
                      and not given; a second leader; a leader without its majority
    logs              a gap, another server's entries, an entry that changes below the commit index, a
                      leader's entry written twice, a request with another effect
    commits           a commit index ahead of what was heard, ahead of the log, or behind its former value
    answers           of a server that never received the request, or that has less
    membership        two servers at once; before the leader has committed in its term
    snapshots         of what is not committed; of more than the leader had
    restarts          with less than was durable, without the vote, in an older term
    any event         a missing step on which the server's next event depends; another state after a step
"""

from __future__ import annotations

from random import Random
from typing import Final

from walrus.tlc.corrupting import Corruption, changed, inserted, pick, those
from walrus.tlc.trace_spec import Event

STATE: Final = ("current_term", "commit_index", "last_log_index", "last_log_term")
LASTING: Final = ("UpdateTerm", "BecomeLeader", "ClientRequest", "AdvanceCommitIndex", "LearnCommitIndex")
"""Events after which the state that a server records is different."""


def _next_of(run: list[Event], place: int) -> Event | None:
    """Return the next event of the same server."""
    return next((event for event in run[place + 1 :] if event["node"] == run[place]["node"]), None)


def _before(run: list[Event], place: int) -> Event | None:
    """Return the previous event of the same server."""
    node = run[place]["node"]
    return next((event for event in reversed(run[:place]) if event["node"] == node), None)


def _lives_on(run: list[Event], place: int) -> bool:
    """Return whether a later event of the same process records its state."""
    after = _next_of(run, place)
    return after is not None and after["ev"] != "Restart"


def _persisted(run: list[Event], place: int) -> Event | None:
    """Return the server's last Persist before this event in the same process: what was durable."""
    node = run[place]["node"]
    for event in reversed(run[:place]):
        if event["node"] == node and event["ev"] in ("Persist", "Restart"):
            return event if event["ev"] == "Persist" else None
    return None


# --- terms and votes --------------------------------------------------------------------------------------


def term_goes_back(run: list[Event], rng: Random) -> list[Event] | None:
    """A server is in an older term than before, which only a restart explains."""
    fitting = []
    for here in range(len(run)):
        before = _before(run, here)
        kept = before is not None and before["current_term"] == run[here]["current_term"] > 0
        if kept and run[here]["ev"] != "Restart":
            fitting.append(here)
    place = pick(fitting, rng)
    return None if place is None else changed(run, place, current_term=run[place]["current_term"] - 1)


def _granted(run: list[Event]) -> list[int]:
    return [place for place in those(run, "HandleRequestVoteRequest") if run[place]["granted"]]


def vote_given_twice(run: list[Event], rng: Random) -> list[Event] | None:
    """A server that has voted votes for another one in the same term."""
    place = pick(_granted(run), rng)
    if place is None:
        return None
    others = {event["node"] for event in run} - {run[place]["node"], run[place]["sender"]}
    if not others:
        return None
    return inserted(run, place + 1, {**run[place], "sender": sorted(others)[rng.randrange(len(others))]})


def vote_unasked(run: list[Event], rng: Random) -> list[Event] | None:
    """A server votes for a server that has not campaigned in that term."""
    place = pick(_granted(run), rng)
    if place is None:
        return None
    term = run[place]["current_term"]
    stood = {event["node"] for event in run if event["ev"] == "Timeout" and event["current_term"] == term}
    others = sorted({event["node"] for event in run} - stood - {run[place]["node"]})
    return changed(run, place, sender=others[rng.randrange(len(others))]) if others else None


def vote_counted_unseen(run: list[Event], rng: Random) -> list[Event] | None:
    """A candidate counts the vote of a server that never heard of the election."""
    fitting = []
    for here in those(run, "HandleRequestVoteResponse"):
        gave = (run[here]["sender"], run[here]["current_term"])
        voted = [at for at in _granted(run) if (run[at]["node"], run[at]["current_term"]) == gave]
        if run[here]["granted"] and voted:
            fitting.append(here)
    place = pick(fitting, rng)
    if place is None:
        return None
    who, term = run[place]["sender"], run[place]["current_term"]
    return [
        event
        for event in run
        if not (
            event["ev"] == "HandleRequestVoteRequest"
            and (event["node"], event["current_term"]) == (who, term)
        )
    ]


def second_leader(run: list[Event], rng: Random) -> list[Event] | None:
    """Another server leads in the same term."""
    place = pick(those(run, "BecomeLeader"), rng)
    if place is None:
        return None
    leader = run[place]["node"]
    others = [
        at
        for at in range(place + 1, len(run))
        if run[at]["node"] != leader and run[at]["current_term"] == run[place]["current_term"]
    ]
    if not others:
        return None
    at = others[rng.randrange(len(others))]
    return inserted(run, at + 1, {**run[at], "ev": "BecomeLeader", "role": "Leader"})


def elected_by_too_few(run: list[Event], rng: Random) -> list[Event] | None:
    """The answer that made a leader never came, so it leads without a majority."""
    fitting = []
    for here in those(run, "BecomeLeader"):
        before = _before(run, here)
        if before is not None and before["ev"] == "HandleRequestVoteResponse" and before["granted"]:
            fitting.append(max(at for at in range(here) if run[at] is before))
    place = pick(fitting, rng)
    return None if place is None else run[:place] + run[place + 1 :]


# --- logs -------------------------------------------------------------------------------------------------


def entries_of_no_leader(run: list[Event], rng: Random) -> list[Event] | None:
    """Entries come from a server that does not lead the term."""
    place = pick(those(run, "AcceptAppendEntriesRequest", "InstallSnapshot"), rng)
    if place is None:
        return None
    others = sorted({event["node"] for event in run} - {run[place]["node"], run[place]["sender"]})
    return changed(run, place, sender=others[rng.randrange(len(others))]) if others else None


def gap(run: list[Event], rng: Random) -> list[Event] | None:
    """A request is accepted whose predecessor is beyond the follower's log."""
    fitting = []
    for here in those(run, "AcceptAppendEntriesRequest"):
        if _before(run, here) is not None:
            fitting.append(here)
    place = pick(fitting, rng)
    if place is None:
        return None
    before = _before(run, place)
    assert before is not None
    prev = before["last_log_index"] + 1
    last = max(run[place]["match_index"], prev)
    return changed(run, place, prev_log_index=prev, match_index=last)


def another_effect(run: list[Event], rng: Random) -> list[Event] | None:
    """A request adds or cuts off another number of entries than it did, also below the commit index."""
    place = pick(those(run, "AcceptAppendEntriesRequest"), rng)
    if place is None:
        return None
    return changed(run, place, added=run[place]["added"] + 1 + rng.randrange(2))


def changed_below_commit(run: list[Event], rng: Random) -> list[Event] | None:
    """A request replaces an entry that its follower knows to be committed."""
    fitting = []
    for here in those(run, "AcceptAppendEntriesRequest"):
        if 1 < run[here]["commit_index"] <= run[here]["last_log_index"]:
            fitting.append(here)
    place = pick(fitting, rng)
    if place is None:
        return None
    event = run[place]
    index = event["commit_index"]
    again = {**event, "prev_log_index": index - 1, "match_index": index, "added": 1, "last_log_index": index}
    return inserted(run, place + 1, again)


def appended_twice(run: list[Event], rng: Random) -> list[Event] | None:
    """A leader writes an entry of its log again."""
    place = pick(those(run, "ClientRequest"), rng)
    return None if place is None else inserted(run, place + 1, run[place])


# --- commits ----------------------------------------------------------------------------------------------


def committed_unheard(run: list[Event], rng: Random) -> list[Event] | None:
    """A leader commits before the answer, or its own write, that completes the majority."""
    fitting = []
    for place in those(run, "AdvanceCommitIndex"):
        before = _before(run, place)
        if before is not None and before["ev"] in ("HandleAppendEntriesResponse", "Persist"):
            at = max(at for at in range(place) if run[at] is before)
            if before["commit_index"] < run[place]["commit_index"]:
                fitting.append((at, place))
    if not fitting:
        return None
    at, place = fitting[rng.randrange(len(fitting))]
    early = {**run[at], "ev": "AdvanceCommitIndex", "commit_index": run[place]["commit_index"]}
    late = {**run[at], "commit_index": run[place]["commit_index"]}
    return [*run[:at], early, late, *run[at + 1 : place], *run[place + 1 :]]


def committed_beyond_the_log(run: list[Event], rng: Random) -> list[Event] | None:
    """A commit index is ahead of the log."""
    place = pick(those(run, "AdvanceCommitIndex", "LearnCommitIndex"), rng)
    return None if place is None else changed(run, place, commit_index=run[place]["last_log_index"] + 1)


def commit_goes_back(run: list[Event], rng: Random) -> list[Event] | None:
    """A commit index falls."""
    fitting = [
        place
        for place in range(len(run))
        if run[place]["ev"] != "Restart"
        and (before := _before(run, place)) is not None
        and 0 < before["commit_index"] <= run[place]["commit_index"]
    ]
    place = pick(fitting, rng)
    if place is None:
        return None
    before = _before(run, place)
    assert before is not None
    return changed(run, place, commit_index=before["commit_index"] - 1)


# --- answers ----------------------------------------------------------------------------------------------


def _answers(run: list[Event]) -> list[int]:
    return [
        place
        for place in those(run, "HandleAppendEntriesResponse")
        if run[place].get("success") and run[place]["match_index"] > 0
    ]


def answer_of_more(run: list[Event], rng: Random) -> list[Event] | None:
    """A follower claims to hold more than its leader has."""
    place = pick(_answers(run), rng)
    if place is None:
        return None
    return changed(run, place, match_index=run[place]["last_log_index"] + 1 + rng.randrange(2))


def answer_unreceived(run: list[Event], rng: Random) -> list[Event] | None:
    """A server answers for entries of the leader's term before it has received any."""
    fitting = []
    for place in _answers(run):
        leader, term = run[place]["node"], run[place]["current_term"]
        begun = [
            at
            for at in those(run, "ClientRequest")
            if (run[at]["node"], run[at]["current_term"], run[at]["kind"]) == (leader, term, "NOOP")
        ]
        if begun and begun[0] < place and run[place]["match_index"] >= run[begun[0]]["index"]:
            fitting.append((begun[0], place))
    if not fitting:
        return None
    begun_at, place = fitting[rng.randrange(len(fitting))]
    early = {
        **run[begun_at],
        "ev": "HandleAppendEntriesResponse",
        **{name: run[place][name] for name in ("sender", "match_index", "success")},
    }
    return inserted(run, begun_at + 1, early)


# --- membership -------------------------------------------------------------------------------------------


def two_at_once(run: list[Event], rng: Random) -> list[Event] | None:
    """A membership differs by two servers from the one before."""
    changes = [place for place in those(run, "ClientRequest") if run[place]["kind"] == "MEMBERSHIP"]
    place = pick(changes, rng)
    if place is None:
        return None
    voters, learners = set(run[place]["voters"]), set(run[place]["learners"])
    return changed(run, place, voters=sorted(voters ^ {7, 8}), learners=sorted(learners - {7, 8}))


def change_before_own_commit(run: list[Event], rng: Random) -> list[Event] | None:
    """A leader changes the membership before it has committed an entry of its own term."""
    first = [place for place in those(run, "ClientRequest") if run[place]["kind"] == "NOOP"]
    changes = [run[place] for place in those(run, "ClientRequest") if run[place]["kind"] == "MEMBERSHIP"]
    place = pick([at for at in first if run[at]["commit_index"] < run[at]["index"]], rng)
    if place is None or not changes:
        return None
    members = changes[rng.randrange(len(changes))]
    index = run[place]["index"] + 1
    change = {
        **run[place],
        **{name: members[name] for name in ("kind", "voters", "learners")},
        "index": index,
        "last_log_index": index,
    }
    return inserted(run, place + 1, change)


# --- snapshots --------------------------------------------------------------------------------------------


def snapshot_of_uncommitted(run: list[Event], rng: Random) -> list[Event] | None:
    """A snapshot covers more than is committed."""
    place = pick(those(run, "CompactLog"), rng)
    return None if place is None else changed(run, place, index=run[place]["commit_index"] + 1)


def snapshot_of_nothing(run: list[Event], rng: Random) -> list[Event] | None:
    """A server installs a snapshot of more than its leader ever had one of."""
    place = pick(those(run, "InstallSnapshot"), rng)
    if place is None:
        return None
    most = max(
        (event["index"] for event in run if event["ev"] in ("CompactLog", "InstallSnapshot")), default=0
    )
    return changed(run, place, index=most + 1, last_log_index=most + 1, commit_index=most + 1)


# --- restarts ---------------------------------------------------------------------------------------------


def _restarts(run: list[Event]) -> list[tuple[int, Event]]:
    return [(place, kept) for place in those(run, "Restart") if (kept := _persisted(run, place)) is not None]


def _at_one(fitting: list[int], run: list[Event], rng: Random, **less: str) -> list[Event] | None:
    place = pick(fitting, rng)
    if place is None:
        return None
    return changed(run, place, **{name: run[place][of] - 1 for name, of in less.items()})


def restart_with_less(run: list[Event], rng: Random) -> list[Event] | None:
    """A server comes back with fewer entries than were durable."""
    fitting = [at for at, kept in _restarts(run) if 1 < run[at]["last_log_index"] <= kept["persisted_index"]]
    return _at_one(fitting, run, rng, last_log_index="last_log_index")


def restart_in_an_older_term(run: list[Event], rng: Random) -> list[Event] | None:
    """A server comes back in an older term than was durable."""
    fitting = [at for at, kept in _restarts(run) if 0 < run[at]["current_term"] == kept["persisted_term"]]
    return _at_one(fitting, run, rng, current_term="current_term")


def restart_without_its_vote(run: list[Event], rng: Random) -> list[Event] | None:
    """A server comes back in the term of a durable vote, and has forgotten whom it voted for."""
    fitting = [
        at
        for at, kept in _restarts(run)
        if run[at]["voted_for"]
        and run[at]["current_term"] == kept["persisted_term"]
        and kept["persisted_vote"]
    ]
    place = pick(fitting, rng)
    return None if place is None else changed(run, place, voted_for=0)


# --- any event --------------------------------------------------------------------------------------------


def step_missing(run: list[Event], rng: Random) -> list[Event] | None:
    """A step is missing whose effect the server's next event shows."""
    fitting = []
    for here in those(run, *LASTING):
        before, after = _before(run, here), _next_of(run, here)
        if before is None or after is None or not _lives_on(run, here) or after["ev"] in LASTING:
            continue
        if any(before[name] != run[here][name] == after[name] for name in STATE):
            fitting.append(here)
    place = pick(fitting, rng)
    return None if place is None else run[:place] + run[place + 1 :]


def another_state(run: list[Event], rng: Random) -> list[Event] | None:
    """After a step a server is in another term, or its log ends elsewhere, than the step leads to."""
    fitting = [
        place
        for place in those(run, "Persist", "HandleAppendEntriesResponse", "HandleRequestVoteResponse")
        if _before(run, place) is not None
    ]
    place = pick(fitting, rng)
    if place is None:
        return None
    name = STATE[rng.randrange(len(STATE))]
    return changed(run, place, **{name: run[place][name] + (1, -1)[rng.randrange(2)]})


RAFT_KINDS: Final[dict[str, Corruption]] = {
    kind.__name__: kind
    for kind in (
        *(term_goes_back, vote_given_twice, vote_unasked, vote_counted_unseen, second_leader),
        *(elected_by_too_few, entries_of_no_leader, gap, another_effect, changed_below_commit),
        *(appended_twice, committed_unheard, committed_beyond_the_log, commit_goes_back, answer_of_more),
        *(answer_unreceived, two_at_once, change_before_own_commit, snapshot_of_uncommitted),
        *(snapshot_of_nothing, restart_with_less, restart_in_an_older_term, restart_without_its_vote),
        *(step_missing, another_state),
    )
}
"""The kinds by name."""
