"""Recorded runs of numbered entries (PUB), corrupted: each is a step that PublishTrace.tla must refuse.

As in `corruptions_delivery.py`, a kind picks only places at which the result is impossible.

    appends      twice, again in a later segment, with a gap, out of order, not at all
    answers      before a majority has the entry, for an entry that was never appended, with another place,
                 by a writer that never had it
    refuses      the next number, which leaves no gap
    tables       without a producer, behind, or ahead: in a Seal, in a recovery's Seal, in a snapshot, of a
                 writer that begins, at one node only; a producer dropped while there is room
    seals        without an entry that was answered
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final

from walrus.tlc.corrupting import Corruption, changed, everywhere, firsts, inserted, pick, those
from walrus.tlc.trace_spec import Event


def _numbers(event: Event) -> range:
    """Return the numbers of the entries that a step is about."""
    return range(event["number"], event["number"] + event["count"])


def _of_same(event: Event, other: Event) -> bool:
    """Return whether both events are about entries of one producer in one topic."""
    return (event["topic"], event["producer"]) == (other["topic"], other["producer"])


def _placed(run: list[Event]) -> list[int]:
    """Return the places of the answers that told a position."""
    return [place for place in those(run, "AnswerPub") if run[place]["placed"]]


def _new(event: Event) -> tuple[int, int]:
    """Return the first number that was new in an answer that told a position, and its position."""
    return event["number"] + event["count"] - event["placed"], event["start"]


# --- appends -----------------------------------------------------------------------------------------------


def appended_twice(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer appends the same numbers again."""
    place = pick(those(run, "PubAppend"), rng)
    if place is None:
        return None
    length = run[place]["length"]
    again = {**run[place], "start": length, "length": length + run[place]["count"]}
    return inserted(run, place + 1, again)


def appended_again_later(run: list[Event], rng: Random) -> list[Event] | None:
    """The writer of a later segment appends an entry that was answered OK before."""
    fitting = []
    for answer in _placed(run):
        for place in those(run, "PubAppend"):
            same = place > answer and run[place]["topic"] == run[answer]["topic"]
            if same and run[place]["segment"] > run[answer]["segment"]:
                fitting.append((place, answer))
    chosen = pick(fitting, rng)
    if chosen is None:
        return None
    later, earlier = chosen
    told = {"producer": run[earlier]["producer"], "number": _new(run[earlier])[0], "count": 1}
    return changed(run, later, **told)


