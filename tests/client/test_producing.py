"""Producers: what is numbered, what is kept after an error, and what is let go."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.client.faces import places
from tests.client.fake import FakeNode, MemoryLog
from tests.client.test_handles import Interrupt, in_child, raising_at
from walrus import protocol
from walrus.client import Client, Position
from walrus.client.errors import (
    InvalidTopic,
    OutcomeUnknown,
    OutOfSequence,
    PayloadTooLarge,
    TimedOut,
    Unreachable,
    WalrusError,
)
from walrus.client.producing import AsyncProducer, Numbering, Producer
from walrus.protocol import RequestParser
from walrus.storage.batch import Stamp

UNKNOWN, LATER, LARGE = OutcomeUnknown("no answer"), OutOfSequence("expected 1"), PayloadTooLarge("too large")


def seconds(timeout: float | None) -> float:
    """How long a call may take."""
    return 120.0 if timeout is None else timeout


def sent(call: Any) -> list[tuple[Stamp, list[bytes]]]:
    """Stamps and entries of the PUBs that a call sends."""
    requests = RequestParser().feed(call.encode(0, call.count))
    return [(request.batch.stamps[0], request.batch.payloads()) for request in requests]


def test_entries_are_counted_each_time_that_they_are_sent_again() -> None:
    numbering = Numbering("t", "p")
    call = numbering.call([b"a", b"b", b"c"])
    for start, stop, again in ((0, 3, 0), (0, 1, 1), (1, 3, 3)):
        call.encode(start, stop)
        assert numbering.sent_again == again, "an entry that is sent again is not counted"


def test_entries_are_numbered_from_0_and_a_name_is_drawn() -> None:
    numbering = Numbering("t")
    assert sent(numbering.call([b"a", b"b"])) == [(Stamp(2, numbering.name, 0, 0), [b"a", b"b"])], (
        "NumbersWithoutGap"
    )
    numbering.settle(places(0, 2))
    assert (numbering.first, numbering.kept) == (2, []), "NumbersWithoutGap"
    assert sent(numbering.call([b"c"])) == [(Stamp(1, numbering.name, 2, 0), [b"c"])], "NumbersWithoutGap"
    assert numbering.name != Numbering("t").name, "NoDuplicateAppend: two producers of one name"


def test_what_is_not_acknowledged_goes_first_under_its_number() -> None:
    numbering = Numbering("t", "x")
    numbering.call([b"a", b"b", b"c"])
    numbering.settle([*places(0, 1), UNKNOWN, LATER])
    assert sent(numbering.call([b"d"])) == [(Stamp(3, "x", 1, 0), [b"b", b"c", b"d"])], (
        "EveryPubAnswered: what is not known to be written is sent again, first"
    )


def test_what_is_refused_for_good_is_let_go_and_its_number_is_used_again() -> None:
    numbering = Numbering("t", "x")
    numbering.call([b"a", b"large", b"c"])
    numbering.settle([*places(0, 1), LARGE, LATER])
    assert sent(numbering.call([b"d"])) == [(Stamp(1, "x", 1, 0), [b"d"])], "NumbersWithoutGap"


def test_what_is_refused_behind_an_unknown_outcome_is_kept_with_it() -> None:
    """The one before may be written: its number is not free, however the others fared."""
    numbering = Numbering("t", "x")
    numbering.call([b"a", b"large"])
    numbering.settle([UNKNOWN, LARGE])
    assert sent(numbering.call([b"d"])) == [(Stamp(3, "x", 0, 0), [b"a", b"large", b"d"])], (
        "RepeatOkImpliesAcked: another entry gets its number, and passes for it"
    )


def test_a_producer_raises_the_first_error_and_keeps_the_rest() -> None:
    outcomes: list[list[Position | WalrusError]] = [
        [*places(0, 1), UNKNOWN, Unreachable("gone")],
        places(1, 4),
    ]
    producer = Producer(Numbering("t", "x"), lambda call, timeout: outcomes.pop(0), seconds)
    with pytest.raises(OutcomeUnknown):
        producer.put_many([b"a", b"b", b"c"])
    assert (producer.next_number, producer.kept) == (1, 2), "EveryPubAnswered"
    assert producer.put(b"d") == Position(1, 3), "its own place, not that of what was kept"
    assert (producer.next_number, producer.kept) == (4, 0), "NumbersWithoutGap"
    producer.flush()  # nothing to send


def test_an_interrupted_call_keeps_what_it_sent() -> None:
    def interrupted(call: Any, timeout: float | None) -> list[Any]:
        raise KeyboardInterrupt

    producer = Producer(Numbering("t", "x"), interrupted, seconds)
    with pytest.raises(KeyboardInterrupt):
        producer.put(b"a")
    assert producer.kept == 1, "NoDuplicateAppend: its number would be given to another entry"


def test_bad_arguments_are_refused_and_number_nothing() -> None:
    client = Client("127.0.0.1:1")
    for topic, name in (("", "x"), ("t", "a b"), ("a b", "")):
        with pytest.raises(InvalidTopic):
            client.producer(topic, name)
    with pytest.raises(ValueError, match="next_number"):
        client.producer("t", "x", -1)
    producer = client.producer("t")
    with pytest.raises(TypeError):
        producer.put("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        producer.put_many(b"one entry")  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLarge):
        producer.put(bytes(protocol.MAX_SKIP_BYTES))
    assert producer.kept == 0, "EveryPubAnswered"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12 about forking beside threads
def test_a_forked_child_is_refused_its_parent_s_numbers() -> None:
    """Under one name, the second entry of a number is answered OK as a repetition, and is not there."""
    with FakeNode(log=MemoryLog(topics={"t": [[]]})) as node, Client(node.address) as client:
        producer, own = client.producer("t", "x"), "y"
        producer.put(b"parent 0")

        def work() -> str:
            client.producer("t", own).put(b"child 0")
            try:
                producer.put(b"child 1")
            except RuntimeError as error:
                return str(error)
            return "it was sent"

        assert "before a fork" in in_child(work)()
        producer.put(b"parent 1")
        assert node.log.topics["t"] == [[b"parent 0", b"child 0", b"parent 1"]], "AckedOnce"


def test_the_deadline_of_a_call_counts_while_another_has_its_turn() -> None:
    begun, go_on = threading.Event(), threading.Event()
    given: list[tuple[list[bytes], float]] = []

    def call(asked: Any, timeout: float | None) -> list[None]:
        given.append((sent(asked)[0][1], seconds(timeout)))
        begun.set()
        assert go_on.wait(120)
        return [None] * int(asked.count)

    producer = Producer(Numbering("t", "x"), call, seconds)
    first = threading.Thread(target=producer.put, args=(b"a",))
    first.start()
    assert begun.wait(120)
    with pytest.raises(TimedOut, match="not taken"):
        producer.put(b"b", timeout=0.01)
    second = threading.Thread(target=producer.put, args=(b"c",))
    second.start()
    go_on.set()
    first.join()
    second.join()
    producer.put(b"d", timeout=7)
    assert [entries for entries, _ in given] == [[b"a"], [b"c"], [b"d"]], "NoDuplicateAppend"
    assert given[-1][1] <= 7 and producer.next_number == 3 and producer.kept == 0, "NumbersWithoutGap"


def test_the_deadline_of_a_task_counts_while_another_has_its_turn() -> None:
    async def scenario() -> list[list[bytes]]:
        begun, go_on, given = asyncio.Event(), asyncio.Event(), []

        async def call(asked: Any, timeout: float | None) -> list[None]:
            given.append(sent(asked)[0][1])
            begun.set()
            await go_on.wait()
            return [None] * int(asked.count)

        producer = AsyncProducer(Numbering("t", "x"), call, seconds)
        first = asyncio.create_task(producer.put(b"a"))
        await begun.wait()
        with pytest.raises(TimedOut, match="not taken"):
            await producer.put(b"b", timeout=0.01)
        second = asyncio.create_task(producer.put(b"c"))
        go_on.set()
        await asyncio.gather(first, second)
        assert producer.next_number == 2 and producer.kept == 0, "NumbersWithoutGap"
        return given

    assert asyncio.run(scenario()) == [[b"a"], [b"c"]], "NoDuplicateAppend"


def test_an_exception_at_any_line_of_a_put_leaves_the_producer_usable() -> None:
    numbers: dict[int, bytes] = {}

    def call(asked: Any, timeout: float | None) -> list[None]:
        for stamp, entries in sent(asked):
            for number, entry in enumerate(entries, stamp.first):
                assert numbers.setdefault(number, entry) == entry, (
                    "NoDuplicateAppend: one number, two entries"
                )
        return [None] * int(asked.count)

    # Not between the end of a call and the removal of its turn: there no signal handler can run.
    producer, line, interrupted = Producer(Numbering("t", "x"), call, seconds), 1, True
    while interrupted:
        interrupted = False
        with raising_at(line, but="if mine in self._turns"):
            try:
                producer.put(b"%d" % line)
            except Interrupt:
                interrupted = True
        producer.put(b"after %d" % line, timeout=60)
        line += 1
    assert line > 10, "the trace saw the call"
    assert not producer._turns
    assert sorted(numbers) == list(range(len(numbers))), "no number is left out"
    assert len(set(numbers.values())) == len(numbers), "no entry has two numbers"
