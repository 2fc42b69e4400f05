"""Repair and catching up: a replica set never counts a copy that has not shown that it is whole."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import pytest

from tests.broker.test_segments import announce, cluster, seal
from tests.broker.world import NodeWorld, batch, config, three
from walrus import protocol
from walrus.replicas.copies import Copies, SegmentCopy
from walrus.replicas.durability import Durable
from walrus.replicas.puller import Puller
from walrus.replicas.reads import Reads
from walrus.replicas.repair import LONGEST_PATIENCE, MAX_REPAIRS, PUT_OFF, CatchUp, Repairs
from walrus.segments import Command, RemoveNode, SetReplicas, Trim
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Checksum
from walrus.storage.errors import CorruptionError
from walrus.wire import messages as m
from walrus.wire.effects import Outbox, Send

SUM = Checksum(1, 2)


class Bench:
    """The Raft leader's repairs for a topic with one sealed segment of seven entries on 1, 2 and 3."""

    def __init__(self) -> None:
        self.metadata = cluster(seal(1, 7))
        self.outbox = Outbox(1)
        self.proposed: list[Command] = []
        self.repairs = Repairs(
            config=config(),
            metadata=self.metadata,
            outbox=self.outbox,
            propose=lambda command, now: self.proposed.append(command),
        )
        self.now = 0.0

    def tick(self, voters: list[int], live: list[int], dead: tuple[int, ...] = ()) -> set[tuple[int, int]]:
        """Who is asked to copy, and from whom."""
        self.now += 0.6
        self.repairs.on_tick(voters, live, dead, self.now)
        sent = [(e.to, e.message) for e in self.outbox.take() if isinstance(e, Send)]
        local = [(1, message) for message in self.outbox.local]
        self.outbox.local.clear()
        return {(to, message.source) for to, message in sent + local if isinstance(message, m.Copy)}

    def answer(self, node: int, length: int = 7, checksum: Checksum = SUM) -> None:
        reply = m.CopyReply(topic="t", segment=1, length=length, checksum=checksum)
        self.repairs.on_copy_reply(node, reply, self.now)


class Many(Bench):
    """As many sealed segments on 1, 2 and 3, each with so many entries."""

    def __init__(self, segments: int, entries: int, **settings: int) -> None:
        super().__init__()
        self.metadata = cluster(*(seal(number, entries) for number in range(1, segments + 1)))
        self.repairs = Repairs(
            config=config(**settings),
            metadata=self.metadata,
            outbox=self.outbox,
            propose=lambda command, now: self.proposed.append(command),
        )

    def asked(self, seconds: float, nodes: list[int]) -> set[int]:
        """Segments for which copies are asked, so many seconds later."""
        self.now += seconds
        self.repairs.on_tick([1, 2], nodes, (), self.now)
        sent = [e.message for e in self.outbox.take() if isinstance(e, Send)] + [*self.outbox.local]
        self.outbox.local.clear()
        return {message.segment for message in sent if isinstance(message, m.Copy)}

    def record(self, segment: int, entries: int) -> None:
        """Both nodes that stay have shown that they hold it, and Raft has recorded the set."""
        for node in (1, 2):
            reply = m.CopyReply(topic="t", segment=segment, length=entries, checksum=SUM)
            self.repairs.on_copy_reply(node, reply, self.now)
        command = self.proposed.pop()
        assert isinstance(command, SetReplicas) and command.segment == segment
        self.metadata.apply(command)
        self.repairs.on_replicas(("t", segment))


def test_repairs_are_bounded_in_number_and_the_next_begin_as_soon_as_one_is_recorded():
    bench = Many(segments=MAX_REPAIRS + 30, entries=1)
    assert bench.asked(1.0, [1, 2, 3]) == set(range(1, MAX_REPAIRS + 1)), (
        "ReplicasKept: others are asked than may be under way"
    )
    assert bench.asked(0.01, [1, 2, 3]) == set(), "ReplicasKept: none asked again before the interval"
    bench.record(5, 1)
    bench.record(7, 1)
    assert bench.asked(0.01, [1, 2, 3]) == {MAX_REPAIRS + 1, MAX_REPAIRS + 2}, "ReplicasKept: without a pause"
    assert len(bench.asked(1.0, [1, 2, 3])) == MAX_REPAIRS, (
        "ReplicasKept: those that did not answer are asked again"
    )


