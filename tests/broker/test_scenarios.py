"""Schedules that broke real logs, against whole nodes in memory."""

from __future__ import annotations

import random

import pytest

from tests.broker.world import NodeWorld, batch, three
from tests.world import Packet
from walrus import protocol
from walrus.wire import messages as m

OK = b"OK"


def ready(world: NodeWorld) -> bool:
    return len(world.nodes) == 3 and all(c.ready for c in world.nodes.values())


def copies_agree(world: NodeWorld, name: str) -> None:
    """PrefixAgree on all copies, and SealedStable: a majority holds what was sealed."""
    for number, segment in enumerate(world.topic(name).segments, 1):
        stored = [world.stored(node, name, number) for node in segment.replicas]
        longest = max(stored, key=len)
        assert all(copy == longest[: len(copy)] for copy in stored), f"PrefixAgree {name}/{number}"
        if segment.count is not None:
            whole = sum(len(copy) >= segment.count for copy in stored)
            assert whole >= segment.majority, f"SealedStable {name}/{number}"


def test_leader_that_was_stopped_acknowledges_nothing_past_the_seal():
    """SIGSTOP for three failover times with requests in its socket, then SIGCONT."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "before") == [OK], "EveryPubAnswered"
    world.paused.add(leader)
    slots = [world.send(leader, protocol.Put("t", batch(f"stopped {n}"))) for n in range(5)]
    other = next(node for node in world.nodes if node != leader)
    world.until(lambda: world.topic("t").current >= 2)
    count = world.topic("t").segments[0].count
    assert world.put(other, "t", "meanwhile") == [OK], (
        "FailoverProgress: nothing is written while a leader is stopped"
    )
    world.run(4.0)
    world.resume(leader)
    world.until(lambda: all(world.replies[slot] for slot in slots))
    got = world.get_all(other, "t")
    assert got[:2] == [b"before", b"meanwhile"], "AckedDurable"
    for number, slot in enumerate(slots):
        if world.replies[slot] == [OK]:
            assert b"stopped %d" % number in got, "AckedDurable"
    assert world.topic("t").segments[0].count == count, (
        "SealedStable: what a stopped leader says moves the end"
    )
    copies_agree(world, "t")


def test_fence_that_is_lost_at_one_replica_lets_nothing_be_acknowledged():
    """The writer's frames go on reaching that replica after the recovery has ended."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK]
    first, second = (node for node in (1, 2, 3) if node != leader)
    world.lose = lambda sender, to, message: to == second and isinstance(message, m.Fence)
    world.nodes[first].lifecycle.recover("t", 1, world.now)
    slot = world.send(leader, protocol.Put("t", batch("b")))
    world.until(lambda: world.topic("t").current == 2)
    world.until(lambda: bool(world.replies[slot]))
    world.lose = lambda sender, to, message: False
    got = world.get_all(first, "t")
    assert got == ([b"a", b"b"] if world.replies[slot] == [OK] else got), "AckedDurable"
    late = m.Append(topic="t", segment=1, start=len(got), batch=batch("late"), end=len(got) + 1)
    for node in (first, second):
        world.nodes[node].on_message(leader, late, world.now)
    world.run(0.5)
    assert b"late" not in world.get_all(first, "t", "another group"), "SealedStable: an entry behind the end"


def test_raft_leader_dies_between_proposing_a_seal_and_its_answer():
    world = three(max_segment_entries=3)
    world.register("t")
    leader = world.topic("t").open.leader
    raft = world.raft_leader
    assert world.put(leader, "t", "a", "b") == [OK] * 2
    world.cut |= {(raft, node) for node in (1, 2, 3) if node != raft}  # its entries reach no node
    slot = world.send(leader, protocol.Put("t", batch("c")))
    world.run(0.1)
    world.kill(raft)
    world.cut.clear()
    world.start(raft)
    world.until(lambda: bool(world.replies[slot]) and world.topic("t").current >= 2)
    world.until(lambda: ready(world) and world.settled())
    assert world.topic("t").segments[0].count in (2, 3), "SealedStable"
    assert world.put(leader, "t", "d") == [OK], "FailoverProgress"
    assert world.get_all(1, "t")[:2] == [b"a", b"b"], "AckedDurable"


