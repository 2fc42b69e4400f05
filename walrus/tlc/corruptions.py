"""Recorded runs, corrupted: what a trace spec that proves something must refuse.

Each kind of corruption is a function of a run and a source of randomness. It picks a place that suits it and
returns the run as it would have been recorded then, or None where no place suits it. Most results are not
runs of the protocol. Some are: independent steps may come in the other order, and a step on which nothing
depends may be missing. So a run that TLC accepts goes to a second judge (`referee.py`), and the two must
agree.

    of any event      dropped, swapped with the next one, recorded twice, moved; one of its numbers or flags
                      changed; recorded by another node
    of a recovery     another answer, the answer of a node that is no replica, another decider
    of a command      other cursors, another leader or replica set, in the records of all nodes; an old start
                      announced again; a topic of a snapshot that is ahead of it, or behind; a replica set
                      that shrinks
    of a restart      a copy that is shorter, a fence that is gone; once more, right afterwards, with less
    of a power loss   one that takes what was synced
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from walrus.tlc.corrupting import Corruption, changed, firsts, inserted, pick, those
from walrus.tlc.referee import START
from walrus.tlc.trace_spec import Event, begin_of
from walrus.tlc.trace_walrus import data_plane

NUMBERS: Final = ("length", "durable", "told", "count", "start", "offset", "segment", "index", "copied")
FLAGS: Final = ("fenced", "sure", "forced")


def _data(run: Sequence[Event]) -> list[int]:
    """Return the places of the events of the data plane."""
    return [place for place, event in enumerate(run) if data_plane([event])]


# --- any event -----------------------------------------------------------------------------------------


def dropped(run: list[Event], rng: Random) -> list[Event] | None:
    """A step is not recorded."""
    place = pick(_data(run), rng)
    return None if place is None else run[:place] + run[place + 1 :]


def swapped(run: list[Event], rng: Random) -> list[Event] | None:
    """Two steps are recorded in the other order."""
    places = _data(run)
    if len(places) < 2:
        return None
    number = rng.randrange(len(places) - 1)
    one, two = places[number], places[number + 1]
    return [*run[:one], run[two], *run[one + 1 : two], run[one], *run[two + 1 :]]


def repeated(run: list[Event], rng: Random) -> list[Event] | None:
    """A step is recorded twice."""
    place = pick(_data(run), rng)
    return None if place is None else [*run[: place + 1], run[place], *run[place + 1 :]]


def late(run: list[Event], rng: Random) -> list[Event] | None:
    """A step is recorded some steps too late."""
    place = pick(_data(run), rng)
    if place is None:
        return None
    to = min(place + 2 + rng.randrange(10), len(run))
    return [*run[:place], *run[place + 1 : to], run[place], *run[to:]]


def another_number(run: list[Event], rng: Random) -> list[Event] | None:
    """A length, a count, an index or another number is one more or one less."""
    places = [place for place in _data(run) if any(name in run[place] for name in NUMBERS)]
    place = pick(places, rng)
    if place is None:
        return None
    names = [name for name in NUMBERS if name in run[place]]
    name = names[rng.randrange(len(names))]
    value = run[place][name] + (1, -1)[rng.randrange(2)]
    return None if value < (name == "segment") else changed(run, place, **{name: value})


def another_flag(run: list[Event], rng: Random) -> list[Event] | None:
    """A flag is inverted: fenced, sure or forced."""
    place = pick([place for place in _data(run) if any(name in run[place] for name in FLAGS)], rng)
    if place is None:
        return None
    names = [name for name in FLAGS if name in run[place]]
    name = names[rng.randrange(len(names))]
    return changed(run, place, **{name: not run[place][name]})


def another_node(run: list[Event], rng: Random) -> list[Event] | None:
    """A step is recorded by another node."""
    place, nodes = pick(_data(run), rng), sorted({event["node"] for event in run if "node" in event})
    if place is None or len(nodes) < 2:
        return None
    others = [node for node in nodes if node != run[place]["node"]]
    return changed(run, place, node=others[rng.randrange(len(others))])


# --- recoveries ----------------------------------------------------------------------------------------


def another_answer(run: list[Event], rng: Random) -> list[Event] | None:
    """A recovery uses an answer that was not given: longer, shorter, or surer; or one answer fewer."""
    place = pick(those(run, "Recover"), rng)
    if place is None:
        return None
    answers = [list(answer) for answer in run[place]["answers"]]
    number = rng.randrange(len(answers))
    match rng.randrange(4):
        case 0:
            answers[number][1] += 1
        case 1 if answers[number][1]:
            answers[number][1] -= 1
        case 2:
            answers[number][2] = not answers[number][2]
        case _:
            del answers[number]
    count = max((answer[1] for answer in answers), default=0)
    return changed(run, place, answers=answers, count=count)


def stranger(run: list[Event], rng: Random) -> list[Event] | None:
    """A fence majority includes a node that is no replica."""
    place = pick(those(run, "Recover"), rng)
    if place is None:
        return None
    answers = [list(answer) for answer in run[place]["answers"]]
    answers[rng.randrange(len(answers))][0] = 9
    return changed(run, place, answers=answers)


def another_decider(run: list[Event], rng: Random) -> list[Event] | None:
    """A recovery is decided by a node that did not run it."""
    place = pick(those(run, "Recover", "RecoverySeal"), rng)
    if place is None:
        return None
    return changed(run, place, node=run[place]["node"] % 3 + 1)


def unheard(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer acknowledges with fewer, or more, reports than it heard."""
    place = pick(those(run, "Ack"), rng)
    if place is None or not run[place]["heard"]:
        return None
    heard = [list(told) for told in run[place]["heard"]]
    step = 1 if rng.randrange(2) else -heard[0][1]
    return changed(run, place, heard=[[node, max(0, length + step)] for node, length in heard])