def test_a_node_that_answers_for_others_is_busy_and_not_asked_again():
    """Asked with each interval, a slow node has a queue that grows faster than it can work it off."""
    bench = Many(segments=200, entries=1)
    assert len(bench.asked(1.0, [1, 2, 3])) == 200, "ReplicasKept: others are asked than may be under way"
    for segment in range(1, 200):
        bench.record(segment, 1)
        assert bench.asked(0.4, [1, 2, 3]) == set(), "ReplicasKept: all the others wait in its queue"
    assert bench.asked(1.0, [1, 2, 3]) == {200}, "ReplicasKept: now it is silent"


def test_a_silent_node_is_asked_again_after_twice_as_long_each_time():
    bench = Many(segments=5, entries=1)
    times = [bench.now for _ in range(300) if bench.asked(0.125, [1, 2, 3])]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0], (
        "ReplicasKept: a silent node is asked too soon, or too late"
    )
    bench.record(1, 1)
    assert bench.asked(15.0, [1, 2, 3]) == set(), "ReplicasKept: patience is as long as it had to be"


def test_repairs_are_bounded_in_entries():
    bench = Many(segments=10, entries=60, max_segment_entries=50)
    assert bench.asked(1.0, [1, 2, 3]) == {1, 2, 3, 4}, (
        "ReplicasKept: 240 entries: four full segments are 200"
    )
    bench.record(2, 60)
    assert bench.asked(0.01, [1, 2, 3]) == {5}, "ReplicasKept: no other has its turn"
    one = Many(segments=3, entries=5_000, max_segment_entries=50)
    assert one.asked(1.0, [1, 2, 3]) == {1}, "ReplicasKept: one of any size"


def test_ten_thousand_small_segments_are_repaired_without_waiting_for_the_clock():
    bench = Many(segments=10_000, entries=1)
    left, turns = set(range(1, 10_001)), 0
    while left:
        for segment in sorted(bench.asked(0.01, [1, 2, 3])):
            bench.record(segment, 1)
            left.discard(segment)
        turns += 1
    assert turns <= 10_000 / MAX_REPAIRS + 2, "ReplicasKept: by what is in flight, not by intervals"


def test_nothing_is_done_for_a_whole_set():
    bench = Bench()
    assert bench.tick([1, 2, 3], [1, 2, 3]) == set() == bench.tick([1, 2, 3, 4], [1, 2, 3, 4]), "ReplicasKept"


def test_leaving_replica_is_let_go_only_when_a_majority_of_the_others_is_whole():
    bench = Bench()
    asked = bench.tick([1, 2], [1, 2, 3])
    assert {to for to, _ in asked} == {1, 2} and all(to != source for to, source in asked), "SealedStable"
    bench.answer(1)
    assert bench.proposed == [], "SealedStable: of (1, 2) both are the majority, and node 2 may lag"
    bench.answer(2)
    assert bench.proposed == [
        SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 2), directories=("d1", "d2"))
    ], "SealedStable: not the change that was shown"


def test_two_replicas_that_leave_at_once_are_replaced_together_or_not_at_all():
    """ReplicasKept: with one added at a time, the set of three would have been one of two in between."""
    bench = Bench()
    for node in (4, 5):
        bench.metadata.apply(announce(node, 0))
    assert bench.tick([1, 4, 5], [1, 2, 3, 4]) == set(), "ReplicasKept: one spare node is not enough"
    assert {to for to, _ in bench.tick([1, 4, 5], [1, 2, 3, 4, 5])} == {1, 4, 5}, "ReplicasKept"
    for node in (1, 4):
        bench.answer(node)
    assert bench.proposed == [], "ReplicasKept: node 5 has shown nothing yet"
    bench.answer(5)
    (change,) = bench.proposed
    assert isinstance(change, SetReplicas) and set(change.new) == {1, 4, 5}, "ReplicasKept"


def test_copies_stay_where_they_are_while_every_voter_leaves():
    bench = Bench()
    assert bench.tick(voters=[], live=[1, 2, 3]) == set(), "ReplicasKept"
    bench.metadata.apply(announce(4, 0))
    assert bench.tick(voters=[4], live=[1, 2, 3, 4]) != set(), (
        "ReplicasKept: the first node that stays gets a copy"
    )


