"""Append times: what every copy says of when an entry was appended, and the place of a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.test_queues import payloads
from tests.broker.test_retention_metadata import trim
from tests.broker.test_segments import cluster, seal
from tests.broker.world import EPOCH, NodeWorld, config, three
from walrus import protocol
from walrus.broker.times import Times
from walrus.protocol import Fetch, Find, Receive, Seek, Time
from walrus.segments import Command, DeleteTopic, Metadata, Position, RegisterTopic
from walrus.storage.batch import EMPTY, Batch
from walrus.wire import errors


def times(world: NodeWorld, node: int, segment: int, count: int) -> list[int]:
    """When the entries of a segment were appended, as this node tells it."""
    replies = world.ask(node, Fetch("t", segment, 0, count, times=True))
    return [protocol.split_time(protocol.split_fetched(reply[3:])[1])[0] for reply in replies]


def later(world: NodeWorld, seconds: float, *entries: str) -> int:
    """Append them then; returns the time on the wall, in unix milliseconds."""
    world.run(seconds)
    at = int((EPOCH + world.now) * 1000)
    assert world.put(1, "t", *entries) == [b"OK"] * len(entries)
    return at


def loaded() -> tuple[NodeWorld, list[int]]:
    """Three segments of three entries, the last of which is open and has two."""
    world = three(max_segment_entries=3)
    world.register("t")
    return world, [later(world, 1.0, *entries) for entries in ("ab", "cd", "e", "fgh")]


def test_all_nodes_say_the_same_of_when_an_entry_was_appended() -> None:
    world, begun = loaded()
    told = [
        [ms for number, count in ((1, 3), (2, 3), (3, 2)) for ms in times(world, node, number, count)]
        for node in (1, 2, 3)
    ]
    assert told[0] == told[1] == told[2], "TimesAgree"
    assert told[0] == sorted(told[0]), "TimesAscend"
    for at, entry in zip(begun, (0, 2, 4, 5), strict=True):
        assert at <= told[0][entry] < at + 900, "TimesAgree: the time is the leader's clock when it appended"
    (reply,) = world.ask(2, Receive("t", "g", times=True))
    assert protocol.split_time(protocol.split_received(reply[3:])[2]) == (told[0][0], b"a")


def test_a_clock_that_is_set_back_does_not_go_back_in_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    world = three()
    world.register("t")
    later(world, 1.0, "a")
    monkeypatch.setattr("tests.broker.world.EPOCH", EPOCH - 3600)
    later(world, 1.0, "b")
    before, after = times(world, 2, 1, 2)
    assert before == after, "TimesAscend: the writer waits until its clock has come back"


@pytest.mark.parametrize("node", [1, 2, 3])
def test_a_group_goes_to_the_first_entry_of_that_time_or_later(node: int) -> None:
    world, begun = loaded()
    entries = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]
    places = [(0, 0), *zip(begun, (0, 2, 4, 5), strict=True), (begun[-1] + 10**6, 8)]
    for number, (ms, first) in enumerate(places):
        group = f"g{number}"
        assert world.ask(node, Seek("t", group, Time(ms))) == [b"OK"]
        assert payloads(world, node, group) == entries[first:], f"time {ms}"
        place = Position(1 + first // 3, first % 3)
        assert world.ask(node, Find("t", Time(ms))) == [b"OK %d %d" % place], f"time {ms}"
    assert world.ask(node, Find("none", Time(0)))[0].startswith(b"ERR unknown topic none")


def test_a_time_finds_the_place_where_the_next_entry_of_an_empty_topic_comes() -> None:
    world = three()
    world.register("t")
    assert world.ask(1, Seek("t", "g", Time(5))) == [b"OK"]
    later(world, 1.0, "a")
    assert payloads(world, 2) == [b"a"], "NothingSkipped"


def test_a_segment_that_no_node_answers_for_is_said_so_and_the_group_stays() -> None:
    world, begun = loaded()
    for node in (2, 3):
        world.kill(node)
    for request in (Seek("t", "g", Time(begun[1])), Find("t", Time(begun[1]))):
        (reply,) = world.ask(1, request, within=60.0)
        assert reply.startswith(b"ERR no replica answered:"), reply


class Elsewhere:
    """`Reads`, as far as `Times` knows it, at a node that has nothing: the test answers what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Position, Any]] = []

    def readable(self, topic: str, number: int) -> int:
        return 0

    def leads(self, topic: str, number: int) -> bool:
        return False

    def holders(self, topic: str, number: int, connected: Any) -> list[int]:
        return sorted(connected)

    def ask(self, node: int, topic: str, number: int, start: int, *, then: Any, **_: Any) -> None:
        self.asked.append((Position(number, start), then))


def elsewhere(metadata: Metadata, reads: Elsewhere, connected: set[int]) -> Times:
    """A search of a node that has to ask these for everything."""
    return Times(config=config(9), metadata=metadata, reads=reads, connected=connected)  # type: ignore[arg-type]