# --- commands ------------------------------------------------------------------------------------------


def _command(run: list[Event], index: int, **values: object) -> list[Event]:
    """Change the command at this index in the records of all nodes."""
    return [
        {**event, **values} if event["ev"] == "Apply" and event["index"] == index else event for event in run
    ]


def another_command(run: list[Event], rng: Random) -> list[Event] | None:
    """One node applies another command than the others, or all apply one that may not be committed."""
    place = pick(those(run, "RegisterTopic", "Seal", "SetReplicas"), rng)
    if place is None:
        return None
    event, values = run[place], dict[str, object]()
    match rng.randrange(3):
        case 0 if "leader" in event:
            values["leader"] = event["leader"] % 3 + 1
        case 1 if "count" in event:
            values["count"] = event["count"] + 1
        case _:
            values["replicas"] = event["replicas"][:-1]
    return changed(run, place, **values) if rng.randrange(2) else _command(run, event["index"], **values)


def another_cursor(run: list[Event], rng: Random) -> list[Event] | None:
    """A cursor is committed that no leader proposed: behind, or beyond what is confirmed."""
    put = {tuple(cursor) for event in run if event.get("cursors") for cursor in event["cursors"]}
    put |= {
        (event["topic"], event["group"], event["segment"], event["offset"])
        for event in run
        if event["ev"] == "ProposeCursors"
    }
    places = [place for place in those(run, "CommitCursors", "Seal") if run[place]["cursors"]]
    place = pick(places, rng)
    if place is None:
        return None
    cursors = [list(cursor) for cursor in run[place]["cursors"]]
    number = rng.randrange(len(cursors))
    cursors[number][3] = max(0, cursors[number][3] + (1, -1, 2)[rng.randrange(3)])
    if tuple(cursors[number][2:]) == START:  # where a group is before its first commit: nothing moves
        return None
    if tuple(cursors[number]) in put:  # an earlier proposal may be committed late
        return None
    return _command(run, run[place]["index"], cursors=cursors)


def _appended(run: list[Event], op: str, **values: object) -> list[Event] | None:
    """Append one more command, applied by a node that has applied all others."""
    indexes = [event["index"] for event in run if event["ev"] == "Apply"]
    for event in reversed(run):
        if event["ev"] in ("Crash", "PowerLoss", "Restart"):
            return None
        if event["ev"] == "Apply" and event["index"] == max(indexes):
            return [
                *run,
                {"ev": "Apply", "op": op, "node": event["node"], "index": max(indexes) + 1, **values},
            ]
    return None


def announced_again(run: list[Event], rng: Random) -> list[Event] | None:
    """An earlier start is announced after a later one."""
    announced = {(run[place]["of"], run[place]["incarnation"]) for place in those(run, "Announce")}
    newest = {of: max(start for node, start in announced if node == of) for of, _ in announced}
    starts = sorted((of, start) for of, start in announced if 0 < start < newest[of])
    if not starts:
        return None
    of, incarnation = starts[rng.randrange(len(starts))]
    return _appended(run, "Announce", of=of, incarnation=incarnation)