def test_two_dead_replicas_are_replaced_by_two():
    bench = Bench()
    for node in (4, 5):
        bench.metadata.apply(announce(node, 0))
    bench.tick([1, 2, 3, 4, 5], [1, 4, 5], dead=(2, 3))
    for node in (1, 4, 5):
        bench.answer(node)
    (change,) = bench.proposed
    assert isinstance(change, SetReplicas) and set(change.new) == {1, 4, 5}, "ReplicasKept"


def test_dead_replicas_stay_in_the_set_until_it_can_be_full_without_them():
    """They may come back: a set of two, one of them damaged, would have no majority to prove itself by."""
    bench = Bench()
    bench.metadata.apply(announce(4, 0))
    bench.tick([1, 2, 3, 4], [1, 4], dead=(2, 3))
    for node in (1, 2, 4):
        bench.answer(node)
    assert bench.proposed, "ReplicasKept: the one node that is spare is not used"
    (change,) = bench.proposed[:1]
    assert isinstance(change, SetReplicas) and set(change.new) == {1, 2, 3, 4}, "ReplicasKept"


def test_a_raft_leader_that_comes_back_has_nothing_under_way():
    many = Many(20, 7, max_segment_entries=7)
    began = many.asked(0.6, [1, 2, 3])
    assert 0 < len(began) < 20, "ReplicasKept: as many as are bounded in entries"
    many.repairs.stop()
    assert many.asked(60.0, [1, 2, 3]) == began, "ReplicasKept: a Raft leader that comes back repairs nothing"
    many.repairs.check_invariants()


def test_what_a_node_has_shown_is_void_once_it_comes_back_with_another_directory():
    bench = Bench()
    bench.metadata.apply(announce(4, 0))
    bench.tick([1, 2, 4], [1, 2, 3, 4])
    bench.answer(4)
    bench.metadata.apply(RemoveNode(node_id=4))
    bench.metadata.apply(announce(4, 0, "empty"))
    bench.answer(1)
    assert bench.proposed == [], "SealedStable: node 4 holds nothing any more"
    bench.tick([1, 2, 4], [1, 2, 3, 4])
    for node in (1, 2, 4):
        bench.answer(node)
    (change,) = set(bench.proposed)
    assert isinstance(change, SetReplicas) and change.directories == ("d1", "d2", "empty"), (
        "SealedStable: shown by a directory that is gone"
    )


def test_new_replica_must_show_the_sealed_count_and_checksum():
    bench = Bench()
    bench.metadata.apply(announce(4, 0))
    assert 4 in {to for to, _ in bench.tick([1, 2, 4], [1, 2, 3, 4])}, (
        "ReplicasKept: a node that takes the place of a dead one is not asked"
    )
    bench.answer(1)
    bench.answer(2)
    bench.answer(4, length=6)
    bench.answer(4, checksum=Checksum(9, 9))
    bench.answer(3)
    assert bench.proposed == [], "SealedStable: proposed before a majority has shown it"
    bench.answer(4)
    change = SetReplicas(topic="t", segment=1, old=(1, 2, 3), new=(1, 2, 4), directories=("d1", "d2", "d4"))
    assert bench.proposed == [change], "ReplicasKept"
    bench.metadata.apply(bench.proposed[0])
    assert bench.tick([1, 2, 4], [1, 2, 3, 4]) == set(), (
        "ReplicasKept: asked although nothing is to be repaired"
    )


def test_what_a_node_has_shown_does_not_count_for_its_successor_under_the_same_id():
    """It was whole, was removed before that was recorded, and comes back with an empty disk."""
    bench = Bench()
    bench.metadata.apply(announce(4, 0))
    bench.tick([1, 2, 4], [1, 2, 3, 4])
    bench.metadata.apply(RemoveNode(node_id=4))
    bench.answer(2)
    bench.answer(4)
    assert bench.proposed == [], "DomainConsistency: 4 is no member"
    bench.tick([1, 2], [1, 2, 3])
    bench.proposed.clear()
    bench.metadata.apply(announce(4, 0, "a new disk"))
    bench.tick([1, 2, 4], [1, 2, 3, 4])
    assert bench.proposed == [], "SealedStable: a copy counts that is not what was sealed"


