"""Whole clusters under a hostile scheduler, by seed: the invariants always; once faults stop, progress."""

from __future__ import annotations

import random

import pytest

from tests.consensus.world import Simulation
from walrus.consensus.messages import Membership, RaftConfig, RaftTrace, Role

SMALL = RaftConfig(
    heartbeat_interval=0.1,
    election_timeout=1.0,
    max_append_bytes=120,
    max_inflight_bytes=300,
    snapshot_chunk_bytes=40,
)
STEPS = 150


class Chaos:
    """Draws what goes wrong next."""

    def __init__(self, seed: int, size: int, servers: int, trace: RaftTrace | None = None) -> None:
        self.rng = random.Random(seed)
        self.world = Simulation(seed, SMALL, trace)
        self.world.found(range(1, size + 1), passive=range(size + 1, servers + 1))
        self.down: set[int] = set()
        self.number = 0

    def step(self) -> None:
        """One act of chaos, then some time."""
        actions = [self.propose] * 6 + [self.crash, self.restart, self.restart, self.cut, self.heal]
        actions += [self.compact, self.change, self.change, self.transfer, self.weather, self.accuse]
        actions += [self.upheaval, self.upheaval]
        self.rng.choice(actions)()
        self.world.run(self.rng.choice([0.01, 0.05, 0.3, 1.5]))

    def propose(self) -> None:
        for node_id in sorted(self.world.hosts):
            if self.world.raft(node_id).role is Role.LEADER:
                for _ in range(self.rng.randrange(4)):
                    self.number += 1
                    self.world.propose(node_id, b"%d" % self.number)

    def crash(self) -> None:
        if len(self.down) < len(self.world.disks) - 1:
            victim = self.rng.choice(sorted(self.world.hosts))
            self.world.crash(victim, kept=self.rng.randrange(3))
            self.down.add(victim)

    def restart(self) -> None:
        if self.down:
            node_id = self.rng.choice(sorted(self.down))
            self.down.discard(node_id)
            self.world.start(node_id)

    def cut(self) -> None:
        a, b = self.rng.sample(sorted(self.world.disks), 2)
        self.world.cut.add((a, b))
        if self.rng.random() < 0.5:
            self.world.cut.add((b, a))

    def heal(self) -> None:
        self.world.heal()

    def compact(self) -> None:
        self.world.hosts[self.rng.choice(sorted(self.world.hosts))].compact()

    def change(self) -> None:
        leader = self.world.leader()
        if leader is None:
            return
        now = self.world.raft(leader).membership
        node_id = self.rng.choice(sorted(self.world.disks))
        voters, learners = set(now.voters) - {node_id}, set(now.learners) - {node_id}
        if node_id not in now.members:
            learners.add(node_id)
        elif node_id in now.learners:
            voters.add(node_id)
        elif self.rng.random() < 0.3:
            learners.add(node_id)
        if len(voters) >= 2:
            wanted = Membership(tuple(sorted(voters)), tuple(sorted(learners)))
            self.world.act(leader, lambda raft: raft.propose_membership(wanted, self.world.now))

    def transfer(self) -> None:
        leader = self.world.leader()
        if leader is not None:
            to = self.rng.choice(sorted(self.world.disks))
            self.world.act(leader, lambda raft: raft.transfer_leadership(to, self.world.now))

    def weather(self) -> None:
        self.world.drop = self.rng.choice([0.0, 0.0, 0.1, 0.3])
        self.world.duplicate = self.rng.choice([0.0, 0.2, 0.5])
        self.world.delay = self.rng.choice([(0.001, 0.02), (0.001, 0.4)])
        self.world.sync_time = self.rng.choice([(0.001, 0.01), (0.001, 0.5)])

    def accuse(self) -> None:
        """A server believes that a peer's process is gone, rightly or wrongly."""
        a, b = (self.rng.choice(sorted(self.world.hosts)) for _ in range(2))
        self.world.act(a, lambda raft: raft.leader_unreachable(b, self.world.now))

    def upheaval(self) -> None:
        """All believe the leader is gone, several campaign, and servers restart while they vote."""
        for _ in range(self.rng.randrange(1, 4)):
            for node_id in sorted(self.world.hosts):
                leader = self.world.raft(node_id).leader_id
                if leader is not None and leader != node_id:
                    self.world.act(
                        node_id, lambda raft, gone=leader: raft.leader_unreachable(gone, self.world.now)
                    )
            self.world.run(self.rng.choice([0.02, 0.1, 0.15]))
            victim = self.rng.choice(sorted(self.world.hosts))
            self.world.restart(victim, kept=self.rng.randrange(2))
            self.world.run(self.rng.choice([0.01, 0.05]))

    def calm(self) -> None:
        """Faults stop: all servers come back."""
        self.world.heal()
        self.world.drop = self.world.duplicate = 0.0
        self.world.delay, self.world.sync_time = (0.001, 0.02), (0.001, 0.01)
        while self.down:
            self.restart()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_nothing_committed_is_lost_and_calm_brings_progress(seed: int) -> None:
    chaos = Chaos(seed, *[(3, 4), (5, 6), (2, 4), (3, 5)][seed % 4])
    for _ in range(STEPS):
        chaos.step()
    chaos.calm()
    world = chaos.world
    world.until(lambda: world.leader() is not None)
    world.run(3.0)
    leader = world.leader()
    assert leader is not None
    index = world.propose(leader, b"the last")
    members = world.raft(leader).membership.members
    world.until(lambda: all(world.hosts[member].applied_index >= (index or 0) for member in members))
    assert len({tuple(world.hosts[member].applied) for member in members}) == 1, "StateMachineSafety"


def test_one_seed_is_one_run() -> None:
    def run() -> list[object]:
        events: list[object] = []
        world = Simulation(7, trace=lambda name, **values: events.append((name, values)))
        world.drop, world.duplicate = 0.1, 0.1
        world.found([1, 2, 3])
        world.run(20.0)
        return events

    first = run()
    assert len(first) > 100
    assert run() == first
