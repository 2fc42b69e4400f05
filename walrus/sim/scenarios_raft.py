"""Scenarios of Raft inside whole clusters: its journal, its snapshots, its leases (see `scenarios.py`)."""

from __future__ import annotations

from walrus.consensus.messages import AppendEntriesRequest, InstallSnapshotRequest
from walrus.segments import RegisterTopic
from walrus.sim.catalogue import scenario
from walrus.sim.stage import Stage
from walrus.wire import messages as m


@scenario(43)
def power_lost_while_checkpoints_are_written(seed: int) -> int:
    """Every command that is applied makes a checkpoint, disks are slow, and power fails in between: a journal
    gives up what a checkpoint replaces only when that is durable."""
    stage = Stage(seed, settings={"compact_entries": 1})
    stage.warm()
    for host in stage.world.hosts.values():
        host.sync_time = (0.02, 0.06)
    for round_ in range(6):
        victim = 1 + (seed + round_) % 3
        stage.run(0.3 + 0.013 * (seed % 7))
        stage.power_loss(victim)
        stage.world.start(victim)
        stage.until(lambda: stage.host(victim).up, "it starts")  # noqa: B023
        applied = len(stage.judge.committed)
        stage.until(lambda: stage.controller(victim).applied >= applied, "it has caught up")  # noqa: B023
    return stage.finish()


@scenario(44)
def entries_replaced_while_they_are_synced(seed: int) -> int:
    """A slow disk syncs an entry of a deposed leader that its successor replaces meanwhile: what replaces it
    is not acknowledged before it is durable."""
    stage = Stage(seed, nodes=5)
    stage.warm()
    old = stage.raft_leader()
    slow, *others = [node for node in sorted(stage.world.hosts) if node != old]
    host, log = stage.host(slow), stage.controller(slow).raft.log
    usual, host.sync_time = host.sync_time, (0.9, 1.0)
    stage.until(lambda: log.persisted_index < log.last_index, "a sync is under way")
    stage.run(0.005)
    stage.cut(old, others)
    before = log.last_index
    lonely = RegisterTopic(topic="lonely", leader=old, replicas=(1, 2, 3))
    stage.controller(old).raft_host.propose(lonely, stage.host(old).clock(stage.world.now))
    stage.world.turn(old)
    stage.until(lambda: log.last_index > before, "it has an entry that waits for the next sync")
    stage.cut(old, [slow])
    appends = stage.keep(lambda s, to, message: to == slow and type(message) is AppendEntriesRequest)
    stage.until(
        lambda: log.persisted_index >= before and host.groups[1].in_flight is not None, "the next one"
    )
    appends.release()
    stage.run(1.5)
    host.sync_time = usual
    return stage.finish()


@scenario(45)
def pieces_of_snapshots(seed: int) -> int:
    """A snapshot is sent in pieces, each of which arrives twice; its sender dies half-way, and another
    leader begins with a later one."""
    stage = Stage(seed, nodes=5, newcomers=1, settings={"compact_entries": 20, "snapshot_chunk_bytes": 60})
    stage.warm()
    away = next(node for node in stage.world.hosts if node != stage.raft_leader())
    _miss_a_snapshot(stage, away)
    pieces: list[tuple[int, InstallSnapshotRequest]] = []

    def twice(sender: int, to: int, message: m.PeerMessage) -> bool:
        if isinstance(message, InstallSnapshotRequest):
            pieces.append((sender, message))
            stage.world.after(0.003, stage.world.deliver, sender, to, message)
        return False

    stage.world.rules.append(twice)
    stage.world.start(away)
    stage.until(lambda: stage.controller(away).raft.log.snapshot_index > 0, "it has a snapshot")
    _miss_a_snapshot(stage, away)
    pieces.clear()
    stage.world.start(away)
    stage.until(lambda: bool(pieces) and pieces[-1][1].offset > 120, "it holds some pieces")
    leader, piece = pieces[-1]
    stage.cut(away)
    stage.world.kill(leader)
    stage.until(lambda: stage.raft_leader() not in (0, leader, away), "another leader")
    log = stage.controller(stage.raft_leader()).raft.log
    stage.until(lambda: log.snapshot_index > piece.last_index, "with a later snapshot")
    stage.mend()
    stage.until(lambda: stage.controller(away).applied > piece.last_index, "it is whole again")
    stage.world.start(leader)
    return stage.finish()


def _miss_a_snapshot(stage: Stage, node: int) -> None:
    """Kill a node until all others have compacted their logs beyond what it has."""
    stage.world.kill(node)
    applied = len(stage.judge.committed)
    others = [stage.controller(host.id).raft.log for host in stage.world.live()]
    stage.until(lambda: all(log.snapshot_index > applied for log in others), "the others have cut their logs")


@scenario(46)
def raft_leader_that_no_majority_answers(seed: int) -> int:
    """A node leads Raft and a segment, and no majority answers it any more. Its lease ends before it steps
    down, and with the lease its appends."""
    stage = Stage(seed, settings={"lease_ttl": 0.15, "election_timeout": 0.5, "max_segment_entries": 10_000})
    stage.warm()
    leads = stage.leader()
    while stage.raft_leader() != leads:
        leader = stage.raft_leader()
        if leader:
            stage.controller(leader).raft.transfer_leadership(
                leads, stage.host(leader).clock(stage.world.now)
            )
            stage.world.turn(leader)
        stage.run(0.3)
    inside = stage.producer("inside", node=leads)
    inside.stopped = True  # the client stays with this node
    stage.run(0.2)
    stage.cut(leads)
    for _ in range(50):
        inside.put(1)
        stage.run(0.01)
    return stage.finish()
