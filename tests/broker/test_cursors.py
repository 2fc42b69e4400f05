"""Cursors at the topic's leader: in order, at least once, no gap, nothing twice on a healthy rollover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.broker.test_segments import cluster, seal
from tests.broker.world import batch, config, three
from walrus import protocol
from walrus.broker import cursors as c
from walrus.broker.cursors import Cursors
from walrus.broker.gaps import Gaps
from walrus.leases import LeaseTable
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.reads import Reads
from walrus.segments import START, CommitCursors, Position
from walrus.sim.memory import MemoryEngine
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send, no_trace


class Bench:
    """Node 1 leads t; its open segment has the given acknowledged entries. 2 and 3 have clients."""

    def __init__(self, *payloads: str, sealed: bool = False, here: bool = True) -> None:
        self.now = 100.0
        self.commit_index = len(payloads)
        self.memory = MemoryEngine()
        self.copies = Copies(Durable(self.memory), Durable(MemoryEngine()))
        self.metadata = cluster()
        self.copy = self.copies.get(("t", 1))
        if payloads and here:
            self.copies.append(self.copy, 0, batch(*payloads), lambda: None)
        self.leases = LeaseTable(1, 1, ttl=1000.0)
        if sealed:
            self.metadata.apply(seal(1, len(payloads), leader=1))
            self.commit_index = 0
        self.leases.reconcile(self.metadata)
        self.leases.heard(self.now)
        self.outbox = Outbox(1)
        self.reads = Reads(
            config=config(),
            copies=self.copies,
            metadata=self.metadata,
            outbox=self.outbox,
            commit_index=lambda topic, number: (
                self.commit_index if number == self.metadata.topics["t"].current else None
            ),
            first_request=0,
        )
        self.gaps = Gaps(
            config=config(),
            metadata=self.metadata,
            reads=self.reads,
            outbox=self.outbox,
            connected={2, 3},
        )
        self.fresh = True
        """Whether a ReadIndex is answered; otherwise it stays in `asked`."""
        self.asked: list[Callable[[bool, float], None]] = []
        self.cursors = Cursors(
            config=config(),
            metadata=self.metadata,
            reads=self.reads,
            leases=self.leases,
            ask=self._ask,
            outbox=self.outbox,
            trace=no_trace,
            connected={2, 3},
            gaps=self.gaps,
        )
        self.request = 0

    def _ask(self, then: Callable[[bool, float], None], now: float) -> None:
        if self.fresh:
            then(True, now)
        else:
            self.asked.append(then)

    def get(self, count: int = 1, *, origin: int = 2, group: str = "", request: int | None = None) -> int:
        self.request += 1
        number = self.request if request is None else request
        asked = m.GetEntries(request=number, topic="t", group=group, count=count)
        self.cursors.on_get(origin, asked, self.now)
        self.cursors.check_invariants()
        return number

    def confirm(self, request: int, *, origin: int = 2, delivered: bool = True, group: str = "") -> None:
        self.cursors.on_confirm(
            origin, m.Confirm(request=request, topic="t", group=group, delivered=delivered), self.now
        )
        self.cursors.check_invariants()

    def sent(self, kind: type[Any]) -> list[tuple[int, Any]]:
        sent = [(e.to, e.message) for e in self.outbox.take() if isinstance(e, Send)]
        return [(to, message) for to, message in sent if isinstance(message, kind)]

    def given(self) -> list[tuple[int, list[bytes]]]:
        return [(reply.request, reply.batch.payloads()) for _, reply in self.sent(m.GetReply)]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.cursors.on_tick(self.now)
        self.reads.on_tick(self.now)
        self.cursors.check_invariants()

    def topic_changed(self) -> None:
        self.leases.reconcile(self.metadata)
        self.cursors.on_topic("t", self.now)
        self.cursors.check_invariants()

    def committed(self) -> dict[str, Position]:
        self.now += 1
        command = self.cursors.to_commit(self.now)
        return command.cursors["t"] if command else {}


def test_entries_come_in_order_and_then_none():
    bench = Bench("a", "b", "c")
    bench.confirm(bench.get(2))
    bench.confirm(bench.get(2))
    bench.get(2)
    assert [entries for _, entries in bench.given()] == [[b"a", b"b"], [b"c"], []], "DeliveredIsPrefix"


def test_what_is_not_acknowledged_is_not_given():
    bench = Bench("a", "b")
    bench.commit_index = 1
    bench.confirm(bench.get(5))
    bench.get(5)
    assert [entries for _, entries in bench.given()] == [[b"a"], []], (
        "DeliveredIsPrefix: what is not acknowledged is handed out"
    )


def test_a_leader_that_only_hears_gives_nothing_since_its_topic_may_be_deleted():
    bench = Bench("a", "b")
    bench.confirm(bench.get())
    bench.fresh = False
    bench.leases.heard(
        bench.now + 1000
    )  # as of a Raft leader whose heartbeats arrive, and that hears nothing
    bench.tick(config().lease_ttl)
    bench.given()
    waits = bench.get()
    assert bench.given() == [], "NoFrameOfAnOldTopic: given by a leader that may have been replaced long ago"
    bench.asked.pop()(False, bench.now)
    bench.tick(0.1)
    assert bench.asked and bench.given() == [], (
        "NoFrameOfAnOldTopic: a ReadIndex without an answer is no lease"
    )
    bench.asked.pop()(True, bench.now)
    assert bench.given() == [(waits, [b"b"])], "DeliveredIsPrefix: what waited for the lease is given at once"


def test_a_get_now_and_then_finds_a_lease_that_was_renewed():
    bench = Bench("a", "b")
    bench.confirm(bench.get())
    bench.fresh = False
    bench.given()
    bench.tick(config().lease_ttl * 0.75)
    assert bench.asked, "the lease is renewed while the group is read now and then"
    bench.asked.pop()(True, bench.now)
    bench.now += config().lease_ttl * 0.5
    waits = bench.get()
    assert bench.given() == [(waits, [b"b"])], "a GET waits for a ReadIndex"
    bench.confirm(waits)
    bench.tick(c.IDLE_AFTER + 1)
    bench.asked.clear()
    bench.tick(config().lease_ttl)
    assert not bench.asked, "a lease is renewed for a group that is not read any more"


def test_only_what_is_confirmed_is_committed():
    bench = Bench("a", "b", "c")
    first = bench.get(2)
    assert bench.committed() == {}, "DeliveredIsPrefix: committed before it was confirmed"
    bench.confirm(first)
    bench.get(1)
    assert bench.committed() == {"": Position(1, 2)}, "CursorInBounds"


def test_what_waits_is_given_as_soon_as_the_run_before_it_is_confirmed():
    bench = Bench("a", "b")
    first = bench.get(1, origin=2)
    second = bench.get(1, origin=3)
    assert bench.given() == [(first, [b"a"])], "DeliveredIsPrefix: two runs are on their way at once"
    bench.confirm(first)
    assert bench.given() == [(second, [b"b"])], "ReadProgress: in this step, not with the next tick"


def test_what_waits_for_a_seal_is_given_as_soon_as_the_next_segment_is_open():
    bench = Bench("a")
    bench.cursors.freeze("t")
    request = bench.get(1)
    assert bench.given() == [], "DeliveredIsPrefix: two deliveries at once"
    bench.metadata.apply(seal(1, 1, leader=1))
    bench.topic_changed()
    assert bench.given() == [(request, [b"a"])], "ReadProgress: in this step, not with the next tick"


def test_a_cursor_beyond_an_end_that_a_recovery_found_goes_on_with_the_next_segment():
    bench = Bench("a", "b", "c")
    bench.confirm(bench.get(3))
    bench.metadata.apply(seal(1, 2, leader=1, recovered=True))
    bench.topic_changed()
    (cursor,) = bench.cursors._cursors.values()
    assert cursor.position == Position(2, 0), "CursorInBounds: there is no third entry"


def test_a_stop_waits_until_it_is_known_what_became_of_a_delivery():
    bench = Bench("a", "b")
    assert not bench.cursors.uncommitted, "nothing was handed out"
    number = bench.get(1)
    assert bench.cursors.uncommitted, "DeliveredIsPrefix: a stop would hand out again what has arrived"
    bench.confirm(number)
    assert bench.cursors.uncommitted, "DeliveredIsPrefix: a stop would hand out again what has arrived"
    bench.metadata.apply(CommitCursors(cursors={"t": bench.committed()}))
    assert not bench.cursors.uncommitted, "a stop waits for what is committed"


def test_what_waits_at_a_node_that_is_gone_is_given_nothing():
    bench = Bench("a", "b")
    first = bench.get(1)
    bench.get(1, origin=3)
    bench.cursors.on_disconnected(3, bench.now)
    bench.confirm(first)
    bench.get(1)
    sent = [(to, reply.batch.payloads()) for to, reply in bench.sent(m.GetReply)]
    assert sent == [(2, [b"a"]), (2, [b"b"])], "DeliveredIsPrefix: an entry waits for a node that is gone"


def test_what_could_not_be_delivered_is_given_to_the_next():
    bench = Bench("a", "b")
    bench.confirm(bench.get(1), delivered=False)
    bench.get(1, origin=3)
    given = [entries for _, entries in bench.given()]
    assert given == [[b"a"], [b"a"]], "DeliveredIsPrefix: what reached no client counts as given"


def test_origin_that_asks_again_never_got_the_first_answer():
    bench = Bench("a", "b")
    bench.get(1)
    bench.get(1)
    assert [entries for _, entries in bench.given()] == [[b"a"], [b"a"]], (
        "DeliveredIsPrefix: what reached nobody comes again"
    )


@pytest.mark.parametrize("how", ["disconnect", "silence"])
def test_what_was_given_to_a_node_that_is_gone_comes_before_anything_later(how: str):
    """Two nodes share the cursor. The second waits, or it would be given b before any client was given a."""
    bench = Bench("a", "b")
    bench.get(1, origin=2)
    bench.get(1, origin=3)
    assert [entries for _, entries in bench.given()] == [[b"a"]], "DeliveredIsPrefix"
    if how == "disconnect":
        bench.cursors.on_disconnected(2, bench.now)
    else:
        bench.tick(config().request_timeout / 2)
    assert bench.given() == [(2, [b"a"])], "DeliveredIsPrefix"


def test_origin_that_asks_again_while_it_waits_is_answered_once():
    """Its first question got no answer in time. Answering both would give the first entries to no client."""
    bench = Bench("a", "b", "c", "d", here=False, sealed=True)
    bench.get(2)
    ((_, read),) = bench.sent(m.Read)
    again = bench.get(2)
    bench.reads.on_reply(
        2, m.ReadReply(request=read.request, batch=batch("a", "b", "c", "d"), error=""), bench.now
    )
    assert bench.given() == [(again, [b"a", b"b"])], "DeliveredIsPrefix"


def test_late_and_repeated_questions_are_not_answered():
    bench = Bench("a", "b", "c")
    bench.confirm(bench.get(1, request=5))
    bench.get(1, request=5)
    bench.get(1, request=4)
    bench.get(1, request=6)
    assert bench.given() == [(5, [b"a"]), (6, [b"b"])], "DeliveredIsPrefix"


def test_confirmation_of_something_else_changes_nothing():
    bench = Bench("a", "b")
    number = bench.get(1)
    for request, origin, group in [(number, 3, ""), (99, 2, ""), (number, 2, "other")]:
        bench.confirm(request, origin=origin, group=group)
    assert bench.committed() == {}, "DeliveredIsPrefix: committed before it was confirmed"


def test_groups_do_not_share():
    bench = Bench("a", "b")
    bench.get(1, group="x")
    bench.get(2, group="y")
    assert [entries for _, entries in bench.given()] == [[b"a"], [b"a", b"b"]], (
        "DeliveredIsPrefix: what reached nobody comes again"
    )


def test_who_does_not_lead_says_so():
    bench = Bench("a")
    bench.metadata.apply(seal(1, 1, leader=2))
    bench.leases.reconcile(bench.metadata)
    bench.get(1)
    ((_, reply),) = bench.sent(m.GetReply)
    assert reply.moved and not reply.batch.count, "DeliveredIsPrefix: a node that does not lead hands out"


def test_without_a_lease_nothing_is_given_and_the_waiting_ends():
    bench = Bench("a")
    bench.now += 2000
    bench.get(1)
    assert bench.given() == [], "DeliveredIsPrefix: a node that is cut off hands out"
    bench.tick(10)
    ((_, reply),) = bench.sent(m.GetReply)
    assert "did not move" in reply.error, "DeliveredIsPrefix: a GET without a lease is answered otherwise"


# --- reading elsewhere ---


def test_sealed_segment_that_is_not_here_is_read_from_a_replica():
    bench = Bench("a", "b", here=False, sealed=True)
    bench.get(5)
    ((to, read),) = bench.sent(m.Read)
    assert to in (2, 3) and not read.raw, "DeliveredIsPrefix: a sealed segment is read raw, or of no replica"
    bench.reads.on_reply(
        to, m.ReadReply(request=read.request, batch=batch("a", "b", "beyond"), error=""), bench.now
    )
    given = [entries for _, entries in bench.given()]
    assert given == [[b"a", b"b"]], "DeliveredIsPrefix: entries behind the count are given"


def test_answer_of_a_replica_that_comes_when_its_cursor_is_forgotten_moves_nothing():
    bench = Bench("a", "b", here=False, sealed=True)
    bench.get(5)
    ((to, read),) = bench.sent(m.Read)
    bench.metadata.apply(seal(2, 0, leader=2))
    bench.topic_changed()
    (moved,) = [reply.moved for _, reply in bench.sent(m.GetReply)]
    answer = m.ReadReply(request=read.request, batch=batch("a", "b"), error="")
    bench.reads.on_reply(to, answer, bench.now)
    assert moved and not bench.sent(m.GetReply), "DeliveredIsPrefix: a node that does not lead hands out"
    bench.cursors.check_invariants()


def test_read_that_fails_is_tried_again():
    bench = Bench("a", here=False, sealed=True)
    bench.get(1)
    ((to, read),) = bench.sent(m.Read)
    bench.reads.on_reply(to, m.ReadReply(request=read.request, batch=batch(), error="damaged"), bench.now)
    bench.tick(0.1)
    assert len(bench.sent(m.Read)) == 1, "ReadProgress: a read that failed is not tried again"


def test_damaged_entry_of_the_open_segment_is_not_taken_for_its_end():
    bench = Bench("a", "b")
    bench.memory.damaged.add(("t/1", 0))
    bench.get(1)
    sent = [(e.to, e.message) for e in bench.outbox.take() if isinstance(e, Send)]
    assert not [reply for _, reply in sent if isinstance(reply, m.GetReply)], "DeliveredIsPrefix"
    ((to, read),) = [(to, read) for to, read in sent if isinstance(read, m.Read)]
    assert read.raw, "ReadProgress: up to what is acknowledged any copy will do"
    got = batch("a", "b", "not acknowledged")
    bench.reads.on_reply(to, m.ReadReply(request=read.request, batch=got, error=""), bench.now)
    assert [entries for _, entries in bench.given()] == [[b"a"]], "DeliveredIsPrefix"
    bench.confirm(1)
    bench.confirm(bench.get(5))
    bench.get(5)
    assert [entries for _, entries in bench.given()] == [[b"b"], []], "DeliveredIsPrefix"


def test_chain_of_empty_segments_is_passed_in_one_step():
    bench = Bench("a", sealed=True)
    for number in range(2, 22):
        bench.metadata.apply(seal(number, 0, leader=1))
    bench.topic_changed()
    bench.confirm(bench.get(5))
    bench.get(5)
    assert [entries for _, entries in bench.given()] == [[b"a"], []], "DeliveredIsPrefix"
    assert bench.committed() == {"": Position(22, 0)}, "CursorInBounds"


# --- rollover and failover ---


def test_sealing_leader_gives_nothing_more_and_waits_for_confirmation():
    bench = Bench("a", "b")
    number = bench.get(1)
    assert bench.cursors.freeze("t") is None, "DeliveredIsPrefix: sealed with what is not confirmed"
    bench.confirm(number)
    assert bench.cursors.freeze("t") == {"": Position(1, 1)}, "CursorInBounds"
    bench.get(1)
    assert bench.given() == [(number, [b"a"])], "DeliveredIsPrefix"


def test_change_of_another_segments_replicas_does_not_thaw():
    bench = Bench("a", "b")
    bench.cursors.freeze("t")
    bench.topic_changed()
    bench.get(1)
    assert bench.given() == [], "DeliveredIsPrefix: handed out after the freeze"


def test_whoever_waits_when_leadership_moves_is_told():
    bench = Bench("a")
    bench.cursors.freeze("t")
    bench.get(1)
    bench.metadata.apply(seal(1, 1, leader=2))
    bench.topic_changed()
    ((_, reply),) = bench.sent(m.GetReply)
    assert reply.moved and not bench.cursors.cursors(), "DeliveredIsPrefix: two nodes hand out"


def test_leader_that_led_before_does_not_go_back_behind_what_others_committed():
    """A snapshot can take a node from one segment that it leads to another in one step."""
    bench = Bench("a", "b", "c")
    bench.confirm(bench.get(1))
    bench.metadata.apply(seal(1, 3, leader=2))
    bench.metadata.apply(CommitCursors(cursors={"t": {"": Position(1, 3)}}))
    bench.metadata.apply(seal(2, 0, leader=1))
    bench.commit_index = 0
    bench.topic_changed()
    bench.sent(m.GetReply)
    bench.get(1)
    assert [entries for _, entries in bench.given()] == [[]], "DeliveredIsPrefix"


def test_what_was_on_its_way_before_others_led_is_not_handed_out_again():
    bench = Bench("a", "b", "c")
    bench.get(1)
    bench.metadata.apply(seal(1, 3, leader=2))
    bench.metadata.apply(CommitCursors(cursors={"t": {"": Position(1, 3)}}))
    bench.metadata.apply(seal(2, 0, leader=1))
    bench.commit_index = 0
    bench.topic_changed()
    bench.get(1)
    assert [entries for _, entries in bench.given()[1:]] == [[]], (
        "DeliveredIsPrefix: handed out behind what others have committed"
    )


# --- bounds ---


def test_groups_are_bounded_and_idle_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(c, "MAX_GROUPS", 5)
    bench = Bench()
    for number in range(8):
        bench.get(1, group=f"g{number}")
    errors = [reply.error for _, reply in bench.sent(m.GetReply)]
    assert [bool(error) for error in errors] == [False] * 5 + [True] * 3, (
        "TypeOK: more groups than there may be, or fewer"
    )
    assert "too many" in errors[-1] and len(bench.cursors.cursors()) == 5, (
        "TypeOK: more groups than there may be"
    )
    bench.tick(60)
    assert not bench.cursors.cursors(), "DeliveredIsPrefix: a cursor is kept, or lost"


def test_cursor_that_is_not_committed_yet_is_not_forgotten():
    bench = Bench("a", "b")
    bench.confirm(bench.get(1))
    bench.tick(60)
    bench.get(1)
    assert bench.given()[-1][1] == [b"b"], "DeliveredIsPrefix"


def test_memory_for_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(c, "MAX_AHEAD", 3)
    bench = Bench("a", "b")
    for number in range(10):
        bench.confirm(bench.get(1, group=f"g{number}"), group=f"g{number}")
    assert sum(cursor.ahead is not None for cursor in bench.cursors.cursors().values()) == 3
    for number in range(10):
        bench.get(1, group=f"g{number}")
    assert {entries[0] for _, entries in bench.given()[10:]} == {b"b"}, "DeliveredIsPrefix"


def test_reading_ahead_is_bounded_in_entries():
    bench = Bench(*["x"] * 2 * c.MAX_AHEAD_ENTRIES)
    bench.confirm(bench.get(1))
    ahead = bench.cursors.cursors()["t", ""].ahead
    assert ahead is not None and len(ahead.entries) == c.MAX_AHEAD_ENTRIES
    got, entries = 0, [b"x"]
    bench.outbox.take()
    while entries:
        bench.confirm(bench.get(1000))
        ((_, entries),) = bench.given()
        got += len(entries)
    assert got == 2 * c.MAX_AHEAD_ENTRIES - 1, "DeliveredIsPrefix: and all of them come"


def test_reading_ahead_is_bounded_in_bytes_for_all_cursors_together(monkeypatch: pytest.MonkeyPatch):
    """Counted by payload alone, a hundred groups on two-byte entries took 700 MB."""
    monkeypatch.setattr(c, "MAX_AHEAD_BYTES", 10_000)
    bench = Bench(*["ab"] * 80)  # 80 entries cost 80 * (48 + 2) = 4,000 bytes
    for number in range(10):
        bench.confirm(bench.get(1, group=f"g{number}"), group=f"g{number}")
        assert bench.cursors._ahead_bytes <= 10_000
    assert sum(cursor.ahead is not None for cursor in bench.cursors.cursors().values()) == 2
    monkeypatch.setattr(c, "MAX_AHEAD_BYTES", 10)
    bench.confirm(bench.get(1, group="g"), group="g")
    assert [entries for _, entries in bench.given()][-1] == [b"ab"], "what is needed now is never too much"


def test_what_was_read_ahead_ends_where_a_forced_recovery_cut_the_segment():
    """RECOVER gave up "c", and this node, which led before and leads after, applies it all at once."""
    bench = Bench("a", "b", "c")
    bench.confirm(bench.get(1))
    assert [entries for _, entries in bench.given()] == [[b"a"]], "DeliveredIsPrefix"
    for command in (seal(1, 2, recovered=True), seal(2, 0, leader=1)):
        bench.metadata.apply(command)
    bench.commit_index = 0
    bench.topic_changed()
    bench.get(2)
    assert [entries for _, entries in bench.given()] == [[b"b"]], "DeliveredIsPrefix: not c"


# --- whole nodes ---


def test_registered_nothing_read_failover_still_at_the_start():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a", "b") == [b"OK"] * 2
    world.kill(leader)
    assert world.topic("t").cursors.get("", START) == START, "CursorInBounds"
    assert world.get_all(min(world.nodes), "t") == [b"a", b"b"], (
        "DeliveredIsPrefix: a failover loses what nobody got"
    )


def test_healthy_rollovers_deliver_each_entry_once_to_one_consumer():
    world = three(max_segment_entries=3)
    world.register("t")
    for number in range(20):
        slots = [world.send(node, protocol.Put("t", batch(f"{number}"))) for node in (number % 3 + 1,)]
        got = world.send(2, protocol.Get("t"))
        world.until(lambda slots=slots, got=got: all(world.replies[s] for s in (*slots, got)))
    world.run(0.5)
    rest = world.get_all(2, "t")
    answered = [world.replies[f"request {n}"] for n in range(1, 200)]
    read = [r[3:] for replies in answered for r in replies if r.startswith(b"OK ")]
    assert sorted(read, key=int) == [b"%d" % n for n in range(20)] and read[-len(rest) :] == rest, (
        "DeliveredIsPrefix"
    )


def test_node_that_dies_after_delivering_causes_redelivery_and_no_gap():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", *(f"{n}" for n in range(10))) == [b"OK"] * 10
    other = next(node for node in (1, 2, 3) if node != leader)
    first = [reply[3:] for reply in world.ask(other, protocol.Get("t", "", 4))]
    world.kill(leader)
    rest = world.get_all(other, "t")
    assert first == [b"0", b"1", b"2", b"3"], "DeliveredIsPrefix"
    assert rest == [b"%d" % n for n in range(int(rest[0]), 10)] and int(rest[0]) <= 4, "DeliveredIsPrefix"