def test_repair_that_does_not_get_on_makes_room_and_is_tried_again():
    bench = Bench()
    times = [bench.now for _ in range(200) if bench.tick([1, 2], [1, 2, 3])]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    longest = LONGEST_PATIENCE * config().repair_interval
    most = next((number for number, pause in enumerate(pauses) if pause > longest + 1), None)
    assert most is not None, "ReplicasKept: one that does not get on makes no room"
    assert most == 8, "ReplicasKept: each of three sources had its turn twice"
    assert pauses[most] - longest >= PUT_OFF * config().repair_interval, (
        "ReplicasKept: others come first, then it is tried"
    )


def test_a_repair_ends_when_a_node_that_was_to_hold_the_segment_leaves():
    bench = Bench()
    for node in (4, 5):
        bench.metadata.apply(announce(node, 0))
    assert 4 in {to for to, _ in bench.tick([1, 2, 4], [1, 2, 3, 4])}, "ReplicasKept: node 4 replaces node 3"
    asked = {to for to, _ in bench.tick([1, 2, 5], [1, 2, 3, 4, 5])}
    assert 5 in asked and 4 not in asked, "ReplicasKept: a node that leaves is to hold a segment"


def test_a_raft_leader_that_comes_back_has_put_nothing_off():
    bench = Bench()
    while not bench.repairs._put_off:
        bench.tick([1, 2], [1, 2, 3])
    bench.repairs.stop()
    assert bench.tick([1, 2], [1, 2, 3]), "ReplicasKept: what did not get on then may get on now"


def test_stale_and_foreign_answers_are_ignored():
    bench = Bench()
    bench.answer(2)
    bench.repairs.on_copy_reply(2, m.CopyReply(topic="x", segment=9, length=1, checksum=SUM), 0.0)
    bench.tick([1, 2], [1, 2, 3])
    bench.repairs.stop()
    bench.answer(1)
    bench.answer(2)
    assert bench.proposed == [], "SealedStable: a copy counts that is not what was sealed"


# --- whole nodes ---


def test_lagging_replica_catches_up_before_the_other_one_may_leave():
    world = three(max_segment_entries=4, failure_timeout=60.0, election_timeout=40.0)
    world.register("t")
    leader = world.topic("t").open.leader
    lagging = next(n for n in (3, 2, 1) if n not in (leader, world.raft_leader))
    world.lose = lambda sender, to, message: to == lagging and isinstance(message, m.Append | m.ReadReply)
    assert world.put(leader, "t", "a", "b", "c", "d") == [b"OK"] * 4
    world.until(lambda: world.topic("t").current == 2)
    leaving = next(n for n in (1, 2, 3) if n not in (lagging, world.raft_leader))
    slot = world.send(world.raft_leader, protocol.Leave(leaving, force=True))
    world.run(3.0)
    assert world.stored(lagging, "t", 1) == [] and leaving in world.topic("t").segments[0].replicas, (
        "SealedStable"
    )
    world.lose = lambda sender, to, message: False
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot] == [b"OK"]
    assert world.stored(lagging, "t", 1) == [b"a", b"b", b"c", b"d"], (
        "SealedStable: a majority holds the segment before a node may go"
    )


def test_a_replica_that_lacks_only_the_last_entry_of_a_sealed_segment_copies_it():
    world = three(max_segment_entries=4)
    world.register("t")
    leader = world.topic("t").open.leader
    short = leader % 3 + 1
    world.put(leader, "t", "a", "b", "c")
    world.lose = lambda sender, to, message: to == short and isinstance(message, m.Append)
    world.put(leader, "t", "d")
    world.until(lambda: world.topic("t").current == 2)
    assert len(world.stored(short, "t", 1)) == 3
    world.lose = lambda sender, to, message: False
    whole = [b"a", b"b", b"c", b"d"]
    world.until(lambda: world.stored(short, "t", 1) == whole, 5.0, "ReplicasKept: a copy stays short by one")


