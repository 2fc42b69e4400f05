"""Scenarios of disks, power and bit rot (see `scenarios.py`)."""

from __future__ import annotations

from random import Random

from walrus.protocol import Leave
from walrus.sim.calls import ClientCall, Unattended
from walrus.sim.catalogue import scenario
from walrus.sim.clients import Consumer
from walrus.sim.disk import Fate
from walrus.sim.drives import META, EngineDrive
from walrus.sim.stage import Stage, expect
from walrus.wire import messages as m


@scenario(17, 18, 19)
def crash_at_disk_operations(seed: int) -> int:
    """A power loss in the middle of the n-th operation of a node's disk, torn sectors and lost names, again
    and again, with the real engine."""
    stage = Stage(seed, engine=True)
    stage.warm()
    for round_ in range(8):
        victim = 1 + (seed + round_) % 3
        drive = stage.host(victim).drive
        assert isinstance(drive, EngineDrive)
        fate = (Fate(0.5), Fate(0.5, garbage=0.5), Fate(0.0), None)[round_ % 4]
        drive.platter.crash_at(drive.platter.operations + 1 + (seed * 7 + round_ * 3) % 23, fate=fate)
        process = stage.host(victim).process
        stage.until(lambda: stage.host(victim).process != process, "it crashes")  # noqa: B023
        stage.until(lambda: stage.host(victim).up, "it is back")  # noqa: B023
        stage.run(0.3)
    return stage.finish()


@scenario(20)
def sync_fails_once(seed: int) -> int:
    """fsync fails once, then would succeed: the process stops, no client is told OK on the strength of it."""
    stage = Stage(seed, engine=bool(seed % 2))
    stage.warm()
    victim = stage.leader()
    process = stage.host(victim).process
    stage.host(victim).drive.fail_sync()
    stage.until(lambda: stage.host(victim).process != process, "it stops")
    return stage.finish()


@scenario(21)
def disk_full_and_room_again(seed: int) -> int:
    """A disk fills up under load: errors, the log stays readable, appends resume when there is room."""
    stage = Stage(seed)
    stage.warm()
    full = stage.leader()
    stage.host(full).drive.fill("all")
    stage.run(2.0)
    stage.host(full).drive.fill("")
    acked = stage.acknowledged()
    stage.until(lambda: stage.acknowledged() > acked + 20, "appends resume")
    return stage.finish()


@scenario(22)
def bit_flips_in_a_sealed_segment(seed: int) -> int:
    """A bit flips in a sealed segment on one of three: never served, and served by another replica."""
    stage = Stage(seed, engine=True)
    stage.warm()
    stage.until(lambda: stage.metadata().current > 2, "a sealed segment")
    stage.until(lambda: min(stage.judge.truth(("t0", 1)).lengths.values()) >= 40, "on every node")
    victim = stage.leader()
    flip_entry(stage, victim, stage.judge.truth(("t0", 1)).stream[20])
    reader = Consumer(stage.world, "late", "t0", "late", run=30)
    reader.node = victim
    stage.world.clients.append(reader)
    stage.until(lambda: len(reader.received) > 60, "it is read all the same")
    return stage.finish()


def flip_entry(stage: Stage, node: int, payload: bytes) -> None:
    """Flip a bit of this entry on the node's disk."""
    drive = stage.host(node).drive
    assert isinstance(drive, EngineDrive)
    for (directory, name), content in drive.platter.image().items():
        place = content.find(payload)
        if directory == "user_data" and place >= 0:
            drive.platter.flip_bit(directory, name, place * 8)
            return
    raise AssertionError(f"node {node} does not hold {payload!r}")