def part_of_another_snapshot(run: list[Event], rng: Random) -> list[Event] | None:
    """A turn of a takeover brings a topic further than the log has it at that index, or not as far."""
    place = pick(sorted({*those(run, "Seal")} - {*firsts(run, "Seal")}), rng)
    if place is None:
        return None
    node, index, topic = (run[place][name] for name in ("node", "index", "topic"))
    topics = [[topic, run[place]["segment"] + 1 + rng.choice((-1, 1))]]
    part: Event = {"ev": "Apply", "node": node, "index": index, "op": "SnapshotTopics", "topics": topics}
    return inserted(run, place, {**part, "cursors": [], "gone": []})


def shrunk(run: list[Event], rng: Random) -> list[Event] | None:
    """A sealed segment keeps only one replica, or is given to a node that holds nothing."""
    place = pick(those(run, "Seal"), rng)
    if place is None:
        return None
    one = run[place]["replicas"][:1]
    replicas = one if rng.randrange(2) else [*run[place]["replicas"][:2], 9]
    topic, segment = run[place]["topic"], run[place]["segment"]
    return _appended(run, "SetReplicas", topic=topic, segment=segment, replicas=replicas)


# --- the world -----------------------------------------------------------------------------------------


def _shorter(copies: list[list[object]], rng: Random) -> list[list[object]] | None:
    whole = [number for number, copy in enumerate(copies) if copy[2]]
    number = pick(whole, rng)
    if number is None:
        return None
    topic, segment, length, fenced = copies[number]
    assert isinstance(length, int)
    return [*copies[:number], [topic, segment, length - 1, fenced], *copies[number + 1 :]]


def shorter_restart(run: list[Event], rng: Random) -> list[Event] | None:
    """A start after a kill -9 finds a copy that is shorter than before."""
    killed = [place for place in those(run, "Restart") if run[place].get("copies") and _killed(run, place)]
    place = pick(killed, rng)
    copies = None if place is None else _shorter(run[place]["copies"], rng)
    return None if place is None or copies is None else changed(run, place, copies=copies)


def _killed(run: list[Event], place: int) -> bool:
    """Return whether the node that starts there had been killed while its machine kept running."""
    node, ends = run[place]["node"], ("Crash", "PowerLoss")
    ended = (
        event["ev"] for event in reversed(run[:place]) if event["ev"] in ends and event.get("node") == node
    )
    return next(ended, "") == "Crash"


def restarted_with_less(run: list[Event], rng: Random) -> list[Event] | None:
    """A node starts once more, right afterwards, and finds less."""
    place = pick([place for place in those(run, "Restart") if run[place].get("copies")], rng)
    copies = None if place is None else _shorter(run[place]["copies"], rng)
    if place is None or copies is None:
        return None
    again = {**run[place], "incarnation": run[place]["incarnation"] + 1_000, "copies": copies}
    return [*run[: place + 1], {"ev": "Crash", "node": run[place]["node"]}, again, *run[place + 1 :]]


def fence_gone(run: list[Event], rng: Random) -> list[Event] | None:
    """A start finds a copy without its fence."""
    fenced = [
        (place, number)
        for place in those(run, "Restart")
        for number, copy in enumerate(run[place].get("copies", ()))
        if copy[3]
    ]
    if not fenced:
        return None
    place, number = fenced[rng.randrange(len(fenced))]
    copies = [list(copy) for copy in run[place]["copies"]]
    copies[number][3] = False
    return changed(run, place, copies=copies)


def power_takes_synced(run: list[Event], rng: Random) -> list[Event] | None:
    """The power fails where a process was killed, and takes entries that were synced."""
    if not begin_of(run).get("fsync_each"):
        return None
    for place in those(run, "Crash"):
        node = run[place]["node"]
        starts = [start for start in those(run, "Restart") if start > place and run[start]["node"] == node]
        copies = _shorter(run[starts[0]].get("copies", []), rng) if starts else None
        if copies is not None:
            return changed(changed(run, starts[0], copies=copies), place, ev="PowerLoss")
    return None


KINDS: Final[dict[str, Corruption]] = {
    kind.__name__: kind
    for kind in (
        *(dropped, swapped, repeated, late, another_number, another_flag, another_node),
        *(another_answer, stranger, another_decider, unheard),
        *(another_command, another_cursor, announced_again, part_of_another_snapshot, shrunk),
        *(shorter_restart, restarted_with_less, fence_gone, power_takes_synced),
    )
}
"""The kinds by name."""
