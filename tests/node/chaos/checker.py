"""Whether everything that clients were told is true of the log that the nodes hold in the end.

    AckedDurable          a PUT or PUB that was answered OK is in the log
    NotDoneAbsent         a PUT that was answered with an error that says "no" is not
    NothingInvented       every entry was sent, and each PUT is there once
    WriterOrder           the acknowledged entries of a writer are in the order in which it sent them
    NoDuplicateAppend     a number of a producer is there once, however often it was sent
    NumbersWithoutGap     the numbers of a producer are there in order, from 0, without a gap
    ProducerKept          no node forgets a producer whose entries it acknowledged
    PlacesStable          what a FETCH found at a place is there in the end, and was there at any time
    NothingSkipped        a group was given the log in order; what it was not given is no more than the
                          answers that it missed; entries may come again. Of a work queue: every entry was
                          acknowledged by a worker, or its ACK has no known outcome
    AckedNotRedelivered   no RECEIVE that was sent after the OK to an ACK brought that entry again
    NodesAgree            all nodes show one log

A violation is a line that begins with one of these names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.node.chaos.client import NOT_DONE, OK, Address, Connection, Queue, Told


class Place(NamedTuple):
    """One entry and where it is."""

    segment: int
    offset: int
    entry: bytes


def violations(log: Sequence[Place], told: Told) -> list[str]:
    """Every promise that was broken, one line for each."""
    found = [*told.wrong, *_puts(log, told), *_pubs(log, told), *_places(log, told)]
    for group, queue in told.queues.items():
        found += _queue(log, group, queue)
    for group, delivered in told.gets.items():
        found += _deliveries(log, group, delivered, told.doubtful_gets.get(group, 0))
    return found


def _puts(log: Sequence[Place], told: Told) -> Iterable[str]:
    index = {place.entry: number for number, place in enumerate(log)}
    sent = {payload for puts in told.puts.values() for payload, _ in puts}
    numbered = {payload for producer in told.producers for payload, _ in told.puts[producer]}
    for entry, times in Counter(place.entry for place in log).items():
        if entry not in sent or (times > 1 and entry not in numbered):
            yield f"NothingInvented: {entry[:40]!r} is there {times} times, sent: {entry in sent}"
    for writer, puts in told.puts.items():
        acknowledged = [payload for payload, outcome in puts if outcome == OK]
        if lost := [payload for payload in acknowledged if payload not in index]:
            lines = f"{len(lost)} of {len(acknowledged)} of {writer}"
            yield f"AckedDurable: {lines} are lost, first {lost[0][:40]!r}"
        for payload, outcome in puts:
            if outcome == NOT_DONE and payload in index:
                yield f"NotDoneAbsent: {payload[:40]!r} was refused, and is at {log[index[payload]][:2]}"
        order = [index[payload] for payload in acknowledged if payload in index]
        if order != sorted(order):
            yield f"WriterOrder: the entries of {writer} are not in the order of sending"


def _pubs(log: Sequence[Place], told: Told) -> Iterable[str]:
    for producer in told.producers:
        numbers = {payload: number for number, (payload, _) in enumerate(told.puts[producer])}
        there = [numbers[place.entry] for place in log if place.entry in numbers]
        if twice := [number for number, times in Counter(there).items() if times > 1]:
            lines = f"{len(twice)} of {len(there)} of {producer}"
            yield f"NoDuplicateAppend: {lines} are there more than once, first number {twice[0]}"
        once = list(dict.fromkeys(there))
        if wrong := [place for place, number in enumerate(once) if place != number]:
            there_is = f"number {once[wrong[0]]} of {producer}"
            yield f"NumbersWithoutGap: {there_is} is where {wrong[0]} belongs; {len(once)} are there"


def unfinished(log: Sequence[Place], queue: Queue) -> list[Place]:
    """The entries that the group has still to be given."""
    done = queue.acknowledged.keys() | queue.doubtful
    return [place for place in log if place.entry not in done]


def _queue(log: Sequence[Place], group: str, queue: Queue) -> Iterable[str]:
    there = {place.entry for place in log}
    for entry, asked in list(queue.given):
        if entry not in there:
            yield f"NothingInvented: {group} was given {entry[:40]!r}, which is not in the log"
        if (told := queue.acknowledged.get(entry, asked)) < asked:
            late = f"asked for {asked - told:.3f} s after the OK to its ACK"
            yield f"AckedNotRedelivered: {group} was given {entry[:40]!r}, {late}"
    if left := unfinished(log, queue):
        lines = f"{len(left)} of {len(log)} entries, first {left[0]!r:.80}"
        yield f"NothingSkipped: {group} was never given, or not again, {lines}"


def _places(log: Sequence[Place], told: Told) -> Iterable[str]:
    final = {(place.segment, place.offset): place.entry for place in log}
    for where, entry in told.fetched.items():
        if final.get(where) != entry:
            now = final.get(where)
            yield f"PlacesStable: {entry[:40]!r} was fetched at {where}, now {now!r:.40} is there"


def _deliveries(log: Sequence[Place], group: str, delivered: Sequence[bytes], doubtful: int) -> Iterable[str]:
    index = {place.entry: number for number, place in enumerate(log)}
    numbers = [index.get(entry, -1) for entry in delivered]
    if -1 in numbers:
        given = delivered[numbers.index(-1)][:40]
        yield f"NothingSkipped: {group} was given {given!r}, which is not in the log"
        return
    missed = set(range(max(numbers, default=-1) + 1)) - set(numbers)
    if len(missed) > doubtful:
        yield (
            f"NothingSkipped: {group} was never given {len(missed)} entries, first {log[min(missed)]!r:.80}, "
            f"and missed {doubtful} answers"
        )


# --- reading it back ------------------------------------------------------------------------------


class NotYet(Exception):
    """A node cannot show the whole log at the moment."""


def read(address: Address, topic: bytes) -> list[Place]:
    """The whole topic as one node shows it. Raises NotYet, and OSError."""
    log: list[Place] = []
    with Connection(address) as connection:
        state = json.loads(connection.ask(b"STATE " + topic))
        for segment in range(1, state["current_segment"] + 1):
            log += _read_segment(connection, topic, segment, state["sealed_segments"].get(str(segment)))
    return log


def _read_segment(connection: Connection, topic: bytes, segment: int, count: int | None) -> list[Place]:
    found: list[Place] = []
    while count is None or len(found) < count:
        step = 200 if count is None else min(200, count - len(found))
        connection.send([b"FETCH %b %d %d" % (topic, segment, len(found) + n) for n in range(step)])
        for reply in [connection.receive() for _ in range(step)]:
            if reply == b"EMPTY" and count is None:
                return found
            if not reply.startswith(b"OK "):
                raise NotYet(f"segment {segment}, offset {len(found)}: {reply[:100]!r}")
            found.append(Place(segment, len(found), reply.split(b" ", 2)[2]))
    return found


def disagreement(views: Sequence[Sequence[Place]]) -> str | None:
    """What two nodes show differently at one place; None if each view is the beginning of the longest."""
    longest = max(views, key=len)
    for view in views:
        for shown, other in zip(view, longest, strict=False):
            if shown != other:
                return f"NodesAgree: one shows {shown!r:.80}, another {other!r:.80}"
    return None