def test_clocks_that_jump_by_hours_cost_time_and_nothing_else():
    world = three(max_segment_entries=4)
    world.register("t")
    written = []
    for number in range(12):
        world.now += 3600.0 * (number % 3)
        if world.put(number % 3 + 1, "t", f"{number}") == [OK]:
            written.append(b"%d" % number)
    assert [entry for entry in world.get_all(1, "t") if entry in written] == written, (
        "AckedDurable: clocks that jump lose entries"
    )
    copies_agree(world, "t")


def test_compaction_while_a_node_is_away():
    world = three(max_segment_entries=3, compact_entries=15)
    world.register("t")
    world.kill(3)
    for number in range(60):
        assert world.put(number % 2 + 1, "t", f"{number}") == [OK]
    assert world.nodes[1].raft.log.snapshot_index > 0
    world.start(3)
    world.until(lambda: ready(world) and world.settled() and not world.nodes[3].catch_up.behind)
    copies_agree(world, "t")
    for number, segment in enumerate(world.topic("t").segments[:-1], 1):
        stored = {tuple(world.stored(node, "t", number)[: segment.count]) for node in segment.replicas}
        assert len(stored) == 1, "PrefixAgree: at rest, sealed segments are identical on every replica"
    assert world.get_all(3, "t") == [b"%d" % number for number in range(60)], (
        "DeliveredIsPrefix: a node that was away when the log was compacted"
    )
    for node in (1, 2, 3):  # and each node finds it again from its own snapshot
        world.kill(node)
    for node in (1, 2, 3):
        world.start(node)
    world.until(lambda: ready(world) and world.settled())
    assert world.put(1, "t", "60") == [OK] and world.get_all(2, "t")[-1] == b"60", "DeliveredIsPrefix"


@pytest.mark.parametrize("where", ["leader", "replica", "two replicas"])
def test_full_data_disk_is_an_error_or_nothing_and_heals(where: str):
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    others = [node for node in (1, 2, 3) if node != leader]
    full = {"leader": [leader], "replica": others[:1], "two replicas": others}[where]
    assert world.put(leader, "t", "a") == [OK]
    for node in full:
        world.stores[node][0].full = True
    (reply,) = world.put(leader, "t", "b")
    assert (reply == OK) is (where == "replica"), (
        "AnswersAreTrue: a full disk of one replica is no reason to refuse, the writer's own is"
    )
    assert world.ask(leader, protocol.Fetch("t", 1, 0)) == [b"OK 1 a"], (
        "DeliveredIsPrefix: what was there stays readable"
    )
    for node in full:
        world.stores[node][0].full = False
    assert world.put(leader, "t", "c") == [OK], (
        "EveryPubAnswered: there is room again, and nothing is written"
    )
    world.run(1.0)
    copies_agree(world, "t")
    assert world.get_all(leader, "t")[-1] == b"c", "DeliveredIsPrefix"


def test_full_metadata_disk_stops_no_node_and_heals():
    world = three(max_segment_entries=2)
    world.register("t")
    for node in (1, 2, 3):
        world.stores[node][1].full = True
        world.run(0.5)
        world.stores[node][1].full = False
        assert world.put(node, "t", f"{node}") == [OK]
    assert not world.halted and world.get_all(1, "t") == [b"1", b"2", b"3"], (
        "AckedDurable: a full metadata disk stops a node, or loses an entry"
    )


def test_two_consumers_on_two_nodes_with_a_partition_between_them_skip_nothing():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    count = 40
    assert world.put(leader, "t", *(f"{n}" for n in range(count))) == [OK] * count
    one, two = (node for node in (1, 2, 3) if node != leader)
    world.cut |= {(one, two), (two, one)}
    seen: list[int] = []
    rng = random.Random(5)
    while True:
        slots = [(node, world.send(node, protocol.Get("t", "", rng.randint(1, 4)))) for node in (one, two)]
        world.until(lambda slots=slots: all(world.replies[slot] for _, slot in slots))
        replies = [reply for _, slot in slots for reply in world.replies[slot]]
        seen += [int(reply[3:]) for reply in replies if reply.startswith(b"OK ")]
        if any(reply == b"EMPTY" for reply in replies):
            break
    assert sorted(seen) == list(range(count)), "NothingSkipped: and without a fault nothing comes twice"