def test_a_search_ends_however_slowly_and_seldom_replicas_answer() -> None:
    """Each question has its own time, and an answer starts the round of replicas anew."""
    metadata, reads, found = cluster(), Elsewhere(), list[object]()
    metadata.apply(seal(1, 1 << 33))
    times = elsewhere(metadata, reads, {1, 2, 3})
    times.find("t", 50, lambda place, now: found.append(place), 10.0)
    now, asked = 10.0, 0
    while not found:
        (_, answer), asked, now = reads.asked.pop(), asked + 1, now + 1.5
        answer(EMPTY if asked % 2 else Batch.of([b"x"]).timed(10), "no answer" if asked % 2 else "", now)
    (why,) = found
    assert str(why).startswith("no replica answered:") and now < 10.0 + 4.0 + 2.0, "request_timeout bounds it"


@pytest.mark.parametrize("meanwhile", ["sealed", "trimmed"])
def test_a_search_goes_on_over_a_segment_that_ends_meanwhile(meanwhile: str) -> None:
    """Its writer, which was asked, is none any more: that says nothing against the place."""
    metadata, reads, found = cluster(), Elsewhere(), list[object]()
    if meanwhile == "trimmed":
        metadata.apply(seal(1, 1 << 33))
    times = elsewhere(metadata, reads, {1})
    times.find("t", 50, lambda place, now: found.append(place), 0.0)
    place, answer = reads.asked.pop()
    while place < (1, 5) or place.segment == 2:
        answer(Batch.of([b"x"]).timed(10) if place.segment == 1 else EMPTY, "", 0.0)
        place, answer = reads.asked.pop()
    metadata.apply(seal(1, 7) if meanwhile == "sealed" else trim(1, 2))
    answer(EMPTY, "node 1 does not hold that part of the segment", 0.1)
    while not found:
        place, answer = reads.asked.pop()
        answer(Batch.of([b"x"]).timed(10 if place < (1, 6) else 60), "", 0.2)
    assert found == [Position(1, 6) if meanwhile == "sealed" else Position(2, 0)], "MarkInBounds"


AGAIN = RegisterTopic(topic="t", leader=1, replicas=(1, 2, 3), number=2)


@pytest.mark.parametrize(
    ("commands", "place"),
    [
        ([seal(1, 7), trim(1, 2)], Position(2, 0)),
        ([DeleteTopic(topic="t", born=1)], errors.unknown_topic("t")),
        ([DeleteTopic(topic="t", born=1), AGAIN], Position(2, 0)),
    ],
)
def test_a_search_names_no_place_in_what_is_gone(commands: list[Command], place: object) -> None:
    """Not even where the open segment, of which no node knows how long it was, would have ended."""
    metadata, reads, found = cluster(), Elsewhere(), list[object]()
    elsewhere(metadata, reads, {1}).find("t", 50, lambda place, now: found.append(place), 0.0)
    _, answer = reads.asked.pop()
    for command in commands:
        metadata.apply(command)
    answer(EMPTY, "segment 1 of t is gone", 0.1)
    while not found:
        _, answer = reads.asked.pop()
        answer(EMPTY, "", 0.2)
    assert found == [place], "MarkInBounds: a place in what is gone"


@pytest.mark.parametrize(("entries", "most"), [(0, 1), (3, 6), (1000, 22)])
def test_a_short_open_segment_costs_few_questions(entries: int, most: int) -> None:
    reads, found = Elsewhere(), list[object]()
    for ms in (0, entries // 2, entries):
        elsewhere(cluster(), reads, {1}).find("t", ms, lambda place, now: found.append(place), 0.0)
        questions = 0
        while not found:
            place, answer = reads.asked.pop()
            questions += 1
            there = place.offset < entries
            answer(Batch.of([b"x"]).timed(place.offset) if there else EMPTY, "", 0.0)
        assert found.pop() == Position(1, ms) and questions <= most


def test_times_are_told_to_a_connection_that_asked_for_them_and_to_no_other() -> None:
    parser = protocol.RequestParser()

    def parsed(*requests: bytes) -> list[protocol.Request]:
        return parser.feed(b"".join(map(protocol.frame, requests)))

    assert parsed(b"FETCH t 1 0") == [Fetch("t", 1, 0)]
    assert parsed(b"HELLO times=1 positions=1", b"FETCH t 1 0", b"FETCH t 1 0 50", b"RECEIVE t g") == [
        protocol.Greeting(positions=True, times=True),
        Fetch("t", 1, 0, times=True),
        Fetch("t", 1, 0, wait_ms=50, times=True),
        Receive("t", "g", times=True),
    ]
    assert protocol.Greeting(positions=True, times=True).granted == "positions=1 times=1"
    assert parsed(b"HELLO times=0", b"RECEIVE t g") == [protocol.Greeting(), Receive("t", "g")]
    (refused,) = parsed(b"SEEK t g time=soon")
    assert isinstance(refused, protocol.Invalid) and refused.reason == protocol.errors.SEEK_REQUIRES


@pytest.mark.parametrize("body", [b"FIND", b"FIND t", b"FIND t 5", b"FIND t time=-1", b"FIND t time=1 2"])
def test_find_needs_a_topic_and_a_time(body: bytes) -> None:
    assert protocol.parse_request(body) == protocol.Invalid(protocol.errors.FIND_REQUIRES)
