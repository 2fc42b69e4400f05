"""Limits of a node's logic that no other test reaches: what happens at each (docs/limits.md has them all)."""

from __future__ import annotations

import json

import pytest

from tests.broker.test_segments import announce, seal
from tests.broker.world import batch, three
from tests.replicas.test_reads import Bench as Reading
from tests.replicas.test_repair import Bench as Repairing
from tests.replicas.test_replication import Bench as Writing
from walrus import segments
from walrus.broker import consumers, controller, requests, status
from walrus.broker import lifecycle as lifecycles
from walrus.broker.lifecycle import Early, EarlyForwards
from walrus.protocol import Get, Metrics, Register, errors
from walrus.replicas import copies, puller, reads, repair, replication
from walrus.replicas.puller import Puller
from walrus.segments import RegisterTopic
from walrus.storage.batch import EMPTY, Batch
from walrus.wire import messages as m
from walrus.wire.effects import Outbox


def test_one_topic_more_than_a_cluster_keeps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = three()
    for module in (segments, requests):
        monkeypatch.setattr(module, "MAX_TOPICS", 2)
    world.register("a")
    world.register("b")
    assert world.ask(2, Register("c")) == [b"ERR " + errors.too_many_topics(2).encode()]
    assert world.ask(2, Register("b")) == [b"OK"], "those there are can be registered again"
    late = RegisterTopic(topic="c", leader=1, replicas=(1, 2, 3))
    metadata = world.nodes[1].metadata
    assert metadata.apply(late) is None and "c" not in metadata.topics, "nor when two ask at the same time"


def test_requests_that_wait_for_the_metadata_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING", 3)
    world = three()
    world.isolate(3)
    world.until(lambda: world.nodes[3].raft.leader_id is None)
    slots = [world.send(3, Register(f"t{number}")) for number in range(5)]
    world.step()
    assert [world.replies[slot] for slot in slots[3:]] == [[b"ERR " + errors.BUSY.encode()]] * 2
    world.cut.clear()
    world.until(lambda: all(world.replies[slot] == [b"OK"] for slot in slots[:3]))


def test_a_long_run_of_gets_is_asked_for_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "MAX_GET", 3)
    world = three()
    world.register("t")
    world.put(1, "t", *[str(number) for number in range(8)])
    asked: list[int] = []
    world.watch = lambda _, __, message: (
        asked.append(message.count) if isinstance(message, m.GetEntries) else None
    )
    node = next(node for node in (1, 2, 3) if node != world.topic("t").open.leader)
    assert world.ask(node, Get("t", "", 8)) == [b"OK %d" % number for number in range(8)]
    assert len(asked) >= 3 and max(asked) == 3


def test_forwards_that_come_too_early_are_bounded_in_number_and_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycles, "MAX_EARLY", 3)
    early = EarlyForwards(100)

    def add(topic: str, size: int) -> None:
        forward = m.Forward(request=1, topic=topic, segment=9, batch=batch("x" * size))
        early.add(Early(2, forward, deadline=10.0))

    for topic in ("a", "a", "a", "a", "b"):
        add(topic, 6)
    assert early.bytes == 40, "three of a, one of b: six bytes each, and four for the length"
    add("c", 57)
    assert early.bytes == 40 and not early.take("c"), "101 bytes would be too many"
    add("c", 56)
    assert early.bytes == 100
    assert [len(early.take(topic)) for topic in ("a", "b", "c", "d")] == [3, 1, 1, 0]
    assert early.bytes == 0 and not early
    add("a", 6)
    early.expire(9.0)
    assert early
    early.expire(10.0)
    assert not early and early.bytes == 0


def test_a_turn_that_does_not_end_stops_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    world = three()
    monkeypatch.setattr(controller.Controller, "_has_work", lambda self, now: True)
    with pytest.raises(AssertionError, match="a turn that does not end"):
        world.nodes[1].flush(world.now)


def test_metrics_stay_small_however_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = three()
    for number in range(8):
        world.register(f"t{number}")
    leader = world.topic("t0").open.leader

    def own() -> dict[str, object]:
        found: dict[str, object] = json.loads(world.ask(leader, Metrics())[0])
        return found

    led = own()["leases"]
    assert isinstance(led, int) and led >= 2 and own()["metadata_digest"]
    monkeypatch.setattr(status, "MAX_DIGESTED", 7)
    monkeypatch.setattr(status, "MAX_LEASES", 1)
    held = own()["leases_held"]
    assert own()["metadata_digest"] is None
    assert isinstance(held, dict) and len(held) == 1 and own()["leases"] == led


