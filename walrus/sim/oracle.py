"""The black-box oracle: compares what clients sent and were told with what can be read in the end.

It knows nothing of segments, nodes or messages. Every payload is unique and was sent once, and has one of
three outcomes. The log that is read after everything has come to rest is compared with them:

    ok        in the log, exactly once             else LostWrite (prefix, middle or tail), Duplicate
    failed    not in the log                       else FailedWriteRead
    unknown   once or not at all                   else Duplicate
    (none)    only what was sent is in the log     else InventedEntry
    order     of one producer's acknowledged entries is the order in which it sent them   else ProducerOrder
    readers   a lone consumer of a group skips nothing                                    else Skipped
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from walrus.sim.calls import Outcome, PutAttempt
from walrus.sim.violation import Violation


def check_log(log: Sequence[bytes], histories: Iterable[tuple[str, Sequence[PutAttempt]]]) -> None:
    """Judge the final log of one topic by the histories of its producers. Raises Violation."""
    places: dict[bytes, int] = {}
    for place, payload in enumerate(log):
        if payload in places:
            raise Violation("Duplicate", f"{payload!r} at {places[payload]} and {place}")
        places[payload] = place
    known: set[bytes] = set()
    for name, attempts in histories:
        known.update(attempt.payload for attempt in attempts)
        _check_producer(name, attempts, places)
    for payload in log:
        if payload not in known:
            raise Violation("InventedEntry", f"no client sent {payload!r}")


def _check_producer(name: str, attempts: Sequence[PutAttempt], places: dict[bytes, int]) -> None:
    last = -1
    for number, attempt in enumerate(attempts):
        place = places.get(attempt.payload)
        if attempt.outcome is Outcome.OK:
            if place is None:
                raise Violation(
                    "LostWrite", f"{attempt.payload!r} of {name}, {_where(number, attempts, places)}"
                )
            if place < last:
                raise Violation("ProducerOrder", f"{attempt.payload!r} of {name} is at {place}, after {last}")
            last = place
        elif attempt.outcome is Outcome.FAILED and place is not None:
            raise Violation("FailedWriteRead", f"{attempt.payload!r} at {place}: {attempt.reply}")


def _where(number: int, attempts: Sequence[PutAttempt], places: dict[bytes, int]) -> str:
    """Say where entries are lost: at the beginning, at the end, or in between."""
    before = any(attempt.payload in places for attempt in attempts[:number])
    after = any(attempt.payload in places for attempt in attempts[number + 1 :])
    return {(False, True): "prefix", (True, True): "middle", (True, False): "tail"}.get(
        (before, after), "everything"
    )


def check_numbers(name: str, expected: Sequence[bytes], log: Sequence[bytes]) -> None:
    """Check that each entry of a numbering producer, all acknowledged, is in the log once, in order."""
    mine, numbers = set(expected), len(expected)
    found = [entry for entry in log if entry in mine]
    if len(found) > len(set(found)):
        raise Violation("NoDuplicateAppend", f"{name}: {len(found)} entries of {numbers} numbers")
    if found != expected:
        raise Violation("NumbersWithoutGap", f"{name}: {len(found)} entries of {numbers} numbers")


def check_reader(name: str, received: Sequence[bytes], log: Sequence[bytes]) -> None:
    """Check that a lone consumer got each entry after all entries in front of it; repeats are allowed."""
    places = {payload: place for place, payload in enumerate(log)}
    upto = 0
    for payload in received:
        place = places.get(payload)
        if place is None:
            raise Violation("Skipped", f"{name} was given {payload!r}, which is not in the log")
        if place > upto:
            raise Violation("Skipped", f"{name} was given entry {place} ({payload!r}) before entry {upto}")
        upto = max(upto, place + 1)


def check_same(name: str, one: Sequence[bytes], other: Sequence[bytes]) -> None:
    """Check that two ways of reading a topic give the same entries."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            raise Violation("PrefixAgree", f"{name}: entry {place} is {a!r} and {b!r}")
    if len(one) != len(other):
        raise Violation("ReadProgress", f"{name}: {len(one)} entries and {len(other)}")
