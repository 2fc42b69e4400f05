"""Producers: what is numbered, what is kept after an error, and what is let go."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.faces import places
from walrus import protocol
from walrus.client import Client, Position
from walrus.client.errors import (
    InvalidTopic,
    OutcomeUnknown,
    OutOfSequence,
    PayloadTooLarge,
    Unreachable,
    WalrusError,
)
from walrus.client.producing import Numbering, Producer
from walrus.protocol import RequestParser
from walrus.storage.batch import Stamp

UNKNOWN, LATER, LARGE = OutcomeUnknown("no answer"), OutOfSequence("expected 1"), PayloadTooLarge("too large")


def sent(call: Any) -> list[tuple[Stamp, list[bytes]]]:
    """Stamps and entries of the PUBs that a call sends."""
    requests = RequestParser().feed(call.encode(0, call.count))
    return [(request.batch.stamps[0], request.batch.payloads()) for request in requests]


def test_entries_are_numbered_from_0_and_a_name_is_drawn() -> None:
    numbering = Numbering("t")
    assert sent(numbering.call([b"a", b"b"])) == [(Stamp(2, numbering.name, 0, 0), [b"a", b"b"])]
    numbering.settle(places(0, 2))
    assert (numbering.first, numbering.kept) == (2, [])
    assert sent(numbering.call([b"c"])) == [(Stamp(1, numbering.name, 2, 0), [b"c"])]
    assert numbering.name != Numbering("t").name


def test_what_is_not_acknowledged_goes_first_under_its_number() -> None:
    numbering = Numbering("t", "x")
    numbering.call([b"a", b"b", b"c"])
    numbering.settle([*places(0, 1), UNKNOWN, LATER])
    assert sent(numbering.call([b"d"])) == [(Stamp(3, "x", 1, 0), [b"b", b"c", b"d"])]


def test_what_is_refused_for_good_is_let_go_and_its_number_is_used_again() -> None:
    numbering = Numbering("t", "x")
    numbering.call([b"a", b"large", b"c"])
    numbering.settle([*places(0, 1), LARGE, LATER])
    assert sent(numbering.call([b"d"])) == [(Stamp(1, "x", 1, 0), [b"d"])]


def test_a_producer_raises_the_first_error_and_keeps_the_rest() -> None:
    outcomes: list[list[Position | WalrusError]] = [
        [*places(0, 1), UNKNOWN, Unreachable("gone")],
        places(1, 4),
    ]
    producer = Producer(Numbering("t", "x"), lambda call, timeout: outcomes.pop(0))
    with pytest.raises(OutcomeUnknown):
        producer.put_many([b"a", b"b", b"c"])
    assert (producer.next_number, producer.kept) == (1, 2)
    assert producer.put(b"d") == Position(1, 3), "its own place, not that of what was kept"
    assert (producer.next_number, producer.kept) == (4, 0)
    producer.flush()  # nothing to send


def test_an_interrupted_call_keeps_what_it_sent() -> None:
    def interrupted(call: Any, timeout: float | None) -> list[Any]:
        raise KeyboardInterrupt

    producer = Producer(Numbering("t", "x"), interrupted)
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
    assert producer.kept == 0