# --- replicas ---


def test_a_turn_appends_a_bounded_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MAX_TURN_BYTES", 20)
    bench = Writing()
    for number in range(3):
        bench.put("x" * 6, f"{number:06}")  # a weight of 20
    bench.put(*[""] * 5)
    bench.put("z")
    bench.flush()
    batches = [[len(entry) for entry in entries] for to, _, entries in bench.frames() if to == 2]
    assert batches == [[6, 6], [6, 6], [6, 6], [0] * 5, [1]], "empty entries weigh something, too"


def test_a_read_has_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_READ_ENTRIES", 2)
    bench = Writing()
    bench.put("", "", "", "", "")
    bench.flush()
    got = bench.copies.read(bench.writer.copy, 1, 5, 1 << 30, 1 << 20)
    assert got.count == 2


def test_damage_is_stepped_over_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_DAMAGED", 2)
    bench = Reading(sealed=3)
    bench.memory.damaged |= {("t/1", 0), ("t/1", 1), ("t/1", 2)}
    assert [bench.reads.gap_end("t", 1, start) for start in range(5)] == [2, 3, 3, 3, 4]


def test_pulls_and_repairs_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "MAX_REPAIRS", 4)
    bench = Repairing()
    bench.metadata.apply(announce(4, 0))
    for number in range(2, 20):
        bench.metadata.apply(seal(number, 7))
    bench.tick([1, 2, 4], [1, 2, 3, 4])
    assert len(bench.repairs._under_way) == 4
    reading = Reading()
    asked: list[m.Read] = []
    pulls = Puller(copies=reading.copies, reads=reading.reads, outbox=Outbox(1))
    for number in range(2, 100):
        pulls.pull(reading.copies.get(("t", number)), 5, 2, 0.0, lambda: None)
        asked += reading.sent(m.Read)
    assert len(asked) == puller.MAX_PULLS
    reading.reads.on_reply(
        2, m.ReadReply(request=asked[0].request, batch=Batch.of([]), error="not here"), 0.0
    )
    assert len(reading.sent(m.Read)) == 1, "one that ended makes room for the next"


def test_large_copies_share_the_room_in_bytes_and_small_ones_go_side_by_side() -> None:
    bench, entries = Reading(), 100_000
    pulls = Puller(copies=bench.copies, reads=bench.reads, outbox=Outbox(1))
    for number in range(2, 2 + 2 * puller.MAX_PULLS):
        pulls.pull(bench.copies.get(("t", number)), entries, 2, 0.0, lambda: None)
    asked = {read.request: read for read in bench.sent(m.Read)}
    assert len(asked) == puller.MAX_PULLS, "before anything is known of them, many ask for a little"
    large = [2, 3, 4, 5]
    for _ in range(1_000):
        request, read = next(iter(asked.items()))
        del asked[request]
        piece = Batch.of([b"x" * (read.max_bytes - 4)] if read.segment in large else [b"x"])
        error = "" if read.segment in large else "it was small: done"
        bench.reads.on_reply(2, m.ReadReply(request=request, batch=piece, error=error), 0.0)
        pulls.check_invariants()
        asked |= {read.request: read for read in bench.sent(m.Read)}
        assert sum(read.max_bytes for read in asked.values()) <= puller.MAX_PULL_BYTES
    assert [read.segment for read in asked.values()] == large, "none is starved"
    assert {read.max_bytes for read in asked.values()} == {puller.LARGEST_PIECE}


def test_a_large_copy_is_not_starved_by_small_ones_behind_it() -> None:
    bench, entries = Reading(), 100_000
    pulls = Puller(copies=bench.copies, reads=bench.reads, outbox=Outbox(1))
    for number in range(2, 1_000):
        pulls.pull(bench.copies.get(("t", number)), entries, 2, 0.0, lambda: None)
    asked = {read.request: read for read in bench.sent(m.Read)}
    largest = small = 0
    while largest < puller.LARGEST_PIECE:
        request = next((request for request, read in asked.items() if read.segment == 2), min(asked))
        read = asked.pop(request)
        if read.segment == 2:
            largest = read.max_bytes
        else:
            small += 1
        piece, error = (Batch.of([b"x"]), "") if read.segment == 2 else (EMPTY, "it was small: done")
        bench.reads.on_reply(2, m.ReadReply(request=request, batch=piece, error=error), 0.0)
        asked |= {read.request: read for read in bench.sent(m.Read)}
        assert small <= puller.MAX_PULLS, "FailoverProgress: small copies starve a large one"
