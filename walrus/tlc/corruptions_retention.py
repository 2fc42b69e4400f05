"""Recorded runs of retention and deletion, corrupted: each is a step that RetentionTrace.tla must refuse.

As in `corruptions_delivery.py`, a kind picks only places at which the result is impossible.

    Trim          drops the open segment, moves back, drops what was trimmed before, drops what a protected
                  group is not done with, leaves a group behind; or does so at one node only
    lives         a topic begins with a number of an earlier one; a DELETE of an earlier one applies; a topic
                  ends that is not to be deleted, or does not end before its name is registered anew
    writers       a topic ends though its writer has not stopped; one appends what is acknowledged after that
    a replica     hands out, takes or keeps what is dropped
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final

from walrus.tlc.corrupting import Corruption, everywhere, firsts, inserted, pick, those
from walrus.tlc.trace_spec import Event

# --- Trim --------------------------------------------------------------------------------------------------


def trims_the_open_segment(run: list[Event], rng: Random) -> list[Event] | None:
    """A Trim drops the open segment, too."""
    fitting = []
    for place in firsts(run, "Trim"):
        topic = run[place]["topic"]
        seals = [at for at in firsts(run[:place], "Seal") if run[at]["topic"] == topic]
        if seals:
            fitting.append((place, run[seals[-1]]["segment"] + 2))
    chosen = pick(fitting, rng)
    return None if chosen is None else everywhere(run, chosen[0], first=chosen[1])


def trim_moves_back(run: list[Event], rng: Random) -> list[Event] | None:
    """A Trim makes an earlier segment the first."""
    place = pick(firsts(run, "Trim"), rng)
    return None if place is None else everywhere(run, place, first=run[place]["old"])


def trim_that_came_late(run: list[Event], rng: Random) -> list[Event] | None:
    """A Trim is applied that was made for an earlier first segment."""
    place = pick(firsts(run, "Trim"), rng)
    return None if place is None else everywhere(run, place, old=run[place]["old"] - 1)


def trimmed_at_one_node(run: list[Event], rng: Random) -> list[Event] | None:
    """A node applies the same Trim, and has another first segment than the others."""
    place = pick(sorted({*those(run, "Trim")} - {*firsts(run, "Trim")}), rng)
    if place is None or not _has_more(run, place):
        return None
    return [*run[:place], {**run[place], "first": run[place]["first"] + 1}, *run[place + 1 :]]


def _has_more(run: list[Event], place: int) -> bool:
    """Return whether the process that applies the command has, or reads, something of the topic."""
    node, topic = run[place]["node"], run[place]["topic"]
    life: list[Event] = []
    for at, event in enumerate(run):
        if event.get("node") == node and event["ev"] == "Restart" and "current_term" not in event:
            if at > place:
                break
            life.clear()
        life.append(event)
    steps = ("ReplicaAppend", "LeaderAppend", "Drop", "HandOut", "CopyTail")
    return any(one.get("node") == node and one["ev"] in steps and one.get("topic") == topic for one in life)


def _positions(run: list[Event], place: int) -> Iterator[tuple[int, int]]:
    """Yield (segment, offset) of the groups that read with GET, as the Trim there found them."""
    at: dict[tuple[str, str], tuple[int, int]] = {}
    for event in run[:place]:
        if event["ev"] == "Apply" and event["op"] in ("CommitCursors", "Seal", "Trim"):
            at |= {(topic, group): (segment, offset) for topic, group, segment, offset in event["cursors"]}
        if event.get("op") == "EndTopic":
            at = {key: position for key, position in at.items() if key[0] != event["topic"]}
    yield from (position for key, position in at.items() if key[0] == run[place]["topic"])


def trims_what_is_protected(run: list[Event], rng: Random) -> list[Event] | None:
    """A Trim drops entries that a group has not read although protect_groups is set."""
    fitting = []
    counts = {(run[at]["topic"], run[at]["segment"]): run[at]["count"] for at in those(run, "Seal")}
    for place in firsts(run, "Trim"):
        topic, first = run[place]["topic"], run[place]["first"]
        sets = [
            at for at in firsts(run[:place], "RegisterTopic", "ConfigureTopic") if run[at]["topic"] == topic
        ]
        behind = [at for at, offset in _positions(run, place) if at < first and offset < counts[topic, at]]
        if sets and behind:
            fitting.append(sets[-1])
    chosen = pick(fitting, rng)
    return None if chosen is None else everywhere(run, chosen, protects=True)


def trim_leaves_a_group_behind(run: list[Event], rng: Random) -> list[Event] | None:
    """A group stays in a trimmed segment."""
    fitting = [at for at in firsts(run, "Trim") if run[at]["cursors"]]
    place = pick(fitting, rng)
    if place is None:
        return None
    cursors = [[topic, group, run[place]["old"], 0] for topic, group, *_ in run[place]["cursors"]]
    return everywhere(run, place, cursors=cursors)


# --- lives -------------------------------------------------------------------------------------------------


def begins_with_an_old_number(run: list[Event], rng: Random) -> list[Event] | None:
    """A topic that is registered after a DELETE begins with a number that the deleted one had."""
    fitting = [place for place in firsts(run, "RegisterTopic") if run[place]["number"] > 1]
    place = pick(fitting, rng)
    return None if place is None else everywhere(run, place, number=run[place]["number"] - 1)


def deletes_the_next_topic(run: list[Event], rng: Random) -> list[Event] | None:
    """A DELETE that was made for an earlier topic of that name deletes this one."""
    fitting = [place for place in firsts(run, "DeleteTopic") if run[place]["born"] > 1]
    place = pick(fitting, rng)
    return None if place is None else everywhere(run, place, born=run[place]["born"] - 1)


def _undone(run: list[Event], place: int) -> list[Event]:
    """Return the run in which the command that is applied at `place` changes nothing."""
    index = run[place]["index"]
    nothing = {"ev": "Apply", "index": index, "op": "Nothing"}
    return [
        {"node": event["node"], **nothing} if event["ev"] == "Apply" and event["index"] == index else event
        for event in run
    ]


def ends_unasked(run: list[Event], rng: Random) -> list[Event] | None:
    """A Seal ends a topic that is not to be deleted."""
    ended = {run[place]["topic"] for place in firsts(run, "EndTopic")}
    fitting = [place for place in firsts(run, "DeleteTopic") if run[place]["topic"] in ended]
    place = pick(fitting[:1], rng)  # a later one may have no end
    return None if place is None else _undone(run, place)


def registered_before_the_end(run: list[Event], rng: Random) -> list[Event] | None:
    """A name is registered anew although no Seal has ended its topic."""
    registered = {(run[place]["topic"], run[place]["number"]) for place in firsts(run, "RegisterTopic")}
    fitting = [
        place
        for place in firsts(run, "EndTopic")
        if (run[place]["topic"], run[place]["segment"] + 1) in registered
    ]
    place = pick(fitting, rng)
    return None if place is None else _undone(run, place)


# --- writers -----------------------------------------------------------------------------------------------


def ends_without_a_stop(run: list[Event], rng: Random) -> list[Event] | None:
    """A topic ends whose writer has not stopped, and of whose copies no majority is fenced."""
    place = pick(firsts(run, "EndTopic"), rng)
    if place is None:
        return None
    of = (run[place]["topic"], run[place]["segment"])
    stops = {
        at for at in those(run, "ProposeSeal", "Recover") if (run[at]["topic"], run[at]["segment"]) == of
    }
    return [event for at, event in enumerate(run) if at not in stops]


def goes_on_after_the_stop(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer appends what it acknowledges after it proposed its Seal."""
    acked = {(run[at]["topic"], run[at]["segment"]): run[at]["count"] for at in those(run, "Ack")}
    ended = {run[at]["topic"] for at in firsts(run, "EndTopic")}
    fitting = [
        at
        for at in those(run, "LeaderAppend")
        if run[at]["topic"] in ended
        and run[at]["start"] < acked.get((run[at]["topic"], run[at]["segment"]), 0)
    ]
    place = pick(fitting, rng)
    if place is None:
        return None
    where = {name: run[place][name] for name in ("node", "topic", "segment")}
    return inserted(run, place, {"ev": "ProposeSeal", **where, "count": run[place]["start"], "cursors": []})


