"""Recorded runs of work queues, corrupted: each kind is a step that DeliveryTrace.tla must refuse.

As in `corruptions.py`, a kind is a function of a run and a source of randomness. It picks a place that suits
it and returns the run as it would have been recorded then, or None where no place suits it. As in
`corruptions_raft.py` there is no second judge: a kind picks only places at which the result is impossible.

    hands out    an entry that is acknowledged, that is out, or that is beyond the window
    answers      an ACK before its commit; an ACK at a former owner
    takes        an ACK of an entry that was never handed out, or from before a SEEK; a return of an entry
                 that is not out
    commits      a mark past a hole; an entry that no consumer acknowledged; less than was done; a SEEK of
                 another generation; another state at one node
    seals        without the entries that are out or noted
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeAlias

from walrus.tlc.corrupting import Corruption, changed, inserted, pick, those
from walrus.tlc.trace_spec import Event

Entry: TypeAlias = tuple[int, int]
"""(segment, offset)"""


def _far(run: list[Event]) -> int:
    """Return an offset beyond the entries of every topic: no entry is there."""
    counts = {
        (event["topic"], event["segment"]): event["count"] for event in run if event.get("op") == "Seal"
    }
    lengths = [event["count"] for event in run if event["ev"] == "LeaderAppend"]
    total: int = sum(counts.values()) + sum(lengths)
    return total + 1


def _entries(event: Event) -> set[Entry]:
    """Return the entries that a step is about."""
    if event["ev"] == "Answer":
        return {(segment, at) for segment, start, end in event["entries"] for at in range(start, end)}
    return {(event["segment"], event["start"] + at) for at in range(event["count"])}


def _states(event: Event) -> list[list[Any]]:
    """Return the group states in an applied command: [group, generation, segment, offset, runs]."""
    told = event.get("groups", []) if event["ev"] == "Apply" else []
    return [one[1:] for one in told] if event.get("op") != "Seal" else told


def _covers(state: Sequence[Any], entry: Entry) -> bool:
    _, _, segment, offset, above = state
    return entry < (segment, offset) or any(entry[0] == at and a <= entry[1] < b for at, a, b in above)


def _is_of(event: Event, node: int) -> bool:
    """Return whether this node applies a command there that has a group's state."""
    return event.get("node") == node and bool(_states(event))


def _acted(run: list[Event], generation: int) -> set[Entry]:
    """Return the entries that an owner considered done in that generation."""
    places = those(run, "AckEntry", "NoteDead", "StepOver")
    return {
        entry for place in places if run[place]["generation"] == generation for entry in _entries(run[place])
    }


# --- what is handed out ------------------------------------------------------------------------------------


