"""Entries that are on no replica any more: a cursor steps over them once that is certain, never before."""

from __future__ import annotations

import pytest

from tests.broker.test_cursors import Bench
from tests.broker.test_segments import seal
from tests.broker.world import NodeWorld, three
from walrus.broker import gaps
from walrus.protocol import Fetch, Get
from walrus.segments import Position
from walrus.wire import errors
from walrus.wire import messages as m
from walrus.wire.effects import LogLine, Send
from walrus.wire.errors import CURSOR_STUCK


class Short(Bench):
    """Segment 1 is sealed with five entries; node 1 has the first two, and its cursor stands behind them."""

    def __init__(self) -> None:
        super().__init__("a", "b")
        self.metadata.apply(seal(1, 5, leader=1))
        self.commit_index = 0
        self.topic_changed()
        self.confirm(self.get(5))
        assert self.given() == [(1, [b"a", b"b"])]
        self.get(5)

    def fail_reads(self) -> None:
        """The replicas that were asked for the entries do not give them."""
        for to, read in self.sent(m.Read):
            reply = m.ReadReply(request=read.request, batch=m.Batch.of([]), error="not here")
            self.reads.on_reply(to, reply, self.now)

    def gap(self, node: int, end: int) -> None:
        self.cursors.on_gap(node, m.Gap(topic="t", segment=1, start=2, end=end), self.now)
        self.cursors.check_invariants()

    def position(self) -> Position:
        return self.cursors.cursors()["t", ""].position


def test_entries_that_every_replica_lacks_are_stepped_over_counted_and_named():
    bench = Short()
    bench.fail_reads()
    assert {to for to, _ in bench.sent(m.FindGap)} == {2, 3}, (
        "NothingSkipped: stepped over before all replicas were asked"
    )
    bench.gap(2, 5)
    assert bench.position() == (1, 2), "DeliveredIsPrefix: node 3 may have them"
    bench.outbox.take()
    bench.gap(3, 5)
    effects = bench.outbox.take()
    assert bench.position() == (2, 0) and bench.cursors.lost == 3, (
        "DeliveredIsPrefix: more, or less, is stepped over than is lost"
    )
    assert [e.text for e in effects if isinstance(e, LogLine)] == [
        "lost: entries 2 to 4 of segment 1 of t are on none of its replicas; "
        "GET goes on behind them (group '')"
    ], "NothingSkipped: not counted or named"
    replies = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, m.GetReply)]
    assert [reply.batch.count for reply in replies] == [0], (
        "DeliveredIsPrefix: nothing more in the open segment"
    )


def test_a_replica_that_does_not_answer_may_have_them():
    bench = Short()
    bench.fail_reads()
    bench.gap(2, 5)
    for _ in range(50):
        bench.tick(0.1)
    assert bench.position() == (1, 2) and bench.cursors.lost == 0, (
        "DeliveredIsPrefix: a cursor goes over what a replica may have"
    )
    assert CURSOR_STUCK in [reply.error for _, reply in bench.sent(m.GetReply)], (
        "NothingSkipped: a replica that does not answer may have them"
    )


@pytest.mark.parametrize("end", [2, 3])
def test_a_cursor_goes_no_further_than_the_replica_that_lacks_least(end: int):
    bench = Short()
    bench.fail_reads()
    bench.gap(2, 5)
    bench.gap(3, end)
    assert bench.position() == (1, end) and bench.cursors.lost == end - 2, (
        "DeliveredIsPrefix: more, or less, is stepped over than is lost"
    )


def test_a_cursor_goes_over_nothing_that_is_not_acknowledged():
    """Every copy of the open segment is damaged behind entry 0, and entry 2 is not settled yet."""
    bench = Bench("a", "b", "not acknowledged")
    bench.commit_index = 2
    bench.memory.damaged |= {("t/1", 1), ("t/1", 2)}
    bench.confirm(bench.get())
    assert bench.given() == [(1, [b"a"])], "DeliveredIsPrefix"
    bench.get()
    for to, read in bench.sent(m.Read):
        failed = m.ReadReply(request=read.request, batch=m.Batch.of([]), error="damaged")
        bench.reads.on_reply(to, failed, bench.now)
    for node in (2, 3):
        bench.cursors.on_gap(node, m.Gap(topic="t", segment=1, start=1, end=3), bench.now)
    position = bench.cursors.cursors()["t", ""].position
    assert position == (1, 2), "CursorInBounds: an entry that may still be given up, or kept, is stepped over"


def test_the_word_of_a_replica_counts_for_a_while_only():
    bench = Short()
    bench.fail_reads()
    bench.gap(2, 5)
    bench.now += 60
    bench.gap(3, 5)
    assert bench.position() == (1, 2), "DeliveredIsPrefix: node 2 may have them by now"


def test_a_member_that_was_removed_is_not_waited_for():
    bench = Short()
    del bench.metadata.nodes[3]
    bench.fail_reads()
    bench.gap(2, 5)
    assert bench.position() == (2, 0), "ReadProgress"