def leaves_a_gap(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer appends from a later number on."""
    place = pick(those(run, "PubAppend"), rng)
    return None if place is None else changed(run, place, number=run[place]["number"] + 1)


def appended_out_of_order(run: list[Event], rng: Random) -> list[Event] | None:
    """Two numbers of a run are appended in the other order."""
    place = pick([at for at in those(run, "PubAppend") if run[at]["count"] > 1], rng)
    if place is None:
        return None
    one = {**run[place], "count": 1}
    second = {**one, "number": one["number"] + 1}
    first = {**one, "start": one["start"] + 1}
    return [*run[:place], second, first, *run[place + 1 :]]


def answered_and_not_appended(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry is answered with its position but was never appended."""
    fitting = []
    for answer in _placed(run):
        number, start = _new(run[answer])
        for place in those(run[:answer], "PubAppend"):
            same = _of_same(run[place], run[answer]) and run[place]["segment"] == run[answer]["segment"]
            if same and (run[place]["number"], run[place]["start"]) == (number, start):
                fitting.append(place)
    chosen = pick(fitting, rng)
    return None if chosen is None else run[:chosen] + run[chosen + 1 :]


# --- answers -----------------------------------------------------------------------------------------------


def _answered_at_once(run: list[Event], rng: Random, **values: Any) -> list[Event] | None:
    """Insert an OK right after the append."""
    place = pick(those(run, "PubAppend"), rng)
    if place is None:
        return None
    return inserted(
        run, place + 1, {**run[place], "ev": "AnswerPub", "placed": run[place]["count"], **values}
    )


def answered_before_the_majority(run: list[Event], rng: Random) -> list[Event] | None:
    """An entry is answered OK before it is acknowledged."""
    return _answered_at_once(run, rng)


def repetition_answered_before_the_majority(run: list[Event], rng: Random) -> list[Event] | None:
    """A repetition is answered OK although the entry is not acknowledged."""
    return _answered_at_once(run, rng, start=0, placed=0)


def _first_appends(run: list[Event]) -> list[int]:
    """Return the places at which numbers are appended for the first time."""
    found, seen = [], set[tuple[str, str, int]]()
    for place in those(run, "PubAppend"):
        entries = {(run[place]["topic"], run[place]["producer"], number) for number in _numbers(run[place])}
        if not entries & seen:
            found.append(place)
        seen |= entries
    return found


def repeats_what_was_never_appended(run: list[Event], rng: Random) -> list[Event] | None:
    """A repetition is answered OK although the topic has none of its entries."""
    place = pick(_first_appends(run), rng)
    if place is None:
        return None
    return inserted(run, place, {**run[place], "ev": "AnswerPub", "start": 0, "placed": 0})


def answered_by_a_writer_that_never_had_it(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer answers a repetition of an entry that was appended after its segment had ended."""
    fitting = []
    for place in _first_appends(run):
        event = run[place]
        before = [
            run[at]
            for at in those(run, "PubAppend")
            if _of_same(run[at], event) and run[at]["segment"] == event["segment"] - 1
        ]
        had = any({*_numbers(event)} & {*_numbers(other)} for other in before)
        if event["segment"] > 1 and not had:
            fitting.append(place)
    chosen = pick(fitting, rng)
    if chosen is None:
        return None
    told = {"ev": "AnswerPub", "segment": run[chosen]["segment"] - 1, "start": 0, "placed": 0}
    return inserted(run, chosen + 1, {**run[chosen], **told})


def answered_with_another_place(run: list[Event], rng: Random) -> list[Event] | None:
    """An answer tells the position of another entry."""
    place = pick(_placed(run), rng)
    return None if place is None else changed(run, place, start=run[place]["start"] + rng.choice((1, 2)))


def refuses_what_comes_next(run: list[Event], rng: Random) -> list[Event] | None:
    """A number is refused although it leaves no gap."""
    place = pick(those(run, "PubAppend"), rng)
    return None if place is None else inserted(run, place, {**run[place], "ev": "RefusePub"})


# --- tables ------------------------------------------------------------------------------------------------


def _tables(run: list[Event], places: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (place, index) of each producer in a table, for topics that are published to."""
    topics = {run[place]["topic"] for place in those(run, "PubAppend")}
    for place in places:
        for index, known in enumerate(run[place]["producers"]):
            if run[place].get("topic", known[0]) in topics:
                yield place, index


def _seals(run: list[Event], *, recovered: bool) -> list[int]:
    return [place for place in firsts(run, "Seal") if run[place]["recovered"] == recovered]


def _edited(known: list[Any], index: int, by: int) -> list[Any]:
    """Return the table with one producer's last number changed by `by`, or without the producer (0)."""
    *names, last = known[index]
    return [*known[:index], *([[*names, last + by]] if by else []), *known[index + 1 :]]


def _other_table(run: list[Event], places: list[int], rng: Random, by: int) -> list[Event] | None:
    """Change a table: at every node that applies the command, or in an event that is no command."""
    chosen = pick(_tables(run, places), rng)
    if chosen is None:
        return None
    place, index = chosen
    producers = _edited(run[place]["producers"], index, by)
    if run[place].get("op") == "Seal":
        return everywhere(run, place, producers=producers)
    return changed(run, place, producers=producers)


def seal_forgets_a_producer(run: list[Event], rng: Random) -> list[Event] | None:
    """A Seal hands on a table without a producer that it knew."""
    return _other_table(run, _seals(run, recovered=False), rng, 0)


def seal_is_behind(run: list[Event], rng: Random) -> list[Event] | None:
    """A Seal hands on an earlier number of a producer."""
    return _other_table(run, _seals(run, recovered=False), rng, -1)


def seal_is_ahead(run: list[Event], rng: Random) -> list[Event] | None:
    """A Seal hands on a number that was not appended yet."""
    return _other_table(run, _seals(run, recovered=False), rng, 1)


def recovery_forgets_a_producer(run: list[Event], rng: Random) -> list[Event] | None:
    """A recovery's table lacks a producer whose entries the recovery keeps."""
    return _other_table(run, _seals(run, recovered=True), rng, 0)


def recovery_is_behind(run: list[Event], rng: Random) -> list[Event] | None:
    """A recovery's table lacks a producer's last entry, which the recovery keeps."""
    return _other_table(run, _seals(run, recovered=True), rng, -1)


def recovery_is_ahead(run: list[Event], rng: Random) -> list[Event] | None:
    """A recovery's table has an entry that the recovery does not keep."""
    return _other_table(run, _seals(run, recovered=True), rng, 1)


def another_table_at_one_node(run: list[Event], rng: Random) -> list[Event] | None:
    """A node applies the same Seal and knows less than the others."""
    chosen = pick(_tables(run, sorted({*those(run, "Seal")} - {*firsts(run, "Seal")})), rng)
    if chosen is None:
        return None
    place, index = chosen
    return changed(run, place, producers=_edited(run[place]["producers"], index, rng.choice((-1, 0, 1))))


def snapshot_has_another_table(run: list[Event], rng: Random) -> list[Event] | None:
    """A node takes over a snapshot with another table: behind or ahead."""
    return _other_table(run, those(run, "Snapshot"), rng, rng.choice((-1, 0, 1)))


def writer_begins_with_another_table(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer begins with another table than the Seal before it has: behind or ahead."""
    return _other_table(run, those(run, "Grant"), rng, rng.choice((-1, 0, 1)))


def dropped_while_there_is_room(run: list[Event], rng: Random) -> list[Event] | None:
    """A writer drops a producer from a table that is not full."""
    place = pick(those(run, "PubAppend"), rng)
    return None if place is None else inserted(run, place + 1, {**run[place], "ev": "DropProducer"})


# --- seals -------------------------------------------------------------------------------------------------


def sealed_without_what_was_answered(run: list[Event], rng: Random) -> list[Event] | None:
    """A segment ends before an entry that was answered OK."""
    ends = {(run[at]["topic"], run[at]["segment"]): at for at in firsts(run, "Seal")}
    fitting = []
    for answer in _placed(run):
        seal = ends.get((run[answer]["topic"], run[answer]["segment"]), 0)
        if seal > answer:
            fitting.append((seal, run[answer]["start"]))
    chosen = pick(fitting, rng)
    return None if chosen is None else everywhere(run, chosen[0], count=chosen[1])


PUBLISH_KINDS: Final[dict[str, Corruption]] = {
    kind.__name__: kind
    for kind in (
        *(appended_twice, appended_again_later, leaves_a_gap, appended_out_of_order),
        *(answered_and_not_appended, answered_before_the_majority),
        *(repetition_answered_before_the_majority, repeats_what_was_never_appended),
        *(answered_by_a_writer_that_never_had_it, answered_with_another_place, refuses_what_comes_next),
        *(seal_forgets_a_producer, seal_is_behind, seal_is_ahead),
        *(recovery_forgets_a_producer, recovery_is_behind, recovery_is_ahead),
        *(another_table_at_one_node, snapshot_has_another_table, writer_begins_with_another_table),
        *(dropped_while_there_is_room, sealed_without_what_was_answered),
    )
}
"""The kinds by name."""
