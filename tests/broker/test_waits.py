"""GET and FETCH that wait: woken, over, gone, and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.test_segments import cluster, seal
from tests.broker.world import batch, config, three
from tests.replicas.test_reads import Bench
from walrus.broker import waits
from walrus.broker.waits import ASK_FOR, Parked, Waits
from walrus.deadlines import SWEEP_AT
from walrus.protocol import Fetch, Get
from walrus.replicas import reads
from walrus.segments import Position
from walrus.storage.batch import Batch
from walrus.wire import messages as m


class Questions:
    """`Reads`, as far as `Waits` knows it: the questions asked, to be answered by the test."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, float, Any]] = []

    def ask(
        self, node: int, topic: str, number: int, start: int, *, wait: float, then: Any, **_: Any
    ) -> None:
        self.asked.append((node, start, wait, then))


class Desk:
    """The waits of node 1; nodes 2 and 3 are connected, and node 1 leads t/1."""

    def __init__(self) -> None:
        self.metadata, self.reads = cluster(), Questions()
        self.connected, self.open = {2, 3}, {"client"}
        self.said: list[object] = []
        self.waits = Waits(
            config=config(),
            metadata=self.metadata,
            reads=self.reads,  # type: ignore[arg-type]
            is_open=lambda slot: slot in self.open,
            connected=self.connected,
        )

    def park(self, offset: int = 0, until: float = 60.0, segment: int = 1) -> None:
        def came(found: Batch, at: float) -> None:
            self.said.append(found.payloads())

        place = Position(segment, offset)
        self.waits.park(Parked("client", "t", place, until, came, lambda: self.said.append("over")), now=0.0)
        self.waits.check_invariants()


def test_an_entry_wakes_the_request_that_waits_for_it() -> None:
    desk = Desk()
    desk.park(offset=7)
    ((node, start, wait, then),) = desk.reads.asked
    assert (node, start, wait) == (1, 7, ASK_FOR), "Replies: asked for a while only: a client may be gone"
    then(batch("a"), "", 1.0)
    assert desk.said == [[b"a"]], "ReadProgress"
    then(batch("b"), "", 1.0)
    desk.waits.on_tick(100.0)
    assert desk.said == [[b"a"]], "DeliveredIsPrefix: answered once"
    desk.waits.check_invariants()


def test_its_time_may_be_over_before_the_writer_says_anything() -> None:
    desk = Desk()
    desk.park(until=5.0)
    assert desk.waits.next_deadline() == 5.0 and desk.reads.asked[0][2] == 5.0, (
        "Replies: not answered in its time"
    )
    desk.waits.on_tick(4.9)
    assert desk.said == [], "Replies: answered twice"
    desk.waits.on_tick(5.0)
    desk.reads.asked[0][3](batch("late"), "", 5.1)
    assert desk.said == ["over"], "ReadProgress"


def test_without_an_answer_the_writer_is_asked_again_and_of_a_client_that_is_gone_nothing_is_kept() -> None:
    desk = Desk()
    desk.park()
    desk.reads.asked[0][3](batch(), "no answer", 1.0)
    desk.waits.on_tick(1.1)
    assert len(desk.reads.asked) == 2 and desk.said == [], "ReadProgress"
    desk.open.clear()
    desk.reads.asked[1][3](batch(), "", 11.0)
    desk.waits.on_tick(11.1)
    assert len(desk.reads.asked) == 2 and not desk.waits._parked and desk.said == [], "Replies: it is gone"


def test_the_end_of_the_segment_wakes_it_with_nothing() -> None:
    desk = Desk()
    desk.park(offset=3)
    desk.metadata.apply(seal(1, 3))
    desk.waits.on_topic("t", 1.0)
    assert desk.said == [[]], "ReadProgress"


def test_a_writer_that_is_not_reached_is_asked_when_it_is() -> None:
    desk = Desk()
    desk.metadata.apply(seal(1, 3))  # node 2 leads t/2
    desk.connected.clear()
    desk.park(segment=2)
    assert desk.reads.asked == [], "Replies: asked of a node that is not reached"
    desk.connected.add(2)
    desk.waits.on_connection(1.0)
    assert [node for node, *_ in desk.reads.asked] == [2], "ReadProgress"