def test_replica_that_was_away_catches_up_with_what_was_sealed():
    world = three(max_segment_entries=4)
    world.register("t")
    world.kill(3)
    for number in range(10):
        assert world.put(1, "t", f"{number}") == [b"OK"]
    world.start(3)
    world.until(lambda: not world.nodes[3].catch_up.behind and world.settled() and world.nodes[3].ready)
    for number, segment in enumerate(world.topic("t").segments[:-1], 1):
        if 3 in segment.replicas:
            assert len(world.stored(3, "t", number)) == segment.count, "SealedStable"


def test_replica_that_lost_its_copy_before_it_was_recorded_as_one_copies_it_again():
    """It had shown that it is whole, and then its power failed before that was on its disk."""
    world = three(max_segment_entries=4, replication_factor=2)
    world.register("t")
    world.put(1, "t", "a", "b", "c", "d")
    world.until(lambda: world.topic("t").current == 2)
    world.run(0.5)
    old = world.topic("t").segments[0].replicas
    (new,) = {1, 2, 3} - set(old)
    world.nodes[1].raft_host.propose(SetReplicas(topic="t", segment=1, old=old, new=(*old, new)), world.now)
    world.until(lambda: world.stored(new, "t", 1) == [b"a", b"b", b"c", b"d"])


def test_replica_that_a_snapshot_made_one_copies_what_it_lacks():
    """It looked at the segment when that was none of its own; no command tells it to look again."""
    world = three(max_segment_entries=4, replication_factor=2, compact_entries=10)
    world.register("t")
    world.put(1, "t", "a", "b", "c", "d")
    world.until(lambda: world.topic("t").current == 2)
    world.run(0.5)
    old = world.topic("t").segments[0].replicas
    (new,) = {1, 2, 3} - set(old)
    assert world.nodes[new].catch_up._checked == {"t": 1}, (
        "ReplicasKept: it has looked, and does not look at every change"
    )
    world.isolate(new)
    world.until(lambda: world.raft_leader != new)
    change = SetReplicas(topic="t", segment=1, old=old, new=(*old, new))
    world.nodes[world.raft_leader].raft_host.propose(change, world.now)
    for number in range(15):
        world.ask(old[0], protocol.Register(f"t{number}"))
    assert world.nodes[world.raft_leader].raft.log.snapshot_index > world.nodes[new].applied
    world.cut.clear()
    world.until(lambda: new in world.nodes[new].metadata.topics["t"].segments[0].replicas)
    world.run(2)
    assert world.stored(new, "t", 1) == [b"a", b"b", b"c", b"d"], "NoRest: a copy stays short"


def test_a_copy_of_what_is_gone_is_not_begun_for_a_recovery_or_a_repair_that_is_behind():
    world = three()
    world.register("t")
    world.put(1, "t", "a")
    world.ask(1, protocol.Delete("t"))
    world.until(lambda: all("t" not in node.metadata.topics for node in world.nodes.values()))
    world.run(0.5)
    world.nodes[2].on_message(1, m.Copy(topic="t", segment=1, source=3, upto=1), world.now)
    assert ("t", 1) not in world.nodes[2].copies.known(), "SpaceIsGivenBack: a copy of what is gone"


def test_fourth_node_replaces_the_copies_of_a_dead_one():
    world = three(max_segment_entries=4, dead_replica_timeout=5.0)
    world.register("t")
    for number in range(6):
        world.put(1, "t", f"{number}")
    world.join(4)
    world.kill(3)
    world.until(lambda: all(3 not in s.replicas for s in world.topic("t").segments[:-1]))
    assert world.stored(4, "t", 1) == [b"0", b"1", b"2", b"3"], "SealedStable"
    assert len(world.topic("t").segments[0].replicas) == 3, "EnoughReplicas"


def sealed() -> NodeWorld:
    """Three nodes; the first segment of t is sealed with a, b, c and d, on all of them."""
    world = three(max_segment_entries=4)
    world.register("t")
    world.put(1, "t", "a", "b", "c", "d")
    world.until(lambda: world.topic("t").current == 2)
    world.run(0.5)
    return world