def received_again(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry is received again after the OK to its ACK, at any owner."""
    fitting = []
    for place in those(run, "Answer"):
        promised = run[place]
        same = ("topic", "group", "generation")
        later = [
            at
            for at in those(run, "Receive")
            if at > place and all(run[at][name] == promised[name] for name in same)
        ]
        fitting += [(promised, at) for at in (later if promised["entries"] else [])]
    chosen = pick(fitting, rng)
    if chosen is None:
        return None
    promised, at = chosen
    segment, start, _ = promised["entries"][0]
    return inserted(run, at, {**run[at], "segment": segment, "start": start, "count": 1})


def handed_out_twice(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry that is out is handed out to another consumer."""
    place = pick(those(run, "Receive"), rng)
    return None if place is None else inserted(run, place + 1, run[place])


def beyond_the_window(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry far above the mark is handed out."""
    place = pick(those(run, "Receive"), rng)
    return None if place is None else changed(run, place, start=run[place]["start"] + _far(run), count=1)


# --- what is answered --------------------------------------------------------------------------------------


def answered_before_the_commit(run: list[Event], rng: Random) -> list[Event] | None:
    """The OK to an ACK leaves when its entry is noted, before the node has applied the commit."""
    fitting = []
    for place in those(run, "Answer"):
        node, generation = run[place]["node"], run[place]["generation"]
        for entry in _entries(run[place]):
            noted = [
                at
                for at in those(run, "AckEntry")
                if at < place and run[at]["node"] == node and entry in _entries(run[at])
            ]
            if not noted or run[noted[0]]["generation"] != generation:
                continue
            told = [state for event in run[: noted[0]] if _is_of(event, node) for state in _states(event)]
            if not any(_covers(state, entry) for state in told):
                fitting.append((place, noted[0]))
    chosen = pick(fitting, rng)
    if chosen is None:
        return None
    place, after = chosen
    return [*run[: after + 1], run[place], *run[after + 1 : place], *run[place + 1 :]]


def answered_by_a_former_owner(run: list[Event], rng: Random) -> list[Event] | None:
    """A node answers an ACK after it has applied the Seal that ended its ownership; the entry is done."""
    fitting = []
    for place in those(run, "Seal"):
        node, ended = run[place]["node"], run[place]["segment"]
        led = any(
            event.get("op") == "Seal" and (event["node"], event["segment"]) == (node, ended - 1)
            for event in run[:place]
            if event.get("leader") == node
        )
        for group, generation, segment, offset, above in _states(run[place]):
            done = [[segment, 0, offset]] if offset else [list(one) for one in above[:1]]
            if led and run[place]["leader"] != node and done:
                answer = {"generation": generation, "entries": done, "topic": run[place]["topic"]}
                fitting.append((place, {"ev": "Answer", "node": node, "group": group, **answer}))
    chosen = pick(fitting, rng)
    return None if chosen is None else inserted(run, chosen[0] + 1, chosen[1])


# --- what is taken -----------------------------------------------------------------------------------------


def acknowledged_unseen(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry is acknowledged that was never handed out."""
    place = pick(those(run, "AckEntry"), rng)
    return None if place is None else changed(run, place, start=run[place]["start"] + _far(run))


def receipt_of_before_the_seek(run: list[Event], rng: Random) -> list[Event] | None:
    """An ACK, a Receive or a Return is of a generation that is over."""
    places = [at for at in those(run, "AckEntry", "Receive", "Answer") if run[at]["generation"] > 0]
    fitting = [at for at in places if run[at]["ev"] != "Answer" or run[at]["entries"]]
    place = pick(fitting, rng)
    return None if place is None else changed(run, place, generation=run[place]["generation"] - 1)


def returned_twice(run: list[Event], rng: Random) -> list[Event] | None:
    """The timeout ends of an entry that is not out."""
    place = pick(those(run, "Return"), rng)
    return None if place is None else inserted(run, place + 1, run[place])


# --- what is committed -------------------------------------------------------------------------------------


def _told_otherwise(run: list[Event], place: int, state: list[Any]) -> list[Event]:
    """Return the run in which all nodes record another group state after the command at that place."""
    index, topic = run[place]["index"], run[place]["groups"][0][0]
    changed = []
    for event in run:
        same = event["ev"] == "Apply" and event["index"] == index and event["op"] == run[place]["op"]
        changed.append({**event, "groups": [[topic, *state]]} if same else event)
    return changed


def _commits(run: list[Event], op: str = "CommitGroups") -> list[tuple[int, list[Any]]]:
    """Return the places at which a command on one group is first applied, and the state that it has."""
    found, last = [], 0
    for place in those(run, "CommitGroups", "MoveGroup", "Seal"):
        if run[place]["index"] > last:
            last = run[place]["index"]
            if run[place]["op"] == op and len(run[place]["groups"]) == 1:
                found.append((place, _states(run[place])[0]))
    return found


def mark_past_a_hole(run: list[Event], rng: Random) -> list[Event] | None:
    """The mark passes an entry that no consumer has acknowledged, to the end of what is done above it."""
    fitting = []
    for place, (group, generation, segment, offset, above) in _commits(run):
        if above and (segment, offset) not in _acted(run[:place], generation):
            fitting.append((place, [group, generation, above[-1][0], above[-1][2], []]))
    chosen = pick(fitting, rng)
    return None if chosen is None else _told_otherwise(run, *chosen)


def committed_unasked(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry is done that no consumer has acknowledged."""
    far = _far(run)
    fitting = [
        (place, [group, generation, segment, offset, [*above, [segment, far, far + 1]]])
        for place, (group, generation, segment, offset, above) in _commits(run)
    ]
    chosen = pick(fitting, rng)
    return None if chosen is None else _told_otherwise(run, *chosen)


def forgets_what_was_done(run: list[Event], rng: Random) -> list[Event] | None:
    """A commit forgets what an earlier one has: the mark goes back to the beginning.

    A group's first commit may be without anything that it had: what it says may be committed later.
    """
    fitting, known = [], set[tuple[str, str]]()
    for place, state in _commits(run):
        topic, group, *_ = run[place]["groups"][0]
        if state[1] == 0 and (state[3] or state[4]):
            if (topic, group) in known:
                fitting.append((place, [state[0], state[1], 1, 0, []]))
            known.add((topic, group))
    chosen = pick(fitting, rng)
    return None if chosen is None else _told_otherwise(run, *chosen)


def seek_of_another_generation(run: list[Event], rng: Random) -> list[Event] | None:
    """A SEEK skips a generation, as if it had been made for another one.

    Only a SEEK that moved the group: one that came too late may be the one that moved it, to the same place.
    """
    fitting, known = [], dict[tuple[str, str], int]()
    for place, (group, generation, *rest) in _commits(run, "MoveGroup"):
        key = (run[place]["groups"][0][0], group)
        if generation > known.get(key, 0):
            fitting.append((place, [group, generation + 1, *rest]))
        known[key] = generation
    chosen = pick(fitting, rng)
    return None if chosen is None else _told_otherwise(run, *chosen)


def another_state(run: list[Event], rng: Random) -> list[Event] | None:
    """One node applies a command and gets another state than the others."""
    places = [at for at in those(run, "CommitGroups", "MoveGroup") if len(run[at]["groups"]) == 1]
    place = pick(places, rng)
    if place is None:
        return None
    topic, group, generation, segment, offset, above = run[place]["groups"][0]
    return changed(run, place, groups=[[topic, group, generation, segment, offset + _far(run), above]])


# --- seals -------------------------------------------------------------------------------------------------


def seals_without_groups(run: list[Event], rng: Random) -> list[Event] | None:
    """A healthy Seal forgets the entries that are out and those that are noted."""
    fitting = [
        at
        for at in those(run, "ProposeSeal")
        if any(out for _, out in run[at]["handed"]) or any(state[4] for state in run[at]["groups"])
    ]
    place = pick(fitting, rng)
    return None if place is None else changed(run, place, groups=[], handed=[])


DELIVERY_KINDS: Final[dict[str, Corruption]] = {
    kind.__name__: kind
    for kind in (
        *(received_again, handed_out_twice, beyond_the_window),
        *(answered_before_the_commit, answered_by_a_former_owner),
        *(acknowledged_unseen, receipt_of_before_the_seek, returned_twice),
        *(
            mark_past_a_hole,
            committed_unasked,
            forgets_what_was_done,
            seek_of_another_generation,
            another_state,
        ),
        seals_without_groups,
    )
}
"""The kinds by name."""
