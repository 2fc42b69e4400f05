"""Scenarios of copies: what a power loss leaves of the notes about them, damage, and repair.

`scenarios.py` says what all scenarios have in common.
"""

from __future__ import annotations

import msgspec

from walrus.protocol import Fetch, Leave
from walrus.sim.calls import ClientCall, Unattended
from walrus.sim.catalogue import scenario
from walrus.sim.clients import Fetcher
from walrus.sim.stage import Stage, expect
from walrus.wire import messages as m

# --- doubts and notes -----------------------------------------------------------------------------------


@scenario(47)
def journal_that_ends_with_its_snapshot(seed: int) -> int:
    """Replicas lose power with entries that they reported and had not synced, while all of Raft's log is in
    a snapshot: their copies are in doubt all the same."""
    quiet = {"compact_entries": 1, "max_segment_entries": 10_000, "cursor_interval": 3.0}
    stage = Stage(seed, fsync=0.3, think=0.03, settings=quiet)
    stage.warm()
    truth = stage.judge.truth(("t0", stage.metadata().current))
    for victim in stage.followers():
        log = stage.controller(victim).raft.log
        stage.until(lambda: log.last_index == log.snapshot_index == log.persisted_index, "a snapshot is all")  # noqa: B023
        stage.until(lambda: truth.lengths[victim] > truth.synced.get(victim, 0) + 20, "entries that may go")  # noqa: B023
        stage.power_loss(victim)
        stage.world.start(victim)
        stage.until(lambda: victim not in truth.excused, "it has them again")  # noqa: B023
        stage.run(0.5)
    return stage.finish()


@scenario(47)
def synced_from_now_on(seed: int) -> int:
    """A replica loses power with entries that it reported and had not synced. It is started with
    `--fsync each`, and loses power again: it is sure of its copies only once its doubts are durable."""
    stage = Stage(seed, topics=2, fsync=0.5, settings={"max_segment_entries": 10_000})
    stage.warm()
    stage.until(lambda: "t1" in stage.judge.metadata.topics, "another topic")
    victim = next(node for node in stage.followers() if node != stage.raft_leader())
    host, truth = stage.host(victim), stage.judge.truth(("t0", stage.metadata().current))
    stage.until(lambda: truth.lengths[victim] > truth.synced.get(victim, 0) + 40, "entries that may go")
    stage.world.rules.append(lambda s, to, message: to == victim and type(message) is m.Append)
    stage.power_loss(victim)
    host.config = msgspec.structs.replace(host.config, durable_acks=True)
    host.fsync, host.sync_time = "each", (0.02, 0.04)
    stage.world.start(victim)
    # The fence gives the node's journal something to sync. Before that sync ends the node applies nothing
    # and notes no doubt.
    stage.world.deliver(stage.leader(), victim, m.Fence(topic="t1", segment=1))
    stage.until(lambda: host.record.sure, "it is sure of itself")
    stage.power_loss(victim)
    stage.world.rules.clear()
    stage.world.start(victim)
    return stage.finish()


@scenario(48)
def power_lost_while_notes_are_rewritten(seed: int) -> int:
    """A replica is fenced for two segments, one of which is sealed. It drops that note, writes the other one
    anew, and loses power before that is durable: it is still fenced."""
    stage = Stage(seed, topics=2, settings={"compact_entries": 1, "max_segment_entries": 10_000})
    stage.warm()
    topics = stage.judge.metadata.topics
    stage.until(
        lambda: "t1" in topics and all(len(topic.open.replicas) == 3 for topic in topics.values()), "both"
    )
    leaders = {topic.open.leader for topic in topics.values()}
    victim = next(node for node in (1, 2, 3) if node not in leaders)
    keys = [(name, topics[name].current) for name in ("t1", "t0")]
    stage.world.rules.append(
        lambda s, to, message: s == victim and isinstance(message, m.AppendReply) and message.topic == "t1"
    )
    for topic, number in keys:
        stage.world.deliver(topics[topic].open.leader, victim, m.Fence(topic=topic, segment=number))
    notes = stage.judge.durable[victim].notes
    stage.until(lambda: all(key in notes for key in keys), "it is fenced for both")
    copies = stage.controller(victim).copies
    stage.until(lambda: keys[1] not in copies.noted, "one is sealed, and needs its note no more")
    stage.power_loss(victim)
    stage.world.start(victim)
    return stage.finish()


# --- fences ---------------------------------------------------------------------------------------------


def _long_entries(stage: Stage, lags: int, count: int) -> None:
    """Acknowledge `count` entries of several kilobytes each that the replica `lags` does not get."""
    rule = stage.keep(lambda s, to, message: to == lags and type(message) is m.Append)
    long = stage.producer("long", node=stage.leader())
    long.stopped = True
    long.send([b"long:%03d" % number + bytes(6_000) for number in range(count)])
    stage.until(lambda: long.pending == 0, "they are acknowledged")
    rule.drop()


@scenario(49)
def fenced_again_while_it_is_copied(seed: int) -> int:
    """A recovery extends a replica that lags, piece by piece and on a slow disk, and others fence it again
    and again: each answer is the length at which it was fenced, which is durable by then."""
    stage = Stage(seed, settings={"max_segment_entries": 10_000, "failure_timeout": 0.6})
    stage.warm()
    stage.quiet()
    old, number = stage.leader(), stage.metadata().current
    lags, other = stage.followers()
    _long_entries(stage, lags, 40)
    usual, stage.host(lags).sync_time = stage.host(lags).sync_time, (0.05, 0.1)
    stage.world.kill(old)
    copy = stage.controller(lags).copies.get(("t0", number))
    short = copy.length
    stage.until(lambda: copy.length > short, "it is extended")
    while stage.metadata().current == number:
        stage.world.deliver(other, lags, m.Fence(topic="t0", segment=number))
        stage.run(0.0005)
    stage.host(lags).sync_time = usual
    stage.world.start(old)
    return stage.finish()