@scenario(23)
def bit_flips_in_the_last_entry_before_a_failover(seed: int) -> int:
    """A bit flips in the last acknowledged record of one replica, then failover: it survives."""
    stage = Stage(seed, engine=True)
    stage.warm()
    stage.quiet()
    stage.until(lambda: not any(p.pending for p in stage.producers), "silence")
    extra = stage.producer("extra", node=stage.leader())
    extra.put(5)
    stage.until(lambda: extra.pending == 0, "acknowledged")
    stage.run(0.3)
    if not stage.stream():  # the entries filled the segment
        extra.put(5)
        stage.until(lambda: extra.pending == 0, "acknowledged")
        stage.run(0.3)
    old, number, victim = stage.leader(), stage.metadata().current, stage.followers()[0]
    flip_entry(stage, victim, stage.stream()[-1])
    stage.world.kill(old)
    stage.until(lambda: stage.metadata().current > number, "recovered")
    stage.world.start(old)
    return stage.finish()


@scenario(23)
def bit_flips_while_the_third_copy_lags(seed: int) -> int:
    """A bit flips in the last acknowledged entry of the only replica that has it, then failover: the leader's
    own copy is waited for, and the damaged one is made anew."""
    stage = Stage(seed, engine=bool(seed % 2), settings={"max_segment_entries": 100_000})
    stage.warm()
    leader, number = stage.leader(), stage.metadata().current
    lagging, damaged = stage.followers()
    stage.world.rules.append(lambda s, to, message: to == lagging and type(message) is m.Append)
    truth = stage.judge.truth(("t0", number))
    stage.until(lambda: truth.acked > truth.lengths[lagging] + 5, "entries that only two hold")
    last = truth.acked - 1
    stage.until(lambda: stage.host(damaged).drive.rot(f"t0/{number}", last, Random(seed)), "it can rot")
    stage.world.kill(leader)
    if seed % 3:  # else it remembers the checksum, and learns of the damage when a node copies from it
        stage.world.kill(damaged)
        stage.world.start(damaged)
    stage.run(4.0)
    expect(stage.metadata().current == number, "sealed without the last sound copy")
    stage.world.rules.clear()
    stage.world.start(leader)
    stage.until(lambda: stage.metadata().current > number, "sealed with it")
    expect(stage.judge.sealed_as[("t0", number)] > last, "what was acknowledged is in it")
    stage.until(lambda: f"t0/{number}" not in stage.controller(damaged).data.storage.topics(), "made anew")
    return stage.finish()


@scenario(24)
def damaged_raft_journal(seed: int) -> int:
    """Bits flip in one node's Raft snapshot, or behind it: it refuses to start, however often it is tried,
    and deletes nothing; the others go on, and a new node takes its place."""
    stage = Stage(seed, engine=bool(seed % 2), think=0.05, settings={"compact_entries": 20})
    stage.warm()
    victim = 1 + seed % 3
    drive, meta = stage.host(victim).drive, stage.controller(victim).meta.storage
    stage.until(lambda: meta.bounds("raft")[0] > 0, "a snapshot, and what was before it is gone")
    behind = 3 if seed % 4 > 1 else 0
    stage.until(lambda: drive.rot("raft", meta.bounds("raft")[0] + behind, Random(seed), META), "it can rot")
    held = {name: stage.judge.names[(victim, name)] for node, name in stage.judge.names if node == victim}
    stage.world.kill(victim)
    stage.world.start(victim)
    acked = stage.acknowledged()
    stage.run(3.0)
    expect(not stage.host(victim).up, "it started on a journal that it cannot trust")
    expect(stage.acknowledged() > acked + 20, "the others do not go on")
    data, _ = drive.open(None)
    expect(all(data.bounds(name)[1] == length for name, length in held.items()), "entries were deleted")
    drive.kill()
    stage.quiet()
    stage.world.join(4)
    stage.until(lambda: 4 in stage.judge.membership.voters, "another node is in")
    asked = next(node for node in (1, 2, 3) if node != victim)
    stage.world.ask(stage.host(asked), ClientCall(Unattended(), asked, 1, stage.world.now), Leave(victim))
    stage.until(lambda: victim not in stage.judge.metadata.nodes, "it is removed", patience=60.0)
    stage.world.retire(victim)
    return stage.finish()