def test_damaged_sealed_copy_is_never_served_and_is_made_anew():
    world = sealed()
    for node in (1, 2):
        world.stores[node][0].damaged.add(("t/1", 2))
    assert world.ask(1, protocol.Fetch("t", 1, 2)) == [b"OK 3 c"], "DeliveredIsPrefix"
    assert world.get_all(2, "t") == [b"a", b"b", b"c", b"d"], "DeliveredIsPrefix"
    world.until(lambda: "t/1~" in world.stores[1][0].entries)
    world.run(1.0)
    assert world.stores[1][0].entries["t/1~"] == [b"a", b"b", b"c", b"d"], "PrefixAgree"
    assert world.ask(1, protocol.Fetch("t", 1, 1, 3)) == [b"OK 2 b", b"OK 3 c", b"OK 4 d"], (
        "DeliveredIsPrefix"
    )


def test_a_copy_made_anew_that_is_not_what_was_sealed_replaces_nothing_and_stops_the_node():
    """Its readers would see other entries than those of the other replicas."""
    world = sealed()
    world.stores[1][0].damaged.add(("t/1", 2))
    for node in (2, 3):
        world.stores[node][0].entries["t/1"][3] = b"other"
    world.ask(1, protocol.Fetch("t", 1, 2))
    world.until(
        lambda: 1 in world.halted, claim="PrefixAgree: a copy that differs takes the place of another"
    )
    assert "not what was sealed" in world.halted[1], "PrefixAgree: the node does not say why it stops"


def test_damage_that_a_reader_finds_in_an_open_segment_ends_it():
    """Nothing is written any more, so the writer does not meet the damage itself; readers depend on it."""
    world = three()
    world.register("t")
    world.put(1, "t", "a", "b", "c")
    world.run(0.5)
    leader = world.topic("t").open.leader
    world.stores[leader][0].damaged.add(("t/1", 1))
    world.get_all(2, "t")
    world.until(lambda: world.topic("t").current == 2, claim="ReadProgress: damage does not end its segment")
    assert world.topic("t").segments[0].count == 3, "ReadProgress: a recovery keeps what was acknowledged"
    world.run(1.0)
    assert world.ask(2, protocol.Fetch("t", 1, 0, 3)) == [b"OK 1 a", b"OK 2 b", b"OK 3 c"], (
        "DeliveredIsPrefix"
    )


def test_damage_that_a_checksum_finds_is_mended_as_if_a_reader_had_found_it():
    """Repair asks for the checksum of a copy that is not read. After a restart it is read from the disk."""
    world = sealed()
    world.kill(2)
    world.stores[2][0].damaged.add(("t/1", 2))
    world.start(2)
    world.run(1.0)
    world.nodes[2].on_message(1, m.Copy(topic="t", segment=1, source=3, upto=4), world.now)
    world.until(lambda: world.stores[2][0].entries.get("t/1~") == [b"a", b"b", b"c", b"d"])
    world.until(lambda: "t/1" not in world.stores[2][0].entries)
    assert world.ask(2, protocol.Fetch("t", 1, 2)) == [b"OK 3 c"], "DeliveredIsPrefix"


def test_damaged_tail_of_an_empty_sealed_segment_is_dropped():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    world.lose = lambda sender, to, message: isinstance(message, m.Append)
    world.send(leader, protocol.Put("t", batch("never", "acknowledged")))
    world.step()
    world.kill(leader)
    world.until(lambda: world.topic("t").current == 2)
    world.lose = lambda sender, to, message: False
    assert world.topic("t").segments[0].count == 0, "SealedStable"
    world.stores[leader][0].damaged.add(("t/1", 1))
    world.start(leader)
    copies = world.nodes[leader].copies
    with pytest.raises(CorruptionError):
        copies.read(copies.get(("t", 1)), 1, 2, 1, 100)
    world.until(lambda: not copies.damaged)
    assert copies.get(("t", 1)).length == 0, "PrefixAgree"


def test_new_copy_is_verified_once_however_long_other_checksums_take(monkeypatch: pytest.MonkeyPatch):
    world = sealed()
    world.stores[1][0].damaged.add(("t/1", 2))
    monkeypatch.setattr(Copies, "go_on_summing", lambda self: None)
    assert world.ask(1, protocol.Fetch("t", 1, 2)) == [b"OK 3 c"], "DeliveredIsPrefix"
    world.until(lambda: world.nodes[1].copies.summing)
    world.run(2.0)
    assert len(world.nodes[1].copies._sums) == 1, "ReplicasKept: begun anew with every tick"
    monkeypatch.undo()
    world.until(lambda: not world.nodes[1].copies.damaged)


