"""What a caller hands in is refused or made whole before a byte leaves, in both clients.

A client writes into a stream of frames that other calls share, so each test here asks what the node saw, and
whether the connection is still in step.
"""

from __future__ import annotations

import array
import inspect
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.client.faces import MakeClient, places
from tests.client.fake import FakeNode, MemoryLog, free_port
from walrus.client import AsyncClient, Client, InvalidTopic, PayloadTooLarge, Unreachable
from walrus.protocol import MAX_NUMBER, MAX_SKIP_BYTES

INJECTED = b"PUT victim injected"
HOSTILE = (b"x" * 8 + len(INJECTED).to_bytes(4, "little") + INJECTED).ljust(32, b"\0")
"""Sent behind a frame header that counts a quarter of it, the rest would be a request of its own."""


class Evasive(bytes):
    """A bytes that lies about itself, as a lazy or decoded view might."""

    def __len__(self) -> int:
        return 1

    def __bytes__(self) -> bytes:
        return b"?"


BUFFERS: dict[str, tuple[Any, bytes]] = {
    "bytearray": (bytearray(b"abc"), b"abc"),
    "view": (memoryview(b"abc"), b"abc"),
    "view of four-byte items": (memoryview(HOSTILE).cast("I"), HOSTILE),
    "view of two dimensions": (memoryview(HOSTILE).cast("B", (4, 8)), HOSTILE),
    "strided view": (memoryview(b"a-b-c-")[::2], b"abc"),
    "strided view of items": (
        memoryview(array.array("H", range(8)))[::-2],
        array.array("H", [7, 5, 3, 1]).tobytes(),
    ),
    "array": (array.array("d", [1.0, 2.0]), array.array("d", [1.0, 2.0]).tobytes()),
    "subclass of bytes": (Evasive(HOSTILE), HOSTILE),
    "empty view": (memoryview(b""), b""),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_every_byte_of_a_buffer_is_stored(connect: MakeClient, kind: str) -> None:
    given, stored = BUFFERS[kind]
    with FakeNode(log=MemoryLog(topics={"t": [[]], "victim": [[]]})) as node:
        client = connect(node)
        client.put("t", given)
        assert client.put_many("t", [b"before", given, b"behind"]) == places(1, 4)
        assert node.log.topics == {"t": [[stored, b"before", stored, b"behind"]], "victim": [[]]}
        assert node.connections == 1


def test_a_buffer_that_changes_during_the_call_is_sent_as_it_was(connect: MakeClient) -> None:
    changing = [bytearray(b"%d" % n) for n in range(3)]

    def entries() -> Iterator[bytearray]:
        for entry in changing:
            yield entry
            entry[:] = b"changed"

    with FakeNode(log=MemoryLog(topics={"t": [[]]})) as node:
        assert connect(node).put_many("t", entries()) == places(0, 3)
        assert node.log.topics["t"] == [[b"0", b"1", b"2"]]


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


class Failing:
    """Entries that raise in the middle, as a source of data may."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError


NO_NAMES: list[tuple[Any, type[Exception]]] = [
    *((name, TypeError) for name in (b"t", None, 7, ["t"])),
    *((name, InvalidTopic) for name in ("a b", "a\n", "\u2003", "x" * 256, "\ud800")),
]
NO_ENTRIES: list[tuple[Any, type[Exception]]] = [
    *((entry, TypeError) for entry in ("text", None, 7, 1.5, [1, 2], object())),
    (released(), ValueError),
    (bytes(MAX_SKIP_BYTES), PayloadTooLarge),
    (memoryview(bytes(MAX_SKIP_BYTES)).cast("I"), PayloadTooLarge),
]
NO_NUMBERS: list[tuple[Any, type[Exception]]] = [
    *((number, TypeError) for number in ("1", 1.0, None, b"1")),
    *((number, ValueError) for number in (-1, MAX_NUMBER + 1)),
]
NO_TIMEOUTS: list[tuple[Any, type[Exception]]] = [
    *((seconds, ValueError) for seconds in (0, -1, -0.0, math.nan, math.inf, -math.inf, 1e300, 10**400)),
    *((seconds, TypeError) for seconds in ("1", b"1", [1], 1j)),
]
NO_TIMES: list[tuple[Any, type[Exception]]] = [
    *((seconds, ValueError) for seconds in (-1, -0.1, math.nan, math.inf, 86_401, 10**400)),
    *((seconds, TypeError) for seconds in ("1", None, [1], 1j, True)),
]
NO_RECEIPTS: list[tuple[Any, type[Exception]]] = [
    *((receipt, TypeError) for receipt in (b"1.0.0.1", None, 7, 1.5)),
    *(
        (receipt, ValueError)
        for receipt in ("", "1", "1.0.0.1 2", "1.0.0.1\n", "0.0.0.1", "\ud800", "9" * 99)
    ),
]
GOOD: dict[str, dict[str, Any]] = {
    "register": {"topic": "t", "settings": {"retain_entries": 1}},
    "configure": {"topic": "t", "settings": {"retain_entries": 1}},
    "delete": {"topic": "t"},
    "put": {"topic": "t", "payload": b"x"},
    "put_many": {"topic": "t", "payloads": [b"x"]},
    "get": {"topic": "t", "group": "g", "wait": 0},
    "get_many": {"topic": "t", "count": 1, "group": "g"},
    "fetch": {"topic": "t", "segment": 1, "offset": 0, "wait": 0},
    "fetch_many": {"topic": "t", "segment": 1, "offset": 0, "count": 1},
    "entries": {"topic": "t", "segment": 1, "offset": 0},
    "find": {"topic": "t", "time": datetime(2026, 11, 26, tzinfo=UTC)},
    "topics": {"prefix": "t"},
    "groups": {"topic": "t"},
    "follow": {"topic": "t", "segment": 1, "offset": 0, "group": "", "prefetch": 1},
    "scan": {"topic": "t", "segment": 1, "offset": 0},
    "state": {"topic": "t"},
    "metrics": {},
    "leave": {"node_id": 3, "force": True},
    "recover": {"topic": "t", "segment": 1},
    "receive": {"topic": "t", "group": "g", "wait": 0.0},
    "receive_many": {"topic": "t", "group": "g", "count": 1, "wait": 0.0},
    "ack": {"topic": "t", "group": "g", "receipt": "1.0.0.1"},
    "ack_many": {"topic": "t", "group": "g", "receipts": ["1.0.0.1"]},
    "nack": {"topic": "t", "group": "g", "receipt": "1.0.0.1", "delay": 0.0},
    "extend": {"topic": "t", "group": "g", "receipt": "1.0.0.1", "seconds": 1.0},
    "seek": {"topic": "t", "group": "g", "to": "begin"},
}
BAD: dict[str, list[tuple[Any, type[Exception]]]] = {
    "topic": [*NO_NAMES, ("", InvalidTopic)],
    "group": NO_NAMES,
    "prefix": NO_NAMES,
    "payload": NO_ENTRIES,
    "payloads": [
        *(([b"a", entry, b"b"], error) for entry, error in NO_ENTRIES),
        *((one, TypeError) for one in (b"abc", "abc", bytearray(b"abc"), memoryview(b"abc"), 7, None)),
        (Failing(), ZeroDivisionError),
    ],
    "segment": [*NO_NUMBERS, (0, ValueError)],
    "offset": NO_NUMBERS,
    "count": NO_NUMBERS,
    "prefetch": [*NO_NUMBERS, (0, ValueError)],
    "time": [
        (datetime(2026, 11, 26), ValueError),
        *((time, TypeError) for time in (1_764_140_000, "2026-11-26", None)),
    ],
    "node_id": [*NO_NUMBERS, (0, ValueError)],
    "force": [(force, TypeError) for force in ("no", b"force", 0, None)],
    "timeout": NO_TIMEOUTS,
    "wait": NO_TIMES,
    "delay": NO_TIMES,
    "seconds": NO_TIMES,
    "receipt": NO_RECEIPTS,
    "receipts": [*(([one], error) for one, error in NO_RECEIPTS), ("1.0.0.1", TypeError), (7, TypeError)],
    "settings": [
        *(
            ({name: value}, ValueError)
            for name, value in (("nope", 1), *(("retain_entries", n) for n in (-1, "x")))
        ),
        *((settings, TypeError) for settings in (7, [1], "retain_entries=1")),
    ],
    "to": [(place, ValueError) for place in ("middle", 1, None, (1,), (0, 0), (1, -1), (1, 2, 3))],
}


def test_the_tables_name_every_method_and_parameter() -> None:
    for kind in (Client, AsyncClient):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            # `consume` is of these calls, and `producer` has tests of its own.
            if name.startswith("_") or name in ("close", "consume", "producer"):
                continue
            parameters = set(inspect.signature(method).parameters) - {"self", "timeout", "retry"}
            assert parameters == set(GOOD[name]), name
    assert set().union(*GOOD.values()) | {"timeout"} == set(BAD)


@pytest.mark.parametrize("method", GOOD)
def test_a_bad_argument_is_refused_before_anything_leaves(connect: MakeClient, method: str) -> None:
    with FakeNode(log=MemoryLog(topics={"t": [[]]})) as node:
        client = connect(node)
        client.metrics()
        for name in [*GOOD[method], "timeout"]:
            for value, error in BAD[name]:
                if (method, name, value) == ("receive", "wait", None):
                    continue  # it waits for ever
                with pytest.raises(error):
                    called = getattr(client, method)(**GOOD[method] | {name: value})
                    list(called or ())  # an iterator does nothing before it is asked
        assert len(node.seen) == 1, "only the first call was sent"
        assert client.metrics()["id"] == 1 and node.connections == 1


@pytest.mark.parametrize(("timeout", "error"), NO_TIMEOUTS)
def test_a_client_without_a_good_timeout_is_not_made(timeout: Any, error: type[Exception]) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(error, match="number of seconds"):
            kind("127.0.0.1:9091", timeout=timeout)


def test_a_timeout_that_is_set_later_is_checked_too(connect: MakeClient) -> None:
    with FakeNode() as node:
        client = connect(node)
        getattr(client, "_client", client).timeout = math.nan
        with pytest.raises(ValueError, match="number of seconds"):
            client.metrics()
        assert node.seen == []


@pytest.mark.parametrize("addresses", [None, 9091, b"127.0.0.1:9091", [("127.0.0.1", 9091)], [9091], [None]])
def test_addresses_of_another_type_are_refused(addresses: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(TypeError):
            kind(addresses)


def test_many_reads_of_a_short_topic_stop_at_its_end(connect: MakeClient) -> None:
    with FakeNode(log=MemoryLog(topics={"t": [[b"a", b"b"]]})) as node:
        client = connect(node)
        assert client.get_many("t", 1 << 62) == [b"a", b"b"]
        assert client.fetch_many("t", 1, 0, 1 << 62) == [b"a", b"b"]
        assert len(node.seen) <= 2 * 2 * 256, "a window or two of requests, not as many as were asked for"


def test_many_reads_that_nobody_answers_fail_as_one(connect: MakeClient) -> None:
    client = connect(f"127.0.0.1:{free_port()}", timeout=0.1)
    for ask in (lambda: client.get_many("t", 1 << 62), lambda: client.fetch_many("t", 1, 0, 1 << 62)):
        with pytest.raises(Unreachable):
            ask()