def test_requests_that_wait_for_an_entry_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "MAX_WAITS", 2)
    desk = Desk()
    desk.park()
    assert not desk.waits.full, "Replies: refused although there is room"
    desk.park()
    assert desk.waits.full, "Replies: more wait than may"
    desk.waits.stop()
    assert desk.said == ["over", "over"] and not desk.waits.full, "ReadProgress"


def test_waits_of_a_day_that_were_answered_at_once_leave_nothing_behind() -> None:
    desk = Desk()
    for _ in range(300):
        desk.park(until=86_400.0)
        desk.reads.asked.pop()[-1](batch("x"), "", 1.0)
    assert desk.said == [[b"x"]] * 300, "ReadProgress"
    assert len(desk.waits._parked.deadlines) <= SWEEP_AT


# --- at the writer ---


def waiting(start: int, wait: float = 10.0, request: int = 1) -> m.Read:
    return m.Read(
        request=request, topic="t", segment=1, start=start, max_entries=1, max_bytes=100, raw=False, wait=wait
    )


def test_the_writer_answers_when_there_is_an_entry_or_the_time_is_over() -> None:
    bench = Bench()
    bench.reads.on_read(2, waiting(1), 0.0)
    (reply,) = bench.sent(m.ReadReply)
    assert reply.batch.payloads() == [b"b"], "ReadProgress: it is there: at once"
    bench.reads.on_read(2, waiting(2), 0.0)
    bench.reads.on_advanced(["t"])
    assert bench.sent(m.ReadReply) == [], "DeliveredIsPrefix: two are acknowledged"
    bench.reads._commit_index = lambda topic, number: 3
    bench.reads.on_advanced(["other"])
    bench.reads.check_invariants()
    bench.reads.on_advanced(["t"])
    (reply,) = bench.sent(m.ReadReply)
    assert reply.batch.payloads() == [b"c"], "ReadProgress"
    bench.reads.on_read(2, waiting(3, wait=5.0), 0.0)
    bench.reads.on_tick(5.0)
    (reply,) = bench.sent(m.ReadReply)
    assert not reply.batch.count and not reply.error, "DeliveredIsPrefix"
    bench.reads.check_invariants()


def test_questions_that_wait_for_an_entry_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_HELD", 1)
    bench = Bench()
    bench.reads.on_read(2, waiting(2, request=1), 0.0)
    bench.reads.on_read(2, waiting(2, request=2), 0.0)
    (reply,) = bench.sent(m.ReadReply)
    assert (reply.request, reply.batch.count) == (2, 0), "Replies: asked again, later"


def test_questions_that_were_answered_at_once_leave_nothing_behind() -> None:
    """Whichever end: the one that asks, and the one that is asked."""
    bench = Bench()
    for request in range(300):
        bench.reads._commit_index = lambda topic, number: 2
        bench.reads.on_read(2, waiting(2, wait=60.0, request=request), 0.0)
        bench.reads._commit_index = lambda topic, number: 3
        bench.reads.on_advanced(["t"])
        bench.reads.ask(2, "t", 1, 0, entries=1, raw=False, now=0.0, then=lambda *_: None, wait=60.0)
        (asked,) = bench.sent(m.Read)
        bench.reads.on_reply(2, m.ReadReply(request=asked.request, batch=Batch(b"", b""), error=""), 0.0)
    bench.reads.check_invariants()
    assert max(len(bench.reads._due), len(bench.reads._hold_until)) <= SWEEP_AT


@pytest.mark.parametrize("leads", [True, False])
def test_an_orderly_stop_answers_what_waits_for_an_entry(leads: bool) -> None:
    """Replies: a client is told that there is no entry, and not cut off."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    node = leader if leads else leader % 3 + 1
    waiting = [
        world.send(node, request)
        for request in (Get("t", "g", wait_ms=60_000), Fetch("t", 1, 0, wait_ms=60_000))
    ]
    world.run(1.0)
    assert [world.replies[slot] for slot in waiting] == [[], []], "ReadProgress: they wait"
    world.nodes[node].stop(world.now)
    world.run(0.1)
    assert [world.replies[slot] for slot in waiting] == [[b"EMPTY"]] * 2, "Replies"


def test_a_wait_without_end_is_a_flaw() -> None:
    assert m.flaw(waiting(0, wait=float("inf"))) and m.flaw(waiting(0, wait=-1.0)) and not m.flaw(waiting(0))
