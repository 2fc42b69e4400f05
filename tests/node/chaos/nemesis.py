"""What is done to the nodes. Each fault leaves the cluster able to recover; `World.heal` ends it.

A fault takes the world, a node and the run's source of randomness, does its harm, and returns what it was.
The nemesis draws them from a seed, alone or two at a time, so a run can be repeated with the same faults;
what the kernel makes of them is another run each time.

    kill, restart, kill all     SIGKILL
    stop                        SIGTERM: status 0
    pause                       SIGSTOP, then SIGCONT: a node that does not know that time went by
    isolate, one way, ring      partitions: a node, one direction of one pair, each node from the next
    split                       the leader of an open segment and another node are cut off together: of five
                                nodes, the smaller part may have most of its copies
    flapping                    a pair that is cut and healed again and again: late, bunched bytes
    slow                        every piece of what a node sends takes a while; or of what any node does
    hang up                     connections end again and again, and what is on its way is lost
    half close                  a node is told that nothing more comes, by one that goes on listening
    loss                        packets are lost and late, between all (`namespace.py`; where it can be done)
    behind                      the leader dies while one replica misses its last frames, and is replaced
    late frames                 the leader of the open segment is taken for dead; what it sent to one replica
                                arrives between that replica's fence and its news of the seal
    cut off                     the leader of the open segment is isolated until it is taken for dead: what it
                                told producers and consumers meanwhile must hold at the next one
    full disk                   no room on one node's disk
    power                       all nodes lose what their devices did not hold at one instant (`--fsync each`)
    leave                       LEAVE, and back with an empty disk
    new disk                    SIGKILL, an empty disk, LEAVE through another node, and back

Clocks are the run's affair, not the nemesis': nodes are started with one that drifts and jumps (`run.py`).
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from tests.node.chaos import namespace
from tests.node.chaos.world import World
from tests.node.harness import nap

Fault = Callable[[World, int, random.Random], None]
TAKEN_FOR_DEAD = 0.9
"""Seconds of silence after which a node's segments are given to others, with the flags of these runs."""


def _others(world: World, victim: int) -> list[int]:
    return [node_id for node_id in world.ids if node_id != victim]


def kill(world: World, victim: int, rng: random.Random) -> None:
    world.cluster[victim].kill()


def restart(world: World, victim: int, rng: random.Random) -> None:
    world.cluster[victim].kill()
    world.cluster[victim].start()


def kill_all(world: World, victim: int, rng: random.Random) -> None:
    for node in world.cluster:
        node.kill()


def stop(world: World, victim: int, rng: random.Random) -> None:
    """SIGTERM. A node that has not joined yet has nothing to end in order, and no handler for it."""
    node = world.cluster[victim]
    node.resume()
    status = node.terminate() if node.running else 0
    in_order = (0,) if node.has_joined else (0, -signal.SIGTERM)
    assert status in in_order, f"OrderlyStop: node {victim} ended with {status}"


def pause(world: World, victim: int, rng: random.Random) -> None:
    world.cluster[victim].pause()