def _blackouts(stage: Stage, times: int, pause: float, apart: float) -> None:
    """Cut all nodes' power at once, `times` times, `pause` seconds apart; they restart one after another."""
    for _ in range(times):
        stage.run(pause)
        for node in sorted(stage.world.hosts):
            stage.power_loss(node)
        for node in sorted(stage.world.hosts):
            stage.world.after(apart * node, stage.world.start, node)
        acked = stage.acknowledged()
        stage.until(lambda acked=acked: stage.acknowledged() > acked, "the cluster is back")  # type: ignore[misc]


@scenario(25)
def blackout(seed: int) -> int:
    """Power loss of all nodes at once, unsynced data gone, default schedule: nothing acknowledged is lost."""
    stage = Stage(seed, engine=bool(seed % 2))
    stage.warm()
    _blackouts(stage, times=3, pause=0.5 + 0.01 * (seed % 7), apart=0.05)
    return stage.finish()


@scenario(25)
def blackout_with_slow_disks(seed: int) -> int:
    """The same while every sync takes long: what is on its way to the disks was told to no node."""
    stage = Stage(seed)
    stage.warm()
    for host in stage.world.hosts.values():
        host.sync_time = (0.02, 0.06)
    _blackouts(stage, times=6, pause=0.4 + 0.013 * (seed % 7), apart=0.02)
    return stage.finish()


@scenario(26)
def short_copy_and_lagging_copy(seed: int) -> int:
    """Synced at intervals: one replica lags, one loses power, the leader is gone. Recovery waits for it."""
    stage = Stage(seed, fsync=5.0)
    stage.warm()
    leader, number = stage.leader(), stage.metadata().current
    lagging, short = stage.followers()
    stage.world.rules.append(lambda s, to, message: to == lagging and type(message) is m.Append)
    acked = stage.judge.truth(("t0", number)).acked
    stage.until(
        lambda: stage.judge.truth(("t0", number)).acked > acked + 5 or stage.metadata().current > number,
        "entries that only two hold",
    )
    stage.world.kill(leader)
    stage.power_loss(short)
    stage.run(0.1)
    stage.world.start(short)
    stage.world.rules.clear()
    stage.run(4.0)
    stage.world.start(leader)
    return stage.finish()


@scenario(26)
def pause_two_and_take_power_from_the_third(seed: int) -> int:
    """Pause two nodes, power-loss the third, resume, pause another: no loss, no divergence."""
    stage = Stage(seed, fsync=0.2)
    stage.warm()
    third = 1 + seed % 3
    others = [node for node in (1, 2, 3) if node != third]
    for node in others:
        stage.world.pause(node, True)
    stage.power_loss(third)
    stage.run(0.3)
    for node in others:
        stage.world.pause(node, False)
    stage.run(0.5)
    stage.world.pause(others[0], True)
    stage.world.start(third)
    stage.run(2.0)
    stage.world.pause(others[0], False)
    return stage.finish()


@scenario(27)
def slow_syncs(seed: int) -> int:
    """fsync takes 2 s: on a follower no PUT waits for it, on the leader there is no flapping."""
    stage = Stage(
        seed, think=0.03, settings={"max_segment_entries": 100_000}
    )  # so no rollover makes the slow node the leader
    stage.warm()
    slow = next(node for node in stage.followers() if node != stage.raft_leader())
    stage.host(slow).sync_time = (2.0, 2.0)
    raft, acked = stage.raft_leader(), stage.acknowledged()
    stage.run(1.5)
    expect(stage.acknowledged() > acked + 50, "all PUTs wait for one slow follower")
    stage.host(slow).sync_time = (0.0005, 0.002)
    stage.run(3.0)
    leader = stage.raft_leader()
    stage.host(leader).sync_time = (2.0, 2.0)
    term = stage.controller(leader).raft.current_term
    stage.run(8.0)
    terms = max(host.controller.raft.current_term for host in stage.world.live() if host.controller)
    expect(terms <= term + 1, f"leadership flaps: {terms - term} elections; first leader {raft}")
    return stage.finish()