def test_slow_disk_of_one_replica_delays_nobody():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    slow = next(node for node in (1, 2, 3) if node != leader)
    world.slow_disk.add(slow)
    began = world.now
    for number in range(20):
        assert world.put(leader, "t", f"{number}") == [OK]
    assert world.now - began < 2.0, "EveryPubAnswered: one slow disk of three delays the answers"
    world.slow_disk.clear()
    world.run(0.5)
    copies_agree(world, "t")
    assert world.nodes[slow].copies.get(("t", 1)).durable == 20, (
        "RolloverProgress: a disk that was slow does not catch up"
    )


def test_slow_disk_of_the_leader_makes_nobody_flap():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    world.slow_disk.add(leader)
    slots = [world.send(leader, protocol.Put("t", batch(f"{n}"))) for n in range(5)]
    world.run(2.0)
    world.slow_disk.clear()
    world.until(lambda: all(world.replies[slot] for slot in slots))
    assert all(world.replies[slot] == [OK] for slot in slots) and world.topic("t").current == 1


@pytest.mark.parametrize("seed", range(12))
def test_lossy_duplicating_network_with_one_way_cuts_and_restarts(seed: int):
    """Whatever was acknowledged is there, in order, at one place; and when the faults stop, it goes on."""
    world = three(max_segment_entries=8)
    world.register("t")
    rng = random.Random(seed)
    loss, repeat = rng.uniform(0, 0.3), rng.uniform(0, 0.5)
    world.lose = lambda sender, to, message: rng.random() < loss

    def watch(sender: int, to: int, message: object) -> None:
        if rng.random() < repeat:
            world.packets.append(Packet(sender, to, message))

    world.watch = watch
    slots: dict[int, str] = {}
    through: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    for number in range(120):
        node = rng.choice(sorted(world.nodes))
        slots[number] = world.send(node, protocol.Put("t", batch(f"{number}")))
        through[node].append(b"%d" % number)
        world.run(rng.choice([0.02, 0.02, 0.1]))
        match rng.randrange(30):
            case 0 if len(world.nodes) == 3:
                world.kill(rng.choice([1, 2, 3]))
            case 1:
                for down in sorted({1, 2, 3} - set(world.nodes)):
                    world.start(down)
            case 2:
                world.cut = {(rng.choice([1, 2, 3]), rng.choice([1, 2, 3]))}
            case 3:
                world.cut.clear()
    world.lose = lambda sender, to, message: False
    world.watch = lambda sender, to, message: None
    world.cut.clear()
    for down in sorted({1, 2, 3} - set(world.nodes)):
        world.start(down)
    world.until(lambda: ready(world))
    world.run(5.0)  # every PUT that can still be answered is
    assert world.put(1, "t", "last")[0] == OK, "EveryPubAnswered"
    world.until(lambda: world.settled() and not any(c.catch_up.behind for c in world.nodes.values()))
    copies_agree(world, "t")
    got = world.get_all(2, "t", "reader")
    assert len(got) == len(set(got)), "NoDuplicate: no entry at two places"
    for sent in through.values():
        places = [got.index(entry) for entry in sent if entry in got]
        assert places == sorted(places), "SeqOrder: what one node sent is in the order in which it was sent"
    acknowledged = {b"%d" % number for number, slot in slots.items() if world.replies[slot] == [OK]}
    assert acknowledged <= set(got) and got[-1] == b"last", "AckedDurable"
    failed = {
        b"%d" % number
        for number, slot in slots.items()
        if world.replies[slot] and b"nothing was written" in world.replies[slot][0]
    }
    assert not failed & set(got), "AnswersAreTrue: what certainly failed is never read"