def test_damaged_copy_on_a_full_disk_waits_for_room():
    world = three(max_segment_entries=5)
    world.register("t")
    for number in range(6):
        world.put(1, "t", f"{number}")
    node = 2
    disk = world.stores[node][0]
    disk.damaged.add(("t/1", 3))
    disk.write("t/1~", batch("left over"))
    disk.full = True
    world.ask(node, protocol.Fetch("t", 1, 3))
    world.run(2)
    assert world.nodes[node].copies.damaged and "t/1~" in disk.entries, (
        "ReplicasKept: a damaged copy is given up where there is no room for another"
    )
    disk.full = False
    world.until(lambda: world.stored(node, "t", 1) == [] and len(disk.entries["t/1~"]) == 5)


def test_copy_reply_tells_of_what_was_asked_for_and_not_of_a_longer_tail():
    """A deposed writer may hold more than was sealed; its copy is as good as any up to the count."""
    world = three()
    world.register("t")
    world.put(1, "t", "a", "b", "c")
    replies: list[m.CopyReply] = []

    def watch(sender: int, to: int, message: object) -> None:
        if isinstance(message, m.CopyReply):
            replies.append(message)

    world.watch = watch
    world.nodes[2].on_message(1, m.Copy(topic="t", segment=1, source=3, upto=2), world.now)
    world.step()
    expected = Checksum().extend(batch("a", "b"))
    assert [(reply.length, reply.checksum) for reply in replies] == [(2, expected)], "SealedStable"


class Pulls:
    """In place of a puller: notes from where entries were asked for, and gets none."""

    def __init__(self) -> None:
        self.sources: list[int] = []

    def pulling(self, copy: SegmentCopy) -> bool:
        return False

    def pull(self, copy: SegmentCopy, upto: int, source: int, *_: object) -> None:
        self.sources.append(source)


def test_a_copy_that_lacks_entries_asks_another_source_at_each_attempt():
    """One may be as short as this copy, or damaged at the same place."""
    pulls, metadata = Pulls(), cluster(seal(1, 7))
    copies = Copies(Durable(MemoryEngine()), Durable(MemoryEngine()))
    catch_up = CatchUp(
        config=config(1), metadata=metadata, copies=copies, puller=cast("Puller", pulls), outbox=Outbox(1)
    )
    catch_up.on_topic("t")
    for attempt in range(4):
        catch_up.on_tick(float(attempt), {2, 3})
    assert pulls.sources == [2, 3, 2, 3], (
        "ReplicasKept: a source that lacks the entries, too, is asked for ever"
    )


def test_a_copy_made_anew_is_given_up_when_its_segment_goes():
    memory, outbox, metadata = MemoryEngine(), Outbox(1), cluster(seal(1, 2))
    copies = Copies(Durable(memory), Durable(MemoryEngine()))
    reads = Reads(
        config=config(1),
        copies=copies,
        metadata=metadata,
        outbox=outbox,
        commit_index=lambda topic, number: None,
        first_request=0,
    )
    puller = Puller(copies=copies, reads=reads, outbox=outbox)
    catch_up = CatchUp(config=config(1), metadata=metadata, copies=copies, puller=puller, outbox=outbox)
    copies.append(copies.get(("t", 1)), 0, batch("a", "b"), lambda: None)
    memory.damaged.add(("t/1", 0))
    with pytest.raises(CorruptionError):
        copies.read(copies.get(("t", 1)), 0, 2, 1, 100)
    catch_up.on_topic("t")
    catch_up.on_tick(1.0, {2, 3})
    (read,) = (e.message for e in outbox.take() if isinstance(e, Send) and isinstance(e.message, m.Read))
    metadata.apply(Trim(topic="t", old=1, first=2))
    catch_up.on_topic("t")
    reads.on_reply(2, m.ReadReply(request=read.request, batch=batch("a", "b"), error=""), 1.0)
    assert not memory.entries.get("t/1~"), "SpaceIsGivenBack: what is gone is copied"
