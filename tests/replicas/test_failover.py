"""Recovery: fence a majority, take the longest, have a majority hold it, and only then call it found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.world import STEP, NodeWorld, batch, config, three
from walrus import protocol
from walrus.consensus.journal import RaftJournal
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.failover import Sealable, SegmentRecovery
from walrus.replicas.puller import Puller
from walrus.replicas.reads import Reads
from walrus.segments import LastNumber, Metadata, Segment
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import EMPTY, Batch, Checksum
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send, no_trace

KEY = ("t", 1)


def checksum(length: int) -> Checksum:
    return Checksum(length, length)


class Bench:
    """Node 9 recovers t/1, which node 1 led, with replicas 1, 2 and 3."""

    def __init__(self, replicas: tuple[int, ...] = (1, 2, 3)) -> None:
        self.now = 0.0
        self.outbox = Outbox(9)
        segment = Segment(leader=1, incarnation=1, replicas=replicas)
        self.recovery = SegmentRecovery(
            KEY, segment, config=config(9), outbox=self.outbox, trace=no_trace, now=self.now
        )

    def fenced(self, node: int, length: int, *, sure: bool = True) -> None:
        reply = m.FenceReply(topic="t", segment=1, length=length, checksum=checksum(length), sure=sure)
        self.recovery.on_fence_reply(node, reply, self.now)
        self.recovery.check_invariants()

    def copied(self, node: int, length: int) -> None:
        reply = m.CopyReply(topic="t", segment=1, length=length, checksum=checksum(length))
        self.recovery.on_copy_reply(node, reply, self.now)
        self.recovery.check_invariants()

    def tick(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            self.recovery.on_tick(self.now)
            self.recovery.check_invariants()

    def sent(self, kind: type[Any]) -> list[tuple[int, Any]]:
        sent = [(e.to, e.message) for e in self.outbox.take() if isinstance(e, Send)]
        return [(to, message) for to, message in sent if isinstance(message, kind)]

    @property
    def found(self) -> Sealable | None:
        return self.recovery.found


def test_every_replica_is_asked_to_fence_and_asked_again():
    bench = Bench()
    assert [to for to, _ in bench.sent(m.Fence)] == [1, 2, 3], "FailoverProgress"
    bench.fenced(2, 5)
    bench.tick(0.25)
    assert [to for to, _ in bench.sent(m.Fence)] == [1, 3], "FailoverProgress"


def test_of_one_node_the_first_answer_counts():
    """A later one may be longer by what another recovery copied to it, and that was never acknowledged."""
    bench = Bench()
    for node, length in ((2, 3), (2, 5), (3, 3)):
        bench.fenced(node, length)
    bench.copied(3, 3)
    assert bench.found is not None and bench.found.count == 3, "SealedStable: what was only copied counts"


@pytest.mark.parametrize("pair", [(1, 2), (1, 3), (2, 3)])
def test_any_majority_will_do(pair: tuple[int, int]):
    bench = Bench()
    bench.fenced(pair[0], 5)
    assert bench.found is None, "AckedDurable: one fence is no majority"
    bench.fenced(pair[1], 5)
    assert bench.found == Sealable(5, checksum(5)), "FailoverProgress, SealedStable"


def test_longest_copy_is_taken_and_copied_until_a_majority_holds_it():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 7)
    assert bench.found is None, "SealedStable: one copy is no majority"
    ((to, copy),) = bench.sent(m.Copy)
    assert (to, copy.source, copy.upto) == (2, 3, 7), "AckedDurable: the longest copy is the source"
    bench.copied(2, 6)
    assert bench.found is None, "SealedStable: one copy is no majority"
    bench.copied(2, 7)
    assert bench.found == Sealable(7, checksum(7)), "AckedDurable, SealedStable"


def test_the_seal_of_a_recovery_has_the_producers_of_the_copy_that_was_chosen():
    bench = Bench()
    for node, length in ((2, 4), (3, 7)):
        last = {"x": LastNumber(length - 1, 0)}
        reply = m.FenceReply(
            topic="t", segment=1, length=length, checksum=checksum(length), sure=True, producers=last
        )
        bench.recovery.on_fence_reply(node, reply, bench.now)
    bench.copied(2, 7)
    found = bench.found.producers if bench.found else None
    assert found == {"x": LastNumber(6, 0)}, "NoDuplicateAppend: the next writer takes what is there as new"


def test_a_copy_that_was_asked_for_is_asked_for_again():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 7)
    assert [to for to, _ in bench.sent(m.Copy)] == [2], "FailoverProgress"
    bench.tick(0.25)
    assert [to for to, _ in bench.sent(m.Copy)] == [2], "FailoverProgress: the first one may be lost"


def test_longer_copy_that_answers_later_changes_nothing():
    """It was not in the majority, so what it has beyond was never acknowledged."""
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 4)
    bench.fenced(1, 9)
    assert bench.found == Sealable(4, checksum(4)), "SealedStable"


def test_third_copy_can_complete_the_majority():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 7)
    bench.fenced(1, 7)
    assert bench.found == Sealable(7, checksum(7)), "AckedDurable, SealedStable"


def test_answers_of_strangers_and_repeated_answers_do_not_count():
    bench = Bench()
    bench.fenced(7, 9)
    bench.fenced(2, 5)
    bench.fenced(2, 5)
    bench.copied(7, 9)
    assert bench.found is None, "AckedDurable: a stranger counts"


def test_nothing_fenced_yet_is_nothing_copied():
    bench = Bench()
    bench.copied(2, 9)
    bench.copied(3, 9)
    assert bench.found is None, "AckedDurable: nothing is fenced"


def test_recovery_begins_again_when_the_source_is_gone():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 7)
    bench.tick(2.0)
    assert 2 in [to for to, _ in bench.sent(m.Fence)], "FailoverProgress: asked anew, though it had answered"
    bench.fenced(2, 4)
    bench.fenced(1, 4)
    assert bench.found == Sealable(4, checksum(4)), "SealedStable"


def test_what_an_earlier_attempt_heard_counts_for_nothing_when_a_recovery_begins_again():
    """The node that had so much may have lost power since, or its disk."""
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 7)
    bench.tick(2.0)
    bench.sent(m.Fence)
    bench.copied(3, 7)
    bench.copied(2, 7)
    bench.fenced(1, 7)
    bench.fenced(2, 4)
    assert bench.found is None, "SealedStable: only node 1 has shown seven entries since"
    assert [to for to, _ in bench.sent(m.Copy)] == [2], "AckedDurable: node 3 is fenced first"
    bench.copied(2, 7)
    assert bench.found == Sealable(7, checksum(7)), "SealedStable"


def test_recovery_begins_again_for_lack_of_progress_and_not_for_lack_of_speed():
    bench = Bench()
    bench.sent(m.Fence)
    bench.fenced(2, 1)
    bench.fenced(3, 7)
    for length in (2, 3, 4, 5, 6):
        bench.tick(0.8)
        bench.copied(2, length)
    assert 2 not in [to for to, _ in bench.sent(m.Fence)], (
        "FailoverProgress: node 2 is asked anew though its copy grows"
    )
    bench.copied(2, 6)  # says nothing new
    bench.tick(0.8)
    bench.copied(2, 6)
    bench.tick(0.8)
    assert 2 in [to for to, _ in bench.sent(m.Fence)], "FailoverProgress"


def test_single_replica_is_its_own_majority():
    bench = Bench(replicas=(1,))
    bench.fenced(1, 3)
    assert bench.found == Sealable(3, checksum(3)), "FailoverProgress, SealedStable"


def test_what_was_found_stays_found():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 4)
    bench.tick(10.0)
    assert bench.found == Sealable(4, checksum(4)), "SealedStable"


# --- unsure copies ---


def test_unsure_copy_does_not_count_towards_the_majority():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 2, sure=False)
    assert bench.found is None and bench.recovery.waits_for_sure_copies, (
        "AckedDurable: it may be short, and counts as sure"
    )
    bench.fenced(1, 6)
    assert bench.found is None, "SealedStable: the longest is on one node only"
    bench.copied(2, 6)
    assert bench.found == Sealable(6, checksum(6)), "AckedDurable, SealedStable"


def test_answers_of_all_replicas_are_enough_however_unsure():
    bench = Bench()
    for node, length in ((1, 3), (2, 5), (3, 5)):
        assert bench.found is None, "AckedDurable: it may be short, and counts as sure"
        bench.fenced(node, length, sure=False)
    assert bench.found == Sealable(5, checksum(5)), "AckedDurable, SealedStable"


def test_unsure_copy_may_be_the_longest():
    bench = Bench()
    bench.fenced(1, 4)
    bench.fenced(3, 9, sure=False)
    bench.fenced(2, 4)
    bench.copied(1, 9)
    assert bench.found == Sealable(9, checksum(9)), "AckedDurable, SealedStable"


def test_operator_can_end_the_waiting_with_a_majority_and_only_with_one():
    bench = Bench()
    bench.fenced(2, 4, sure=False)
    bench.recovery.force(bench.now)
    assert bench.found is None and not bench.recovery.waits_for_sure_copies, (
        "AckedDurable: a majority may still acknowledge"
    )
    bench.fenced(3, 4)
    assert bench.found == Sealable(4, checksum(4)), "FailoverProgress"


def test_what_an_operator_forced_still_takes_a_majority_when_it_begins_again():
    bench = Bench()
    bench.fenced(2, 4, sure=False)
    bench.fenced(3, 7, sure=False)
    bench.recovery.force(bench.now)
    bench.tick(2.0)  # node 3, which had the longest copy, does not answer any more
    bench.fenced(2, 4, sure=False)
    assert bench.found is None, "SealedStable: one fenced replica is no majority"
    bench.fenced(1, 6)
    assert bench.found is None, "SealedStable: one copy of six is no majority"
    bench.copied(2, 6)
    assert bench.found == Sealable(6, checksum(6)), "SealedStable"


def test_waiting_goes_on_for_as_long_as_it_takes():
    bench = Bench()
    bench.fenced(2, 4)
    bench.fenced(3, 2, sure=False)
    bench.tick(60.0)
    assert bench.found is None and bench.recovery.waits_for_sure_copies, (
        "AckedDurable: it may be short, and counts as sure"
    )


# --- copying ---


class Pulls:
    """Node 2 with an empty copy of t/1, and the node that it reads from."""

    def __init__(self) -> None:
        self.memory = MemoryEngine()
        self.data, self.meta = Durable(self.memory), Durable(MemoryEngine())
        self.copies = Copies(self.data, self.meta)
        self.outbox = Outbox(2)
        reads = Reads(
            config=config(2),
            copies=self.copies,
            metadata=Metadata(),
            outbox=self.outbox,
            commit_index=lambda topic, number: None,
            first_request=0,
        )
        self.reads = reads
        self.puller = Puller(copies=self.copies, reads=reads, outbox=self.outbox)
        self.copy = self.copies.get(KEY)
        self.sent: list[Any] = []

    def ask(self, upto: int, source: int = 3, sender: int = 9) -> None:
        self.puller.on_copy(sender, m.Copy(topic="t", segment=1, source=source, upto=upto), 0.0)

    def take(self, kind: type[Any]) -> list[Any]:
        self.sent += [e.message for e in self.outbox.take() if isinstance(e, Send)]
        wanted = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return wanted

    def answer(self, read: m.Read, got: Batch, error: str = "", node: int = 3) -> None:
        self.reads.on_reply(node, m.ReadReply(request=read.request, batch=got, error=error), 0.0)

    def sync(self) -> None:
        self.data.on_durable(self.data.written)


def test_copy_is_extended_in_pieces_and_reported_when_durable():
    pulls = Pulls()
    pulls.ask(3)
    (read,) = pulls.take(m.Read)
    assert (read.start, read.raw) == (0, True), "PrefixAgree"
    pulls.answer(read, batch("a", "b"))
    (read,) = pulls.take(m.Read)
    pulls.answer(read, batch("c", "beyond what was asked for"))
    assert pulls.copy.length == 3 and pulls.take(m.CopyReply) == [], "SealedStable: told before it is durable"
    pulls.sync()
    (reply,) = pulls.take(m.CopyReply)
    assert (reply.length, reply.checksum) == (3, Checksum().extend(batch("a", "b", "c"))), "SealedStable"
    assert not pulls.puller.pulling(pulls.copy), "FailoverProgress"


def test_copy_that_is_long_enough_is_reported_at_once_and_never_cut():
    pulls = Pulls()
    pulls.copies.append(pulls.copy, 0, batch("a", "b", "c"), lambda: None)
    pulls.sync()
    pulls.ask(2)
    assert pulls.take(m.Read) == [] and pulls.copy.length == 3, "PrefixAgree: a copy is cut"
    assert [reply.length for reply in pulls.take(m.CopyReply)] == [2], "SealedStable"


@pytest.mark.parametrize("how", ["nothing", "error", "timeout", "disconnected"])
def test_copying_that_fails_can_be_asked_for_again_from_another_source(how: str):
    pulls = Pulls()
    pulls.ask(1)
    (read,) = pulls.take(m.Read)
    if how == "nothing":
        pulls.answer(read, EMPTY)
    elif how == "error":
        pulls.answer(read, EMPTY, error="damaged")
    elif how == "timeout":
        pulls.reads.on_tick(60.0)
    else:
        pulls.reads.on_disconnected(3, 0.0)
    assert not pulls.puller.pulling(pulls.copy), "FailoverProgress"
    pulls.ask(1, source=1)
    (read,) = pulls.take(m.Read)
    pulls.answer(read, batch("a"), node=1)
    pulls.sync()
    assert [reply.length for reply in pulls.take(m.CopyReply)] == [1], "FailoverProgress"


def test_answer_that_overlaps_what_came_in_between_adds_nothing_twice():
    pulls = Pulls()
    pulls.ask(4)
    (read,) = pulls.take(m.Read)
    pulls.copies.append(pulls.copy, 0, batch("a", "b", "c"), lambda: None)
    pulls.answer(read, batch("a", "b"))
    (read,) = pulls.take(m.Read)
    assert read.start == 3, "SeqOrder"
    pulls.answer(read, batch("d"))
    assert pulls.memory.entries["t/1"] == [b"a", b"b", b"c", b"d"], "PrefixAgree"


def test_one_that_asks_for_less_leaves_the_others_what_they_asked_for():
    """A recovery that began anew may choose a shorter copy while this one is being extended for another."""
    pulls = Pulls()
    pulls.ask(3, sender=8)
    (read,) = pulls.take(m.Read)
    pulls.ask(2, sender=9)
    pulls.answer(read, batch("a", "b"))
    for read in pulls.take(m.Read):
        pulls.answer(read, batch("c"))
    pulls.sync()
    lengths = sorted(reply.length for reply in pulls.take(m.CopyReply))
    assert lengths == [2, 3], "FailoverProgress: one is told of less than it has asked for"


@pytest.mark.parametrize("lengths", [(1, 1), (1, 1, 5)], ids=["all", "what is wanted adds up"])
def test_a_piece_that_does_not_add_up_is_not_taken(lengths: tuple[int, ...]):
    """Its lengths would cut the entries elsewhere than at their source."""
    pulls = Pulls()
    pulls.ask(2)
    (read,) = pulls.take(m.Read)
    pulls.answer(read, Batch(b"".join(length.to_bytes(4, "little") for length in lengths), b"abc"))
    assert pulls.copy.length == 0, "PrefixAgree: a piece of other entries than its source has"
    assert not pulls.puller.pulling(pulls.copy), "FailoverProgress: a pull waits for a piece that came"


def test_a_piece_that_comes_when_its_segment_is_gone_is_not_taken():
    pulls = Pulls()
    pulls.ask(2)
    (read,) = pulls.take(m.Read)
    pulls.puller.stop(pulls.copy)
    pulls.answer(read, batch("a", "b"))
    assert not pulls.memory.entries.get("t/1"), "SpaceIsGivenBack: what is gone is copied"


def test_full_disk_ends_the_copying_and_not_the_node():
    pulls = Pulls()
    pulls.memory.full = True
    pulls.ask(1)
    (read,) = pulls.take(m.Read)
    pulls.answer(read, batch("a"))
    assert not pulls.puller.pulling(pulls.copy) and pulls.copy.length == 0, "SealedStable"


# --- whole nodes ---


def test_tail_on_one_replica_survives_only_if_its_node_answers():
    """Acknowledged entries always do; what one replica has beyond may."""
    world = three(failure_timeout=1.5)
    world.register("t")
    leader = world.topic("t").open.leader
    first, second = (node for node in (1, 2, 3) if node != leader)
    assert world.put(leader, "t", "acknowledged") == [b"OK"]
    world.cut |= {(leader, second)}
    world.send(leader, protocol.Put("t", batch("on two")))
    world.run(0.1)
    world.kill(leader)
    world.cut.clear()
    world.until(lambda: world.topic("t").current == 2)
    assert world.topic("t").segments[0].count == 2, "SealedStable"
    world.run(0.5)
    assert world.stored(first, "t", 1) == world.stored(second, "t", 1) == [b"acknowledged", b"on two"], (
        "PrefixAgree"
    )


def test_one_silent_replica_delays_nothing():
    """It accepts connections and never answers: the other two are a majority."""
    world = three(failure_timeout=1.5)
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [b"OK"]
    others = [node for node in (1, 2, 3) if node != leader]
    world.lose = lambda sender, to, message: (
        sender == others[1] and isinstance(message, m.FenceReply | m.CopyReply | m.ReadReply)
    )
    world.kill(leader)
    world.start(leader)
    world.until(lambda: world.topic("t").current >= 2, within=5.0)


@pytest.mark.parametrize("step", range(1, 12))
def test_recovering_node_may_die_after_any_step(step: int):
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    entries = [b"%d" % number for number in range(5)]
    assert world.put(leader, "t", *entries) == [b"OK"] * 5
    seen: list[object] = []

    def watch(sender: int, to: int, message: object) -> None:
        if isinstance(message, m.Fence | m.FenceReply | m.Copy | m.CopyReply | m.Propose):
            seen.append(message)

    world.watch = watch
    world.kill(leader)
    deadline = world.now + 5
    while len(seen) < step and world.now < deadline:
        world.step()
    recovering = world.raft_leader if any(c.raft.role.value == "Leader" for c in world.nodes.values()) else 0
    if recovering:
        world.kill(recovering)
        world.start(recovering)
    world.start(leader)
    world.until(lambda: world.topic("t").segments[0].sealed)
    assert world.topic("t").segments[0].count == 5, "AckedDurable: the seal lacks entries"
    assert world.get_all(min(world.nodes), "t") == entries, "AckedDurable"


def test_two_recoveries_end_in_one_seal():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a", "b") == [b"OK"] * 2
    for node, controller in world.nodes.items():
        controller.lifecycle.recover("t", 1, world.now)
        assert ("t", 1) in controller.lifecycle.recoveries, node
    world.until(lambda: all(c.metadata.topics["t"].current == 2 for c in world.nodes.values()))
    assert world.topic("t").segments[0].count == 2 and world.topic("t").segments[0].recovered, (
        "AckedDurable: the seal lacks entries"
    )
    assert not any(c.lifecycle.recoveries for c in world.nodes.values()), (
        "SealedStable: a recovery goes on behind the end of its segment"
    )
    assert world.put(leader, "t", "c") == [b"OK"], "FailoverProgress: nothing is written behind a recovery"
    assert world.get_all(1, "t") == [b"a", b"b", b"c"], "AckedDurable"


# --- power loss ---


def lazy() -> NodeWorld:
    """Three nodes that acknowledge before they sync; each holds three entries that were never synced."""
    world = three()
    world.register("t")
    world.sync_each = False
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a", "b", "c") == [b"OK"] * 3
    world.run(0.2)
    return world


def test_power_loss_on_one_replica_of_a_live_writer_is_healed():
    world = lazy()
    leader = world.topic("t").open.leader
    victim = next(node for node in (3, 2, 1) if node != leader)
    world.lose_power(victim)
    assert world.stored(victim, "t", 1) == []
    world.start(victim, sure=False)
    world.until(lambda: world.stored(victim, "t", 1) == [b"a", b"b", b"c"])
    world.until(lambda: world.nodes[victim].copies.get(("t", 1)).sure)


def test_shortened_copy_is_unsure_before_its_node_knows_any_metadata():
    """The fence may be the first thing that a restarted node hears, before Raft told it what is committed."""
    world = lazy()
    leader = world.topic("t").open.leader
    victim = next(node for node in (3, 2, 1) if node != leader)
    world.lose_power(victim)
    world.start(victim, sure=False)
    controller = world.nodes[victim]
    assert "t" not in controller.metadata.topics
    replies: list[m.FenceReply] = []

    def watch(sender: int, to: int, message: object) -> None:
        if isinstance(message, m.FenceReply):
            replies.append(message)

    world.watch = watch
    other = next(node for node in (1, 2, 3) if node not in (leader, victim))
    controller.on_connected(other, m.HelloReply(error="", cluster_id="test"), world.now)
    controller.on_message(other, m.Fence(topic="t", segment=1), world.now)
    world._turns()
    assert [(reply.length, reply.sure) for reply in replies] == [(0, False)], (
        "AckedDurable: it is short, and says that it is sure"
    )


def test_acknowledged_entry_is_not_lost_when_a_shortened_copy_answers_with_a_lagging_one():
    world = lazy()
    leader = world.topic("t").open.leader
    short, lagging = (node for node in (1, 2, 3) if node != leader)
    world.cut |= {(leader, lagging), (lagging, leader)}
    assert world.put(leader, "t", "only on two") == [b"OK"]
    world.kill(leader)
    world.lose_power(short)
    world.cut.clear()
    world.start(short, sure=False)
    world.run(6.0)
    assert world.topic("t").current == 1, "AckedDurable: it waits for a third answer"
    keeper = next(n for n, c in world.nodes.items() if c.lifecycle.recoveries)
    waiting = world.metrics(keeper)["recoveries_waiting_for_sure_copies"]
    assert list(waiting) == ["t/1"], "AckedDurable: METRICS do not say what waits for a sure copy"
    world.start(leader)
    world.until(lambda: world.topic("t").current >= 2)
    assert world.topic("t").segments[0].count == 4, "AckedDurable: the seal lacks the entry that was on two"


def test_operator_ends_a_recovery_that_waits():
    world = lazy()
    leader = world.topic("t").open.leader
    short, lagging = (node for node in (1, 2, 3) if node != leader)
    world.cut |= {(leader, lagging), (lagging, leader)}
    assert world.put(leader, "t", "only on two") == [b"OK"]
    world.kill(leader)
    world.lose_power(short)
    world.cut.clear()
    world.start(short, sure=False)
    world.run(6.0)
    assert world.ask(lagging, protocol.Recover("t", 1)) == [b"OK"]
    assert world.topic("t").current >= 2, "AnswersAreTrue: OK is said when it is done"
    assert any("an operator ends the recovery" in line for line in world.logs)
    assert world.put(short, "t", "after") == [b"OK"], "FailoverProgress: RECOVER ends nothing"


def test_operator_is_told_when_there_is_nothing_to_recover():
    world = lazy()
    for node in (1, 2, 3):
        [reply] = world.ask(node, protocol.Recover("t", 1))
        assert reply.startswith(b"ERR timeout: segment 1 of t is not sealed"), "AnswersAreTrue"
    assert world.topic("t").current == 1, "OnlyWhatWasMeant: RECOVER ends a segment that is not recovered"
    assert world.put(1, "t", "as if nothing had happened") == [b"OK"], "EveryPubAnswered"


def test_doubt_survives_a_second_restart_before_anything_was_applied():
    world = lazy()
    leader = world.topic("t").open.leader
    victim = next(node for node in (3, 2, 1) if node != leader)
    world.lose_power(victim)
    controller = world.start(victim, sure=False)
    assert not controller.doubts_are_noted, "AckedDurable: the shell must not call this start a sure one yet"
    world.until(lambda: controller.doubts_are_noted)
    assert world.now > STEP


def test_a_shadow_and_its_original_are_extended_side_by_side() -> None:
    """A repair may ask for the copy of a segment whose shadow is being filled: neither forgets the other."""
    pulls = Pulls()
    done: list[str] = []
    shadow = pulls.copies.shadow(KEY)
    pulls.puller.pull(pulls.copy, 1, 2, 0.0, lambda: done.append("repair"), asker=3)
    pulls.puller.pull(pulls.copy, 1, 2, 0.0, lambda: done.append("catch up"))
    pulls.puller.pull(shadow, 1, 2, 0.0, lambda: done.append("shadow"))
    for copy in (pulls.copy, shadow):
        pulls.copies.append(copy, 0, Batch.of([b"x"]), lambda: None)
    pulls.puller.pull(shadow, 1, 2, 0.0, lambda: done.append("shadow"))
    pulls.data.on_durable(pulls.data.written)
    assert sorted(done) == ["catch up", "repair", "shadow"], "ReplicasKept: one pull forgets another"


def test_a_copy_is_unsure_after_an_unclean_stop_even_if_rafts_journal_ends_with_its_snapshot():
    """The doubt covers everything that the journal knows of, entries behind the snapshot or none."""
    world = three()
    world.register("t")
    assert world.put(1, "t", "a") == [b"OK"]
    world.until(world.settled)
    victim = world.topic("t").open.replicas[-1]
    raft = world.nodes[victim].raft
    raft.compact(raft.log.applied_index, world.nodes[victim].metadata.snapshot())
    world.step()
    restored = RaftJournal(world.stores[victim][1]).load()
    assert restored.snapshot is not None and not restored.entries, "the journal ends with its snapshot"
    world.lose_power(victim)
    controller = world.start(victim, sure=False)
    assert not controller.copies.get(("t", 1)).sure, "RecoveredIsPrefix: it may lack what it acknowledged"