def test_a_node_says_nothing_of_a_segment_that_it_is_no_replica_of():
    bench = Short()
    bench.outbox.take()
    for number in (1, 2, 7):
        bench.gaps.on_find(9, m.FindGap(topic="t", segment=number, start=2))
    assert bench.sent(m.Gap) == [
        (9, m.Gap(topic="t", segment=1, start=2, end=5)),
        (9, m.Gap(topic="t", segment=2, start=2, end=2)),
    ], "NothingSkipped: the word of a node that is no replica"


def test_places_asked_about_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gaps, "MAX_PLACES", 5)
    bench = Short()
    for offset in range(2, 5):
        for _ in range(4):
            bench.gaps.end(("t", 1, offset), bench.now)
    for number in range(20):
        bench.metadata.topics["t"].segments.append(bench.metadata.topics["t"].segments[0])
        bench.gaps.end(("t", number + 3, 4), bench.now)
    assert len(bench.gaps._inquiries) == 5
    bench.tick(60.0)
    bench.tick(60.0)  # no client waits any more
    assert not bench.gaps._inquiries


# --- whole clusters ---


def filled(**settings: object) -> NodeWorld:
    """Segments of five entries, twelve in all."""
    world = three(max_segment_entries=5, **settings)
    world.register("t")
    for number in range(12):
        world.until(lambda number=number: world.put(1, "t", str(number)) == [b"OK"])
    world.run(1.0)
    return world


def rest_of(world: NodeWorld, node: int, group: str) -> list[int]:
    return [int(payload) for payload in world.get_all(node, "t", group)]


@pytest.mark.parametrize("kept", [0, 3])
def test_get_goes_on_behind_a_documented_loss(kept: int):
    world = filled()
    for node in (1, 2, 3):
        world.kill(node)
        world.stores[node][0].entries["t/1"][kept:] = []
    for node in (1, 2, 3):
        world.start(node)
    world.until(lambda: world.put(2, "t", "99") == [b"OK"])
    for node in (1, 2, 3):
        assert rest_of(world, node, f"g{node}") == [*range(kept), *range(5, 12), 99], "DeliveredIsPrefix"
    assert sum(world.metrics(node)["entries_lost"] for node in (1, 2, 3)) == 3 * (5 - kept), (
        "DeliveredIsPrefix"
    )
    assert any(f"lost: entries {kept} to 4 of segment 1 of t" in line for line in world.logs), (
        "NothingSkipped: the log does not name what is lost"
    )


@pytest.mark.parametrize("node", [1, 2, 3])
def test_fetch_of_what_is_lost_says_so_and_where_to_go_on(node: int):
    world = filled()
    for each in (1, 2, 3):
        world.kill(each)
        world.stores[each][0].entries["t/1"][2:] = []
    for each in (1, 2, 3):
        world.start(each)
    world.until(lambda: world.put(2, "t", "99") == [b"OK"])
    lost = b"ERR " + errors.lost("t", 1, 2, 5).encode()
    assert world.ask(node, Fetch("t", 1, 1, 6)) == [b"OK 2 1", lost, lost, lost, b"EMPTY", b"EMPTY"], (
        "NothingSkipped: what is lost is told otherwise"
    )
    further = b"ERR " + errors.lost("t", 1, 4, 5).encode()
    assert world.ask(node, Fetch("t", 1, 4, 1)) == [further], "NothingSkipped: what is lost is told otherwise"


def test_fetch_of_what_a_silent_replica_may_have_says_that_none_answered():
    world = filled()
    world.kill(1)
    world.kill(2)
    for node in (1, 2):
        world.stores[node][0].entries["t/1"][3:] = []
    world.kill(3)
    world.start(1)
    world.start(2)
    world.until(lambda: world.put(2, "t", "99") == [b"OK"])
    assert world.ask(2, Fetch("t", 1, 3, 1))[0].startswith(b"ERR no replica answered"), (
        "DeliveredIsPrefix: a silent replica may have it"
    )
    world.start(3)
    world.until(lambda: world.ask(2, Fetch("t", 1, 3, 1)) == [b"OK 4 3"])


def test_get_waits_for_the_replica_that_may_have_the_entries():
    world = filled()
    world.kill(1)
    world.kill(2)
    for node in (1, 2):
        world.stores[node][0].entries["t/1"][3:] = []
    world.kill(3)
    world.start(1)
    world.start(2)
    world.until(lambda: world.put(2, "t", "99") == [b"OK"])
    assert [world.ask(2, Get("t", "g")) for _ in range(4)][3][0].startswith(b"ERR no replica answered"), (
        "DeliveredIsPrefix: a silent replica may have it"
    )
    world.start(3)
    assert rest_of(world, 2, "h") == [*range(12), 99], (
        "DeliveredIsPrefix: node 3 has them all, and the others get them back"
    )
    assert all(world.metrics(node)["entries_lost"] == 0 for node in (1, 2, 3)), "DeliveredIsPrefix"


def test_get_goes_on_behind_an_entry_that_is_damaged_everywhere():
    world = filled()
    for node in (1, 2, 3):
        world.stores[node][0].damaged |= {("t/1", 1), ("t/1", 2)}
    assert rest_of(world, 1, "g") == [0, *range(3, 12)], "DeliveredIsPrefix, ReadProgress"