# --- a replica ---------------------------------------------------------------------------------------------


def _step_on_what_is_gone(run: list[Event], rng: Random, step: str, **values: Any) -> list[Event] | None:
    """Insert a step on a segment right after the node applied the Trim that dropped it."""
    place = pick(those(run, "Trim"), rng)
    if place is None:
        return None
    where = {"node": run[place]["node"], "topic": run[place]["topic"], "segment": run[place]["old"]}
    return inserted(run, place + 1, {"ev": step, **where, "start": 0, "count": 1, **values})


def hands_out_what_is_trimmed(run: list[Event], rng: Random) -> list[Event] | None:
    """A trimmed segment is read."""
    return _step_on_what_is_gone(run, rng, "HandOut", group="g")


def takes_what_is_trimmed(run: list[Event], rng: Random) -> list[Event] | None:
    """A replica takes a frame for a segment that was trimmed."""
    state = {"length": 1, "durable": 0, "fenced": False, "sure": True}
    return _step_on_what_is_gone(run, rng, "ReplicaAppend", **state)


def keeps_what_is_gone(run: list[Event], rng: Random) -> list[Event] | None:
    """A replica keeps a dropped copy and goes on with the topic."""
    fitting = []
    for place in those(run, "Drop"):
        node, topic = run[place]["node"], run[place]["topic"]
        for event in run[place + 1 :]:
            if event.get("node") != node:
                continue
            if event["ev"] == "Restart":
                break
            if event["ev"] in ("ReplicaAppend", "LeaderAppend", "HandOut") and event["topic"] == topic:
                fitting.append(place)
                break
    chosen = pick(fitting, rng)
    return None if chosen is None else run[:chosen] + run[chosen + 1 :]


RETENTION_KINDS: Final[dict[str, Corruption]] = {
    kind.__name__: kind
    for kind in (
        *(trims_the_open_segment, trim_moves_back, trim_that_came_late, trimmed_at_one_node),
        *(trims_what_is_protected, trim_leaves_a_group_behind),
        *(begins_with_an_old_number, deletes_the_next_topic, ends_unasked, registered_before_the_end),
        *(ends_without_a_stop, goes_on_after_the_stop),
        *(hands_out_what_is_trimmed, takes_what_is_trimmed, keeps_what_is_gone),
    )
}
"""The kinds by name."""