def isolate(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    world.cluster.proxy.isolate(victim, _others(world, victim))


def one_way(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    world.cluster.proxy.cut(victim, rng.choice(_others(world, victim)))


def ring(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    for here, there in zip(world.ids, [*world.ids[1:], world.ids[0]], strict=True):
        world.cluster.proxy.cut(here, there)


def split(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    leader = world.segment_leader(rng.choice(world.topics)) or victim
    pair = (leader, rng.choice(_others(world, leader)))
    for node_id in pair:
        world.cluster.proxy.isolate(node_id, [other for other in world.ids if other not in pair])


def flapping(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    other = rng.choice(_others(world, victim))
    for _ in range(rng.randrange(3, 12)):
        world.cluster.proxy.isolate(victim, [other])
        nap(rng.uniform(0.02, 0.3))
        world.cluster.proxy.heal()
        nap(rng.uniform(0.0, 0.1))


def behind(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    leader = world.segment_leader(rng.choice(world.topics)) or victim
    world.cluster.proxy.cut(leader, rng.choice(_others(world, leader)))
    nap(rng.uniform(0.05, 0.4))
    world.cluster[leader].kill()
    nap(TAKEN_FOR_DEAD)


def slow(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    senders = rng.choice(([victim], world.ids))
    for sender in senders:
        for other in _others(world, sender):
            world.cluster.proxy.slow(sender, other, rng.uniform(0.01, 0.2))


def hang_up(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    for _ in range(rng.randrange(3, 12)):
        other = rng.choice(_others(world, victim))
        world.cluster.proxy.hang_up(victim, other)
        world.cluster.proxy.hang_up(other, victim)
        nap(rng.uniform(0.02, 0.3))


def half_close(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    world.cluster.proxy.half_close(victim, rng.choice(_others(world, victim)))


def late_frames(world: World, victim: int, rng: random.Random) -> None:
    """Frames of the deposed leader arrive where the fence is known and the seal is not.

    Its clients go on meanwhile: it has its lease, appends, and waits for a majority. Between the others all
    is slow, so what follows the fence takes some tenths of a second: then it is connected to one of them.
    """
    proxy = world.cluster.proxy
    assert proxy is not None
    leader = world.segment_leader(rng.choice(world.topics)) or victim
    others = _others(world, leader)
    for one in others:
        for another in others:
            if one != another:
                proxy.slow(one, another, rng.uniform(0.05, 0.15))
    proxy.isolate(leader, others)
    nap(TAKEN_FOR_DEAD + rng.uniform(0.0, 0.8))
    replica = rng.choice(others)
    proxy.mend(leader, replica)
    proxy.mend(replica, leader)
    nap(rng.uniform(0.2, 0.8))


def cut_off(world: World, victim: int, rng: random.Random) -> None:
    assert world.cluster.proxy is not None
    leader = world.segment_leader(rng.choice(world.topics)) or victim
    world.cluster.proxy.isolate(leader, _others(world, leader))
    nap(TAKEN_FOR_DEAD + rng.uniform(0.0, 1.0))


def loss(world: World, victim: int, rng: random.Random) -> None:
    namespace.lose(rng.uniform(0.5, 10.0), rng.uniform(0.0, 20.0))


def full_disk(world: World, victim: int, rng: random.Random) -> None:
    world.disks[victim].fill()


def power(world: World, victim: int, rng: random.Random) -> None:
    for node in world.cluster:
        node.pause()
    for disk in world.disks.values():
        disk.picture()
    for node in world.cluster:
        node.kill()
    for disk in world.disks.values():
        disk.lose_power()


def leave(world: World, victim: int, rng: random.Random) -> None:
    world.heal()
    world.wait_until_whole()
    helper = rng.choice(_others(world, victim))
    world.leave(victim, rng.choice(world.ids))
    world.until(f"node {victim} stops", lambda: not world.cluster[victim].running)
    status = world.cluster[victim].wait()
    assert status == 0, f"OrderlyStop: node {victim} left and ended with {status}"
    world.wipe(victim)
    world.rejoin(victim, helper)


def new_disk(world: World, victim: int, rng: random.Random) -> None:
    world.heal()
    world.wait_until_whole()
    world.cluster[victim].kill()
    world.wipe(victim)
    helper = rng.choice(_others(world, victim))
    world.leave(victim, helper)
    world.rejoin(victim, helper)


SOFT: dict[str, Fault] = {
    "kill": kill,
    "restart": restart,
    "kill all": kill_all,
    "stop": stop,
    "pause": pause,
    "isolate": isolate,
    "one way": one_way,
    "ring": ring,
    "split": split,
    "flapping": flapping,
    "slow": slow,
    "hang up": hang_up,
    "half close": half_close,
    "behind": behind,
    "late frames": late_frames,
    "cut off": cut_off,
}
SHARP = ("behind", "late frames", "cut off")
"""Faults that aim at the moments in which a wrong fence, majority or owner shows: a third of all."""
LOSS: dict[str, Fault] = {"loss": loss}
DISKS: dict[str, Fault] = {"full disk": full_disk}
POWER: dict[str, Fault] = {"power": power}
MEMBERS: dict[str, Fault] = {"leave": leave, "new disk": new_disk}


class Nemesis:
    """Draws faults from a seed. `done` counts them by name."""

    def __init__(self, world: World, seed: int, fsync: str, only: str = "") -> None:
        self.world, self.rng = world, random.Random(seed)
        self.done: dict[str, int] = {}
        self.last: list[str] = []
        self.faults = dict(SOFT)
        if len(world.ids) > 2:
            self.faults |= MEMBERS
        if namespace.can_lose():
            self.faults |= LOSS
        if world.disks:
            self.faults |= DISKS
        if world.disks and fsync == "each":
            self.faults |= POWER
        if only:
            self.faults = {name: fault for name, fault in self.faults.items() if name in only.split(",")}

    def _victim(self) -> int:
        """Any node, and half of the time one with most to lose: the leader of an open segment."""
        anyone, leader = self.rng.choice(self.world.ids), self.rng.random() < 0.5
        topic = self.rng.choice(self.world.topics)
        return (self.world.segment_leader(topic) if leader else None) or anyone

    def strike(self) -> None:
        """One fault or two, a while with them, then none."""
        for _ in range(self.rng.choice((1, 1, 2))):
            sharp = [name for name in SHARP if name in self.faults]
            name = self.rng.choice(sharp if sharp and self.rng.random() < 1 / 3 else sorted(self.faults))
            victim = self._victim()
            self.last = [*self.last[-9:], f"{name} {victim}"]
            self.done[name] = self.done.get(name, 0) + 1
            self.faults[name](self.world, victim, self.rng)
        nap(self.rng.uniform(0.0, 2.5))
        self.world.heal()
        nap(self.rng.uniform(0.0, 1.0))