@scenario(50)
def forced_recovery_that_begins_again(seed: int) -> int:
    """An operator ends the wait of a recovery for sure copies, and then what it copies does not arrive: it
    begins again, and takes a majority again."""
    stage = Stage(seed, fsync=3.0, settings={"max_segment_entries": 10_000})
    stage.warm()
    stage.quiet()
    stage.until(lambda: not any(producer.pending for producer in stage.producers), "silence")
    old, number = stage.leader(), stage.metadata().current
    victim, whole = stage.followers()
    truth = stage.judge.truth(("t0", number))
    stage.until(lambda: truth.lengths[whole] == len(truth.stream), "a whole copy beside the leader's")
    copies = stage.keep(lambda s, to, message: type(message) is m.Copy)
    stage.power_loss(victim)
    stage.world.kill(old)
    stage.world.start(victim)

    def waits() -> int:
        for host in stage.world.live():
            recoveries = host.controller.lifecycle.recoveries if host.controller else {}
            if ("t0", number) in recoveries and recoveries[("t0", number)].waits_for_sure_copies:
                return host.id
        return 0

    stage.until(lambda: bool(waits()), "it waits for the third copy")
    stage.world.deliver(whole, waits(), m.Recover(topic="t0", segment=number))
    stage.run(1.0)
    copies.drop()
    stage.until(lambda: stage.metadata().current > number, "sealed")
    stage.world.start(old)
    return stage.finish()


# --- damage and repair ----------------------------------------------------------------------------------


def _read_all(stage: Stage, node: int, number: int) -> None:
    """Have a client read a whole segment from this node."""
    reader = Fetcher(stage.world, f"reader of {node}", "t0")
    reader.node, reader.stopped = node, True
    count = stage.judge.sealed_as[("t0", number)]
    for offset in range(0, count, 5):
        reader.ask(Fetch("t0", number, offset, 5, times=True), (number, offset))


@scenario(51)
def damaged_twice_on_a_full_disk(seed: int) -> int:
    """A damaged copy is made anew, and the disk has no room to note that the old one goes. The new one is
    damaged, too, and is made anew in the old one's place: from the beginning."""
    stage = Stage(seed)
    stage.warm()
    stage.until(lambda: stage.metadata().current > 2, "a sealed segment")
    victim, key = stage.leader(), ("t0", 1)
    copies, drive = stage.controller(victim).copies, stage.host(victim).drive
    stage.until(lambda: copies.get(key).durable >= stage.judge.sealed_as[key], "it is whole there")
    for room, begins in (("delete", 10), ("", 20)):
        name = copies.get(key).name
        expect(drive.rot(name, begins, stage.world.rng), "it can rot")
        drive.fill(room)  # type: ignore[arg-type]
        _read_all(stage, victim, 1)
        stage.until(lambda: copies.get(key).name != name, "made anew")  # noqa: B023
        drive.fill("")
    return stage.finish()


@scenario(52)
def node_dies_while_a_copy_is_made_anew(seed: int) -> int:
    """A node dies while it makes a damaged copy anew: what can still be read of the old one is kept."""
    stage = Stage(seed, settings={"max_segment_entries": 60})
    stage.warm()
    stage.quiet()
    number = stage.metadata().current
    victim = stage.followers()[0]
    long = stage.producer("long", node=stage.leader())
    long.stopped = True
    long.send([b"long:%03d" % entry + bytes(6_000) for entry in range(70)])
    stage.until(lambda: stage.metadata().current > number, "it is sealed")
    copies, drive, key = stage.controller(victim).copies, stage.host(victim).drive, ("t0", number)
    stage.until(lambda: copies.get(key).durable >= stage.judge.sealed_as[key], "it is whole there")
    stage.run(0.2)
    expect(drive.rot(copies.get(key).name, stage.judge.sealed_as[key] - 1, stage.world.rng), "it can rot")
    _read_all(stage, victim, number)
    stage.until(
        lambda: stage.judge.names.get((victim, f"t0/{number}~"), 0) > 0, "a part of the new one is there"
    )
    stage.world.kill(victim)
    stage.world.start(victim)
    return stage.finish()


@scenario(53)
def member_leaves_and_another_lacks_entries(seed: int) -> int:
    """A replica of a sealed segment leaves. Of those that stay one lacks entries: it has them before the set
    of replicas gets smaller."""
    stage = Stage(seed)
    stage.warm()
    lags, leaving = stage.followers()
    number = stage.metadata().current
    stage.world.rules.append(lambda s, to, message: to == lags and type(message) is m.Append)
    stage.world.rules.append(lambda s, to, message: s == lags and type(message) is m.Read)
    stage.until(lambda: stage.metadata().current > number, "it is sealed")
    stage.quiet()
    asked = next(node for node in (1, 2, 3) if node != leaving)
    call = ClientCall(Unattended(), asked, 1, stage.world.now)
    stage.world.ask(stage.host(asked), call, Leave(leaving, force=True))
    stage.run(1.5)
    stage.world.rules.clear()
    stage.until(lambda: leaving not in stage.judge.metadata.nodes, "it is gone", patience=60.0)
    stage.world.retire(leaving)
    return stage.finish()
