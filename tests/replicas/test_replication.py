"""The writer of an open segment, and the replicas that take its frames."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.test_segments import cluster, seal
from tests.broker.world import batch, config
from tests.world import sync_oldest
from walrus.leases import LeaseTable
from walrus.replicas import replication
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.latency import Took
from walrus.replicas.replica import Replica
from walrus.replicas.replication import SegmentWriter, Shared
from walrus.segments import Segment, Trim
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Batch, Checksum
from walrus.storage.errors import EngineFailed
from walrus.wire import errors
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send


class Bench:
    """Node 1 as the writer of t/1 with replicas 1, 2 and 3; origins are 1 (itself) and 9."""

    def __init__(self, replicas: tuple[int, ...] = (1, 2, 3), **settings: Any) -> None:
        self.now = 100.0
        self.memory = MemoryEngine()
        self.data, self.meta = Durable(self.memory), Durable(MemoryEngine())
        self.copies = Copies(self.data, self.meta)
        self.leases = LeaseTable(1, 1, ttl=1.0)
        self.leases.reconcile(cluster())
        self.leases.heard(self.now)
        self.outbox = Outbox(1)
        self.request = 0
        self.replicas, self.config = replicas, config(**settings)
        self.lead(1)

    def lead(self, number: int, shared: Shared | None = None, took: Took | None = None) -> None:
        """The writer is that of segment `number` from now on."""
        self.writer = SegmentWriter(
            "t",
            number,
            Segment(leader=1, incarnation=1, replicas=self.replicas),
            config=self.config,
            copies=self.copies,
            leases=self.leases,
            outbox=self.outbox,
            connected=set(self.replicas) - {1},
            now=self.now,
            shared=shared,
            took=took,
        )

    def put(self, *payloads: str, origin: int = 9, request: int | None = None) -> int:
        self.request += 1
        number = self.request if request is None else request
        self.writer.on_forward(
            origin, m.Forward(request=number, topic="t", segment=1, batch=batch(*payloads)), self.now
        )
        return number

    def flush(self) -> None:
        self.writer.flush(self.now)
        self.writer.check_invariants()

    def sync(self) -> None:
        sync_oldest(self.data)
        sync_oldest(self.meta)
        self.writer.check_invariants()

    def reply(self, node: int, length: int, *, fenced: bool = False, gap: bool = False) -> None:
        reply = m.AppendReply(topic="t", segment=1, length=length, fenced=fenced, gap=gap)
        self.writer.on_reply(node, reply, self.now)
        self.writer.check_invariants()

    def sent(self) -> tuple[list[tuple[int, m.Append]], list[m.ForwardReply]]:
        """Frames to replicas and answers to origins, since the last time."""
        messages = [(e.to, e.message) for e in self.outbox.take() if isinstance(e, Send)]
        messages += [(1, message) for message in self.outbox.local]
        self.outbox.local.clear()
        appends = [(to, x) for to, x in messages if isinstance(x, m.Append)]
        return appends, [x for _, x in messages if isinstance(x, m.ForwardReply)]

    def frames(self) -> list[tuple[int, int, list[bytes]]]:
        return [(to, frame.start, frame.batch.payloads()) for to, frame in self.sent()[0]]

    def answers(self) -> list[tuple[int, int, int, bool, str]]:
        return [(a.request, a.taken, a.acked, a.refused, a.error) for a in self.sent()[1]]

    def places(self) -> list[tuple[int, int, int]]:
        return [(a.request, a.first, a.placed) for a in self.sent()[1]]


# --- acknowledging ---


def test_entries_of_one_turn_are_one_write_and_one_frame_per_replica():
    bench = Bench()
    bench.put("a")
    bench.put("b", "c", origin=1)
    bench.flush()
    assert bench.data.written == 1, "SeqOrder: one turn is one write, whole or not at all"
    assert bench.frames() == [(2, 0, [b"a", b"b", b"c"]), (3, 0, [b"a", b"b", b"c"])], "SeqOrder"


@pytest.mark.parametrize("order", ["sync first", "reply first"])
def test_acknowledged_by_a_majority_that_has_it_durably(order: str):
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.sent()
    steps = [bench.sync, lambda: bench.reply(2, 1)]
    for step in steps if order == "sync first" else reversed(steps):
        assert bench.answers() == [], "AckedDurable: one copy is no majority"
        step()
    assert bench.answers() == [(1, 1, 1, False, "")], "EveryPubAnswered: a majority has it durably"
    assert bench.writer.commit_index == 1, "AckedDurable"


def test_an_append_is_timed_until_it_is_durable_here_and_until_a_majority_has_it():
    """The two are apart: two other disks are a majority before this one has it."""
    bench = Bench()
    took = bench.writer._shared.turns.took
    bench.put("a", "b")
    bench.flush()
    bench.now += 0.003
    bench.reply(2, 1)
    bench.reply(3, 1)
    assert sum(took.acknowledged.counts) == 0, "of the turn a majority has one entry of two"
    bench.reply(2, 2)
    bench.reply(3, 2)
    assert (sum(took.acknowledged.counts), took.acknowledged.total) == (2, pytest.approx(0.006))
    assert sum(took.durable.counts) == 0
    took.now = bench.now = 100.1  # as the controller does, which hears of the sync
    bench.sync()
    assert (sum(took.durable.counts), took.durable.total) == (2, pytest.approx(0.2))
    assert sum(took.acknowledged.counts) == 2, "once each"


def test_what_is_never_acknowledged_is_never_timed():
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.copies.fence(bench.writer.copy, lambda: None)
    bench.sync()
    bench.reply(2, 1)
    took = bench.writer._shared.turns.took
    assert (sum(took.durable.counts), sum(took.acknowledged.counts)) == (1, 0)


def test_a_sync_of_the_segment_before_times_nothing_of_this_one():
    """Two other disks were a majority, so that segment was over before it was durable here."""
    bench = Bench()
    bench.put("a", "b")
    bench.flush()
    before, took = bench.writer, bench.writer._shared.turns.took
    metadata = cluster()
    metadata.apply(seal(1, 2, leader=1))
    bench.leases.reconcile(metadata)
    bench.lead(2, before._shared, took)
    bench.put("c")
    bench.flush()
    sync_oldest(bench.data, 0.5)
    assert (before.copy.durable, bench.writer.copy.durable) == (2, 0), "AckedDurable"
    assert sum(took.durable.counts) == 2, "those two, and not what is not durable"
    bench.sync()
    assert (bench.writer.copy.durable, sum(took.durable.counts)) == (1, 3)


def test_of_two_writes_only_the_one_that_is_durable_is_acknowledged():
    bench = Bench()
    for payload in ("a", "b"):
        bench.put(payload)
        bench.flush()
    bench.reply(2, 2)
    bench.sent()
    sync_oldest(bench.data, share=0.5)
    bench.writer.check_invariants()
    assert bench.answers() == [(1, 1, 1, False, "")], "AckedDurable: only `a` is durable on two of three"
    assert bench.writer.commit_index == 1, "AckedDurable"
    sync_oldest(bench.data)
    assert bench.answers() == [(2, 1, 1, False, "")], "AckedDurable"


def test_two_replicas_are_a_majority_without_the_leader_itself():
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.sent()
    bench.reply(2, 1)
    bench.reply(3, 1)
    assert bench.answers() == [(1, 1, 1, False, "")], "EveryPubAnswered: two others are a majority"


def test_duplicated_answers_of_one_replica_count_once():
    bench = Bench(replicas=(1, 2, 3, 4, 5))
    bench.put("a")
    bench.flush()
    bench.sync()
    bench.sent()
    for _ in range(5):
        bench.reply(2, 1)
    assert bench.answers() == [], "AckedDurable: one replica counts for several"
    bench.reply(4, 1)
    assert bench.answers() == [(1, 1, 1, False, "")], "EveryPubAnswered: three of five have it"


def test_single_replica_acknowledges_what_it_has_synced():
    bench = Bench(replicas=(1,))
    bench.put("a")
    bench.flush()
    assert bench.answers() == [], "AckedDurable: answered before it is durable"
    bench.sync()
    assert bench.answers() == [(1, 1, 1, False, "")], "EveryPubAnswered: a single replica has synced it"


@pytest.mark.parametrize("node", [1, 7])
def test_answer_of_a_node_that_is_no_follower_counts_for_nothing(node: int):
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.sync()
    bench.sent()
    bench.reply(node, 1)
    assert bench.writer.commit_index == 0 and bench.answers() == [], (
        "AckedDurable: a node counts that holds no replica"
    )


@pytest.mark.parametrize("length", [-5, 99])
def test_impossible_lengths_count_for_nothing(length: int):
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.sync()
    bench.sent()
    bench.reply(2, length, gap=length < 0)
    assert bench.writer.commit_index == 0, "AckedDurable: a length counts that no copy has"


# --- what must not be appended ---


@pytest.mark.parametrize("why", ["lease", "fence", "seal", "alone", "window"])
def test_append_is_checked_in_the_step_that_appends(why: str):
    bench = Bench(window_bytes=10)
    if why == "window":
        bench.put("x" * 11)
        bench.flush()
        bench.sent()
    before = bench.writer.copy.length
    bench.put("a")
    if why == "lease":
        bench.now += 1.0
    elif why == "fence":
        bench.copies.fence(bench.writer.copy, lambda: None)
    elif why == "seal":
        bench.writer.begin_seal()
    elif why == "alone":
        bench.writer.on_connection(2, False, bench.now)
        bench.writer.on_connection(3, False, bench.now)
    bench.flush()
    assert bench.writer.copy.length == before and not bench.frames(), (
        "AckedDurable: appended without what an append needs"
    )


def test_append_waits_for_a_lease_and_goes_on_with_it():
    bench = Bench()
    bench.now += 2.0
    bench.put("a")
    bench.flush()
    assert bench.frames() == [], "AckedDurable: appended without a lease"
    bench.leases.heard(bench.now)
    bench.flush()
    assert [frame[1:] for frame in bench.frames()] == [(0, [b"a"])] * 2, "SeqOrder"


def test_put_that_waited_too_long_was_certainly_not_written():
    bench = Bench()
    bench.writer.on_connection(2, False, bench.now)
    bench.writer.on_connection(3, False, bench.now)
    bench.put("a")
    bench.flush()
    bench.now += 60
    bench.writer.on_tick(bench.now)
    ((request, taken, acked, refused, error),) = bench.answers()
    assert (request, taken, acked, refused) == (1, 0, 0, False), (
        "AnswersAreTrue: it was certainly not written"
    )
    assert error == errors.not_enough_replicas(1, 2), "AnswersAreTrue: the reason is another one"


def test_put_that_waits_at_its_writer_is_refused_before_its_router_would_call_it_unknown():
    bench = Bench()
    bench.writer.on_connection(2, False, bench.now)
    bench.writer.on_connection(3, False, bench.now)
    bench.put("a")
    bench.flush()
    bench.now += config().put_timeout * 0.95
    bench.writer.on_tick(bench.now)
    assert [answer[:3] for answer in bench.answers()] == [(1, 0, 0)], (
        "AnswersAreTrue: what was certainly not written is told to be unknown"
    )


def test_put_whose_leader_lost_its_lease_hears_of_no_leader():
    bench = Bench()
    bench.put("a")
    bench.now += 60
    bench.writer.flush(bench.now)
    bench.writer.on_tick(bench.now)
    assert bench.answers() == [(1, 0, 0, False, errors.NO_LEASE)], "AnswersAreTrue"


def test_put_that_waits_for_slow_replicas_hears_that_they_are_behind():
    bench = Bench(window_bytes=1)
    bench.put("a")
    bench.flush()
    bench.put("b")
    bench.flush()
    bench.sent()
    bench.now += 60
    bench.leases.heard(bench.now)
    bench.writer.on_tick(bench.now)
    assert bench.answers() == [(2, 0, 0, False, errors.REPLICAS_BEHIND)], "AnswersAreTrue"


def test_disk_full_fails_these_puts_and_not_the_next_ones():
    bench = Bench()
    bench.memory.full = True
    bench.put("a")
    bench.put("b")
    bench.flush()
    assert [(answer[0], answer[1], answer[4][:11]) for answer in bench.answers()] == [
        (1, 0, "not written"),
        (2, 0, "not written"),
    ], "AnswersAreTrue: what a full disk refused was certainly not written"
    bench.memory.full = False
    bench.put("c")
    bench.flush()
    assert bench.frames()[0] == (2, 0, [b"c"]), "SeqOrder"


def test_disk_full_leaves_to_the_next_turn_what_is_beyond_this_one(monkeypatch: pytest.MonkeyPatch):
    """There may be room by then."""
    monkeypatch.setattr(replication, "MAX_TURN_BYTES", batch("a").weight)
    bench = Bench()
    bench.put("a")
    bench.put("b")
    bench.memory.full = True
    bench.flush()
    assert [(answer[0], answer[1]) for answer in bench.answers()] == [(1, 0)], "AnswersAreTrue"
    bench.memory.full = False
    bench.flush()
    assert bench.frames()[0] == (2, 0, [b"b"]), "SeqOrder"


def test_what_is_more_than_a_batch_goes_out_in_the_same_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replication, "MAX_TURN_BYTES", batch("a").weight)
    bench = Bench()
    bench.put("a")
    bench.put("b")
    bench.flush()
    assert [frame for frame in bench.frames() if frame[0] == 2] == [(2, 0, [b"a"]), (2, 1, [b"b"])], (
        "SeqOrder"
    )


def test_a_replica_that_is_behind_or_away_is_not_sent_what_it_cannot_use():
    """It would answer with a gap. What it misses comes from the disk, in order."""
    bench = Bench()
    bench.writer.on_connection(3, False, bench.now)
    bench.put("a")
    bench.flush()
    assert [to for to, _, _ in bench.frames()] == [2], "SeqOrder: nor is anything sent to one that is away"
    bench.writer.on_connection(3, True, bench.now)
    bench.sent()
    bench.put("b")
    bench.flush()
    assert bench.frames() == [(2, 1, [b"b"])], "SeqOrder: node 3 lacks the first entry"
    bench.reply(3, 0)
    assert bench.frames() == [(3, 0, [b"a", b"b"])], "SeqOrder: what it lacks comes in order"


@pytest.mark.parametrize("who", ["writer", "replica"])
def test_disk_that_failed_stops_the_node_instead_of_refusing_every_put_from_now_on(who: str):
    """The engine writes nothing more until it is opened again: only another process can go on."""

    def fail(topic: str, entries: Batch) -> int:
        raise EngineFailed("the disk failed earlier")

    bench, node = Bench(), Replicas()
    bench.memory.write = node.memory.write = fail  # type: ignore[method-assign]
    bench.put("a")
    with pytest.raises(EngineFailed):
        bench.flush() if who == "writer" else node.append(0, "a")


def test_too_many_waiting_puts_are_refused_by_name():
    bench = Bench(max_pending_bytes=10)
    bench.now += 5  # no lease
    bench.put("x" * 11)
    bench.put("y")
    ((request, taken, _, refused, error),) = bench.answers()
    assert (request, taken, refused) == (2, 0, False) and error, "AnswersAreTrue: what has no room is refused"


@pytest.mark.parametrize("order", [(1, 1), (2, 1)])
def test_forward_that_was_repeated_or_overtaken_is_dropped(order: tuple[int, int]):
    bench = Bench()
    for request in order:
        bench.put(f"{request}", request=request)
    bench.flush()
    assert bench.frames()[0] == (2, 0, [b"%d" % order[0]]), "NoDuplicate"


def test_forward_that_was_handed_back_is_not_taken_by_the_next_writer_when_it_comes_again():
    """Its origin sent the entries on under another number: a late copy of it would be a second one."""
    bench = Bench()
    before = bench.writer
    before.begin_seal()
    bench.put("a", request=1)
    assert [answer[3] for answer in bench.answers()] == [True], "RolloverProgress: it is not handed back"
    metadata = cluster()
    metadata.apply(seal(1, 0, leader=1))
    bench.leases.reconcile(metadata)
    bench.lead(2, before._shared)
    bench.put("a", request=1)
    bench.flush()
    assert bench.frames() == [], "NoDuplicate: what was handed back is appended, too"


# --- replicas that lag ---


def test_gap_is_filled_from_the_disk():
    bench = Bench()
    bench.put("a", "b")
    bench.flush()
    bench.put("c")
    bench.flush()
    bench.sync()
    bench.sent()
    bench.reply(3, 1, gap=True)
    assert bench.frames() == [(3, 1, [b"b", b"c"])], "SeqOrder"
    bench.reply(3, 3)
    assert bench.answers() == [(1, 2, 2, False, ""), (2, 1, 1, False, "")], "AckedDurable"


def test_many_gaps_at_once_are_filled_once():
    """Each frame that was on its way behind a lost one is answered with a gap."""
    bench = Bench()
    for number in range(20):
        bench.put(f"{number}")
        bench.flush()
    bench.sent()
    for _ in range(20):
        bench.reply(3, 0, gap=True)
    assert len(bench.frames()) == 1, "NoRest: each of many gaps has everything sent once more"


def test_silent_replica_is_asked_again_and_again_but_not_flooded():
    bench = Bench()
    bench.put("a" * 1000)
    bench.flush()
    bench.sent()
    for _ in range(100):
        bench.now += 0.02
        bench.leases.heard(bench.now)
        bench.writer.on_tick(bench.now)
    asked = [frame for frame in bench.frames() if frame[0] == 3]
    assert 5 <= len(asked) <= 11 and all(payloads == [] for _, _, payloads in asked), (
        "RolloverProgress: a silent replica is asked too seldom, or flooded"
    )


def test_replica_that_lost_its_tail_in_a_power_loss_is_sent_it_again():
    bench = Bench()
    bench.put("a", "b", "c")
    bench.flush()
    bench.sync()
    bench.reply(3, 3)
    assert bench.writer.commit_index == 3, "AckedDurable"
    bench.writer.on_connection(3, False, bench.now)
    bench.writer.on_connection(3, True, bench.now)
    bench.sent()
    bench.reply(3, 1, gap=True)
    assert bench.frames() == [(3, 1, [b"b", b"c"])], "SeqOrder"
    assert bench.writer.commit_index == 3, "AckedDurable: what was acknowledged stays so"


def test_reconnected_replica_is_asked_for_its_length():
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.writer.on_connection(3, False, bench.now)
    bench.put("b")
    bench.flush()
    bench.sent()
    bench.writer.on_connection(3, True, bench.now)
    assert bench.frames() == [(3, 0, [])], "SeqOrder"
    bench.reply(3, 0, gap=True)
    assert bench.frames() == [(3, 0, [b"a", b"b"])], "SeqOrder"


def test_window_bounds_what_is_on_its_way_to_one_replica():
    bench = Bench(window_bytes=100, read_bytes=40)
    for _ in range(10):
        bench.put("x" * 30)
        bench.flush()
        bench.sync()
        bench.reply(2, bench.writer.copy.length)
    on_the_way = [frame for frame in bench.sent()[0] if frame[0] == 3]
    assert sum(frame.batch.size for _, frame in on_the_way) <= 100, (
        "AckedDurable: more than its window is on the way to one"
    )
    assert bench.writer.commit_index == 10, "EveryPubAnswered: one slow replica holds nobody up"
    bench.reply(3, 3)
    assert 1 <= sum(frame.batch.count for to, frame in bench.sent()[0] if to == 3) <= 4


def test_window_bounds_what_waits_for_replicas_that_never_answer():
    """They may be there and have a full disk: what is sent to them again and again was not taken."""
    bench = Bench(window_bytes=10)
    for _ in range(20):
        bench.put("12345")
        bench.flush()
        bench.now += 0.25
        bench.leases.heard(bench.now)
        bench.writer.on_tick(bench.now)
    assert bench.writer.copy.length == 2, "AnswersAreTrue: what is appended can only be unknown, not refused"
    bench.sync()
    bench.reply(2, 2)
    bench.flush()
    assert bench.writer.copy.length > 2, "EveryPubAnswered: a window that has room stays shut"


def test_entry_larger_than_the_window_is_sent_nevertheless():
    bench = Bench(window_bytes=10)
    bench.put("x" * 50)
    bench.flush()
    assert [frame[1:] for frame in bench.frames()] == [(0, [b"x" * 50])] * 2, (
        "EveryPubAnswered: an entry larger than the window is never sent"
    )


# --- the end of a segment ---


def test_batch_that_meets_the_threshold_is_split_and_the_rest_goes_back():
    bench = Bench(max_segment_entries=3)
    bench.put("a", "b")
    bench.put("c", "d")
    bench.put("e")
    bench.flush()
    assert bench.frames() == [(2, 0, [b"a", b"b", b"c"]), (3, 0, [b"a", b"b", b"c"])], "SeqOrder"
    bench.reply(2, 3)
    bench.sync()
    assert bench.answers() == [(1, 2, 2, False, ""), (2, 1, 1, True, "")], (
        "AnswersAreTrue: what did not fit goes back"
    )
    assert bench.writer.all_acknowledged, "RolloverProgress"


def test_what_waits_goes_back_at_once_when_the_segment_is_full():
    bench = Bench(max_segment_entries=1)
    bench.put("a")
    bench.put("b")
    bench.flush()
    assert bench.answers() == [(2, 0, 0, True, "")], "AnswersAreTrue"
    assert not bench.writer.all_acknowledged, "SealedStable: sealed before all of it is acknowledged"
    bench.put("c")
    assert bench.answers() == [(3, 0, 0, True, "")], "AnswersAreTrue"


def test_what_comes_in_one_turn_behind_the_entry_that_fills_the_segment_is_handed_back():
    bench = Bench(max_segment_bytes=4)
    full, behind = bench.put("abcd"), bench.put("e")
    bench.flush()
    assert bench.writer.copy.length == 1, "SealedStable: an entry behind the one that fills the segment"
    assert [(request, taken, refused) for request, taken, _, refused, _ in bench.answers()] == [
        (behind, 0, True)
    ], f"AnswersAreTrue: only {full} was taken"


@pytest.mark.parametrize(
    ("limit", "sizes", "taken"),
    [(10, [4, 4, 4, 4], 3), (8, [4, 4, 4], 2), (1, [50, 50], 1), (9, [0, 9, 1], 2)],
)
def test_bytes_threshold_takes_the_entry_that_crosses_it(limit: int, sizes: list[int], taken: int):
    bench = Bench(max_segment_bytes=limit)
    bench.put(*("x" * size for size in sizes))
    bench.flush()
    assert bench.writer.copy.length == taken and bench.writer.sealing, "RolloverProgress"


def test_seal_waits_for_every_entry_and_has_the_checksum_of_them():
    bench = Bench()
    bench.put("a", "b")
    bench.flush()
    bench.writer.begin_seal()
    assert not bench.writer.all_acknowledged, "SealedStable: sealed before all of it is acknowledged"
    bench.sync()
    bench.reply(2, 1)
    assert not bench.writer.all_acknowledged, "SealedStable: sealed before all of it is acknowledged"
    bench.reply(2, 2)
    assert bench.writer.all_acknowledged, "RolloverProgress"
    assert bench.writer.ready_to_seal() == (2, Checksum().extend(batch("a", "b"))), (
        "SealedStable: another count or checksum"
    )


def test_empty_segment_can_be_sealed():
    bench = Bench()
    bench.writer.begin_seal()
    assert bench.writer.ready_to_seal() == (0, Checksum()), "SealedStable"


@pytest.mark.parametrize(
    "how", ["a replica says so", "our own copy", "the seal was proposed", "closed", "the topic is deleted"]
)
def test_nothing_is_acknowledged_after(how: str):
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.put("b")  # waits
    bench.sent()
    if how == "a replica says so":
        bench.reply(3, 0, fenced=True)
        assert bench.writer.copy.fenced, "AckedDurable: a writer goes on although a replica is fenced"
    elif how == "our own copy":
        bench.copies.fence(bench.writer.copy, lambda: None)
    elif how == "the seal was proposed":
        bench.writer.begin_seal()
        bench.writer.seal_proposed = True
    elif how == "closed":
        bench.writer.close()
    else:
        bench.writer.end()
    bench.sync()
    bench.reply(2, 1)
    bench.reply(3, 1)
    bench.flush()
    answered = [acked for _, _, acked, _, _ in bench.answers()]
    assert not any(answered), "AckedDurable: acknowledged after a fence, or behind a proposed count"
    assert bench.writer.commit_index == 0 and not bench.writer.copy.length > 1, (
        "AckedDurable: appended or acknowledged after a fence"
    )


def test_fenced_writer_hands_back_what_was_never_written():
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.put("b")
    bench.sent()
    bench.reply(3, 0, fenced=True)
    assert bench.answers() == [(2, 0, 0, True, "")], "AnswersAreTrue: the outcome of the first one is unknown"


def test_own_copy_that_cannot_be_read_hands_the_segment_over():
    bench = Bench()
    bench.put("a")
    bench.flush()
    bench.memory.damaged.add(("t/1", 0))
    bench.reply(3, 0, gap=True)
    assert bench.writer.copy.fenced and bench.writer.sealing, "FailoverProgress: no recovery would begin"


# --- the replica ---


class Replicas:
    """Node 2 as a replica of t/1, which node 1 leads."""

    def __init__(self) -> None:
        self.memory = MemoryEngine()
        self.data, self.meta = Durable(self.memory), Durable(MemoryEngine())
        self.copies = Copies(self.data, self.meta)
        self.metadata = cluster()
        self.outbox = Outbox(2)
        self.replica = Replica(node_id=2, copies=self.copies, metadata=self.metadata, outbox=self.outbox)
        self.copy = self.copies.get(("t", 1))

    def append(self, start: int, *payloads: str, sender: int = 1, segment: int = 1, end: int = 0) -> None:
        frame = m.Append(topic="t", segment=segment, start=start, batch=batch(*payloads), end=end)
        self.replica.on_append(sender, frame)

    def sync(self) -> None:
        sync_oldest(self.data)
        sync_oldest(self.meta)

    def answers(self) -> list[tuple[int, bool, bool]]:
        replies = [e.message for e in self.outbox.take() if isinstance(e, Send)]
        return [(r.length, r.fenced, r.gap) for r in replies if isinstance(r, m.AppendReply)]


def test_of_two_frames_only_the_one_that_is_durable_is_answered():
    node = Replicas()
    node.append(0, "a")
    node.append(1, "b")
    sync_oldest(node.data, share=0.5)
    assert node.answers() == [(1, False, False)], "AckedDurable: `b` is not on the disk yet"
    sync_oldest(node.data)
    assert node.answers() == [(2, False, False)], "RolloverProgress: a durable frame is not answered"


def test_frame_is_answered_when_it_is_durable():
    node = Replicas()
    node.append(0, "a", "b")
    assert node.answers() == [] and node.copy.length == 2, "AckedDurable: answered before it is durable"
    node.sync()
    assert node.answers() == [(2, False, False)], "AckedDurable"


def test_gap_is_answered_with_the_length():
    node = Replicas()
    node.append(0, "a")
    node.sync()
    node.answers()
    node.append(2, "c")
    assert node.answers() == [(1, False, True)] and node.copy.length == 1, (
        "SeqOrder: a frame is taken behind a gap"
    )


def test_repeated_and_overlapping_frames_change_nothing_twice():
    node = Replicas()
    for start, payloads in [(0, "ab"), (0, "ab"), (1, "bc"), (0, "a"), (3, "d"), (0, "")]:
        node.append(start, *payloads)
    node.sync()
    assert node.memory.entries["t/1"] == [b"a", b"b", b"c", b"d"], "SeqOrder"
    assert node.answers()[-1][0] == 4, "AckedDurable"


@pytest.mark.parametrize(
    ("sender", "segment"), [(3, 1), (2, 1), (1, 2), (1, 0), (1, -1)], ids=lambda value: str(value)
)
def test_frame_of_a_stranger_or_of_an_unknown_segment_is_dropped(sender: int, segment: int):
    node = Replicas()
    node.append(0, "a", sender=sender, segment=segment)
    node.sync()
    assert not node.memory.entries, "SingleWriter: a frame of a node that does not lead the segment is taken"
    assert node.answers() == [], "SingleWriter"


def test_fenced_copy_takes_nothing_more_from_the_writer():
    node = Replicas()
    node.append(0, "a")
    node.copies.fence(node.copy, lambda: None)
    node.append(1, "b")
    assert node.answers() == [(0, True, False)], "AckedDurable: the length is what is durable"
    node.sync()
    assert node.answers() == [(1, True, False)], "AckedDurable: the frame on its way to the disk says so too"
    assert node.memory.entries["t/1"] == [b"a"], "AckedDurable: a fenced copy grows"


def test_a_fence_is_answered_with_the_length_that_it_was_noted_at():
    """Another recovery may lengthen the copy meanwhile: what is only copied must not decide a length."""
    node = Replicas()
    node.append(0, "a")
    node.replica.on_fence(3, m.Fence(topic="t", segment=1))
    node.copies.append(node.copy, 1, batch("b"), lambda: None)
    assert node.outbox.take() == [], "AckedDurable: neither the entries nor the note are durable"
    for _ in range(3):
        node.sync()
    (fence,) = [e.message for e in node.outbox.take() if isinstance(e.message, m.FenceReply)]
    assert fence.length == 1, "SealedStable: the answer counts what came after the fence"


def test_a_fence_and_a_frame_of_a_segment_that_is_gone_leave_nothing_behind():
    """Both may have been on their way while it was trimmed here."""
    node = Replicas()
    node.metadata.apply(seal(1, 0, leader=1))
    node.metadata.apply(Trim(topic="t", old=1, first=2))
    assert node.copies.drop(("t", 1))
    node.append(0, "late")
    node.replica.on_fence(3, m.Fence(topic="t", segment=1))
    node.sync()
    assert node.copies.known() == [], "SpaceIsGivenBack: a copy of what is gone, which nothing drops again"
    assert node.copies.noted == {}, "SpaceIsGivenBack: no seal will ever end this fence"


def test_frame_for_a_sealed_segment_is_refused_however_late():
    node = Replicas()
    node.append(0, "a")
    node.sync()
    node.answers()
    for number in range(1, 5):
        node.metadata.apply(seal(number, 1 if number == 1 else 0, leader=1))
    node.append(1, "b")
    assert node.copy.length == 1, "SealedStable: a frame of a sealed segment is taken"
    assert node.answers() == [(1, True, False)], "SealedStable"


def test_full_disk_is_not_answered_in_a_loop():
    """An answer would make the writer send the frame again at once, as fast as the network goes."""
    node = Replicas()
    node.memory.full = True
    node.append(0, "a")
    node.sync()
    assert node.answers() == [] and node.copy.length == 0, "AckedDurable: answered, and not written"
    node.memory.full = False
    node.append(0, "a")
    node.sync()
    assert node.answers() == [(1, False, False)], "AckedDurable"


def test_unsure_copy_is_sure_again_once_it_reaches_the_writers_end():
    node = Replicas()
    node.copies.mark(node.copy, sure=False)
    node.append(0, "a", end=2)
    node.sync()
    assert not node.copy.sure, "AckedDurable: it may lack what was acknowledged"
    node.append(1, "b", end=2)
    assert not node.copy.sure, "AckedDurable: what was fetched again could be lost again"
    node.sync()
    assert node.copy.sure, "FailoverProgress"


def test_unsure_copy_that_cannot_be_noted_as_sure_stays_unsure():
    node = Replicas()
    node.copies.mark(node.copy, sure=False)
    assert isinstance(node.meta.storage, MemoryEngine)
    node.meta.storage.full = True
    node.append(0, "a", end=1)
    node.sync()
    assert not node.copy.sure and node.answers() == [(1, False, False)], (
        "AckedDurable: a restart would find it unsure"
    )


def test_replica_makes_itself_known_to_the_leader_of_a_new_segment():
    node = Replicas()
    node.replica.announce("t", 1, node.metadata.topics["t"].open)
    assert node.answers() == [(0, False, True)], "RolloverProgress"
