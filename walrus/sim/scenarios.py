"""Schedules that broke published systems, each as a named run: what happens when, and what must hold.

Every scenario ends in `Stage.finish`, so besides what its last lines ask, the whole of `invariants.py` and
`oracle.py` is asked of it: no acknowledged entry lost, none twice, none out of order, no two values at one
place, everything at rest in the end. The number of each is its line in the catalogue at the end of
`docs/simulator.md`. Schedules inside the engine alone are in `tests/engine`.

    python -m walrus.sim --scenario leader_restarts_at_once --seed 3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from walrus import messages as m
from walrus.protocol import Fetch, Leave, Register
from walrus.sim.clients import Call, Consumer, Fetcher, Outcome
from walrus.sim.disk import Fate
from walrus.sim.drives import EngineDrive
from walrus.sim.faults import Nobody
from walrus.sim.network import Weather
from walrus.sim.stage import Stage, expect


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them."""

    name: str
    numbers: tuple[int, ...]
    about: str
    run: Callable[[int], int]
    """With a seed; returns the number of steps or raises `Violation`."""


ALL: dict[str, Scenario] = {}


def scenario(*numbers: int) -> Callable[[Callable[[int], int]], Callable[[int], int]]:
    """Registers a function as the scenario of these schedules."""

    def register(play: Callable[[int], int]) -> Callable[[int], int]:
        ALL[play.__name__] = Scenario(play.__name__, numbers, (play.__doc__ or "").strip(), play)
        return play

    return register


# --- fencing and failover -------------------------------------------------------------------------------


@scenario(1)
def fence_lost_and_old_frame_late(seed: int) -> int:
    """The fence to one replica is lost, and the writer's frame reaches it after recovery has ended."""
    stage = Stage(seed)
    stage.warm()
    old, number, victim = stage.leader(), stage.metadata().current, stage.followers()[0]
    stage.world.rules.append(lambda sender, to, message: to == victim and type(message) is m.Fence)
    frames = stage.keep(lambda sender, to, message: to == victim and type(message) is m.Append)
    stage.run(0.2)
    stage.cut(old)
    stage.until(lambda: stage.metadata().current > number, "the segment is recovered without the victim")
    acked = stage.judge.truth(("t0", number)).acked
    frames.release()
    stage.run(0.5)
    expect(stage.judge.truth(("t0", number)).acked == acked, "acknowledged beyond the seal")
    return stage.finish()


@scenario(2)
def frame_waits_for_its_sync_when_the_fence_comes(seed: int) -> int:
    """Inside one replica a frame waits for its fsync while the fence is answered: counted or refused."""
    stage = Stage(seed)
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    for node in stage.followers():
        stage.host(node).sync_time = (0.05, 0.1)
    stage.sees(m.Append)
    stage.run(0.01)
    stage.cut(old)
    stage.until(lambda: stage.metadata().current > number, "recovered")
    return stage.finish()


@scenario(3)
def fenced_replica_restarts_and_gets_an_old_frame(seed: int) -> int:
    """A replica is killed before or after the sync of its fence, restarts, and an old frame arrives."""
    stage = Stage(seed)
    stage.warm()
    old, victim, number = stage.leader(), stage.followers()[0], stage.metadata().current
    frames = stage.keep(lambda s, to, message: to == victim and s == old and type(message) is m.Append)
    stage.run(0.05)
    stage.cut(old, [stage.followers()[1]])
    stage.controller(victim).lifecycle.recover("t0", number, stage.host(victim).clock(stage.world.now))
    stage.run(0.0005 * (seed % 5))
    stage.world.kill(victim, power=bool(seed % 2))
    stage.run(0.05)
    stage.world.start(victim)
    stage.until(lambda: victim in stage.controller(old).connected, "the victim is back")
    fenced = stage.controller(victim).copies.get(("t0", number)).fenced
    length = stage.controller(victim).copies.get(("t0", number)).length
    frames.release()
    stage.run(0.01)
    if fenced:
        expect(stage.controller(victim).copies.get(("t0", number)).length == length, "a fenced copy grew")
    return stage.finish()


@scenario(4)
def leader_reaches_clients_but_no_replica(seed: int) -> int:
    """Clients reach the old leader, it cannot reach its replicas: no OK after the fence majority."""
    stage = Stage(seed)
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    inside = stage.producer("inside", node=old)
    stage.cut(old)
    inside.put(20)
    stage.until(lambda: stage.metadata().current > number, "a majority replaces it")
    inside.put(20)
    stage.run(3.0)
    expect(all(a.outcome is not Outcome.OK for a in inside.attempts), "OK without a majority")
    stage.mend()
    stage.until(lambda: stage.controller(old).metadata.topics["t0"].current > number, "it knows")
    read = Fetcher(stage.world, "late", "t0")  # the judge says whether what it gets is settled
    read.node, read.stopped = old, True
    for offset in range(0, 60, 3):
        read.ask(Fetch("t0", number, offset, 3), (number, offset))
    stage.run(0.5)
    return stage.finish()


@scenario(5)
def leader_sleeps_for_three_failovers(seed: int) -> int:
    """SIGSTOP the leader for three failover times with requests in its socket, then SIGCONT."""
    stage = Stage(seed)
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    inside = stage.producer("inside", node=old)
    stage.world.pause(old, True)
    inside.put(50)
    stage.run(3 * 0.8)
    stage.until(lambda: stage.metadata().current > number, "it is replaced")
    stage.world.pause(old, False)
    stage.run(1.0)
    count = stage.judge.sealed_as[("t0", number)]
    expect(stage.judge.truth(("t0", number)).acked <= count, "acknowledged past the seal")
    return stage.finish()


@scenario(6)
def leader_restarts_at_once(seed: int) -> int:
    """kill -9 the leader and restart it within 50 ms: it never goes on with its old open segment."""
    stage = Stage(seed)
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    length = len(stage.judge.truth(("t0", number)).stream)
    stage.world.kill(old)
    stage.run(0.002 + 0.048 * (seed % 10) / 10)
    stage.world.start(old)
    stage.until(lambda: stage.metadata().current > number, "its segment is sealed")
    expect(len(stage.judge.truth(("t0", number)).stream) == length, "it went on writing its old segment")
    return stage.finish()


@scenario(7, 8)
def two_recoveries_with_two_majorities(seed: int) -> int:
    """Two recoveries see different majorities and lengths; one seal wins, and the loser's copy comes late."""
    stage = Stage(seed, nodes=5, settings={"replication_factor": 5})
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    one, two, *rest = stage.followers()
    lagging = stage.keep(lambda s, to, message: to in (one, rest[0]) and type(message) is m.Append)
    stage.run(0.05)
    lagging.drop()
    late = stage.keep(lambda s, to, message: s == two and type(message) is m.Copy)
    stage.cut(old)
    stage.cut(one, [two])
    for node in (one, two):
        stage.controller(node).lifecycle.recover("t0", number, stage.host(node).clock(stage.world.now))
    stage.until(lambda: stage.metadata().current > number, "one of them seals")
    count = stage.judge.sealed_as[("t0", number)]
    late.release()
    stage.run(0.5)
    expect(stage.judge.metadata.topics["t0"].segments[number - 1].count == count, "sealed twice")
    return stage.finish()


@scenario(9)
def recovering_node_dies_after_each_step(seed: int) -> int:
    """Kill the recovering node after each single step of its recovery: another one finishes."""
    return sum(_recovering_node_dies(seed + steps, steps) for steps in range(0, 36, 4))


def _recovering_node_dies(seed: int, steps: int) -> int:
    stage = Stage(seed)
    stage.warm()
    old, number = stage.leader(), stage.metadata().current
    stage.world.kill(old)
    stage.until(lambda: _recovering(stage, number) != 0 or stage.metadata().current > number, "recovery")
    recovering = _recovering(stage, number)
    if not recovering:
        return stage.finish()  # its last act was a Seal
    for _ in range(steps):
        stage.world.step()
    stage.world.kill(recovering)
    stage.run(0.02)
    stage.world.start(recovering)
    stage.until(lambda: stage.metadata().current > number, "another finishes")
    return stage.finish()


def _recovering(stage: Stage, number: int) -> int:
    for host in stage.world.live():
        if host.controller is not None and ("t0", number) in host.controller.lifecycle.recoveries:
            return host.id
    return 0


@scenario(10)
def replica_accepts_and_never_answers(seed: int) -> int:
    """One replica accepts connections and never answers: the seal completes with the other two, soon."""
    stage = Stage(seed, nodes=4, settings={"replication_factor": 3})
    stage.warm()
    old, number, mute = stage.leader(), stage.metadata().current, stage.followers()[0]
    stage.world.pause(mute, True)
    stage.run(0.1)
    stage.world.kill(old)
    stage.world.after(0.5, stage.world.start, old)
    stage.until(lambda: stage.metadata().current > number, "sealed without the mute one", patience=8.0)
    return stage.finish()


@scenario(11)
def only_a_minority_is_reachable(seed: int) -> int:
    """No OK, no seal; sealed reads go on; after healing, appends resume by themselves."""
    stage = Stage(seed)
    stage.warm()
    stage.until(lambda: stage.metadata().current > 2, "a sealed segment")
    alone = stage.leader()
    stage.cut(alone)
    for node in stage.followers():
        stage.world.kill(node)
    stage.run(2.5)
    number, acked = stage.metadata().current, stage.acknowledged()
    reader = stage.simulation.world.hosts[alone]
    stage.run(2.0)
    expect(stage.metadata().current == number, "a minority sealed")
    expect(stage.acknowledged() == acked, "a minority acknowledged")
    expect(stage.controller(reader.id).reads.readable("t0", 1) > 0, "sealed segments cannot be read")
    stage.mend()
    for node in sorted(stage.world.hosts):
        stage.world.start(node)
    stage.until(lambda: stage.acknowledged() > acked, "appends resume")
    return stage.finish()


@scenario(12)
def raft_leader_dies_with_a_seal_under_way(seed: int) -> int:
    """The Raft leader dies between proposing a seal and its answer: never two seals."""
    stage = Stage(seed)
    stage.warm()
    for _ in range(3):
        stage.sees(m.Propose)
        raft = stage.raft_leader()
        stage.run(0.001 * (seed % 4))
        if raft and stage.host(raft).up:
            stage.world.kill(raft)
            stage.world.after(1.0, stage.world.start, raft)
        stage.until(lambda raft=raft: stage.raft_leader() not in (0, raft), "another leads")  # type: ignore[misc]
    return stage.finish()


@scenario(13)
def rollover_under_a_hundred_pipelined_puts(seed: int) -> int:
    """The threshold is met with 100 pipelined PUTs: each acknowledged once, in one segment or the next."""
    stage = Stage(seed, producers=1)
    stage.warm()
    stage.quiet()
    burst = stage.producer("burst", node=1 + seed % 3)
    before = stage.metadata().current
    burst.put(100)
    stage.until(lambda: burst.pending == 0, "all answered")
    expect(all(a.outcome is Outcome.OK for a in burst.attempts), "a healthy rollover refused an entry")
    expect(stage.metadata().current >= before + 2, "they should span segments")
    return stage.finish()


@scenario(14, 37)
def next_leaders_die_before_their_first_append(seed: int) -> int:
    """The next leader dies again and again: a chain of empty segments that readers pass in one step."""
    stage = Stage(seed)
    stage.warm()
    stage.quiet()
    stage.until(lambda: not any(p.pending for p in stage.producers), "silence")
    start = stage.metadata().current
    for _ in range(20):
        number, victim = stage.metadata().current, stage.leader()
        stage.world.kill(victim)
        stage.world.after(0.2, stage.world.start, victim)
        stage.until(lambda number=number: stage.metadata().current > number, "the next segment")  # type: ignore[misc]
        stage.until(lambda victim=victim: stage.host(victim).up, "it is back")  # type: ignore[misc]
    empty = sum(segment.count == 0 for segment in stage.metadata().segments[start:])
    expect(empty >= 10, f"only {empty} empty segments")
    last = stage.producer("last", node=1)
    stage.until(lambda: bool(stage.raft_leader()), "somebody leads")
    last.put(3)
    stage.until(lambda: last.pending == 0, "answered")
    return stage.finish()


@scenario(15)
def frame_of_a_long_sealed_segment(seed: int) -> int:
    """A frame of segment k arrives after k+3 opened: refused."""
    stage = Stage(seed)
    stage.warm()
    number, victim = stage.metadata().current, stage.followers()[0]
    frames = stage.keep(
        lambda s, to, message: to == victim and isinstance(message, m.Append) and message.segment == number
    )
    stage.until(lambda: stage.metadata().current >= number + 3, "three segments later")
    stage.run(0.3)
    length = stage.judge.truth(("t0", number)).lengths.get(victim, 0)
    frames.release()
    stage.run(0.01)
    expect(stage.judge.truth(("t0", number)).lengths.get(victim, 0) == length, "a sealed copy took a frame")
    return stage.finish()


@scenario(16)
def storms(seed: int) -> int:
    """Loss, duplication, reordering, stopped links, one-way cuts; then heal: progress."""
    stage = Stage(seed, ordered=False)
    stage.warm()
    rng = stage.world.rng
    for _ in range(6):
        stage.world.network.weather = Weather(
            most=0.02, loss=rng.uniform(0, 0.3), duplicate=rng.uniform(0, 0.5), ordered=False
        )
        one, other = rng.sample(sorted(stage.world.hosts), 2)
        stage.world.network.link(one, other).stopped_until = stage.world.now + rng.uniform(0, 2)
        stage.world.network.link(other, one).cuts += 1
        stage.run(rng.uniform(0.2, 1.0))
        stage.world.network.link(other, one).cuts -= 1
    return stage.finish()


@scenario(1, 3, 7, 12)
def needless_recovery_of_a_live_leader(seed: int) -> int:
    """A replica recovers a segment whose leader lives and does not hear of it; another one restarts fenced;
    the seal is proposed late, after the leader's own."""
    stage = Stage(seed, settings={"max_segment_entries": 5_000})  # it must not be full before the seal
    stage.warm()
    leader, number = stage.leader(), stage.metadata().current
    mine = next(node for node in stage.followers() if node != stage.raft_leader())
    other = next(node for node in stage.followers() if node != mine)
    silent = (m.Fence, m.AppendReply)
    stage.world.rules.append(
        lambda s, to, message: to == leader and s == mine and isinstance(message, silent)
    )
    late = stage.keep(lambda s, to, message: s == mine and type(message) is m.Propose)
    stage.controller(mine).lifecycle.recover("t0", number, stage.host(mine).clock(stage.world.now))
    unheard = stage.keep(lambda s, to, message: s == other and isinstance(message, silent))
    stage.world.turn(mine)
    stage.run(0.05)
    if seed % 2:
        stage.world.kill(other)
        stage.run(0.01)
        stage.world.start(other)
    unheard.drop()
    stage.run(0.6)
    late.release()
    stage.run(0.5)
    return stage.finish()


@scenario(13)
def frames_held_back_at_the_threshold(seed: int) -> int:
    """The last frames of a full segment do not arrive: it is not sealed before they do."""
    stage = Stage(seed)
    stage.warm()
    number = stage.metadata().current
    held = stage.keep(
        lambda s, to, message: (
            isinstance(message, m.Append) and message.segment == number and message.end > 30
        )
    )
    stage.run(0.7)
    expect(stage.metadata().current == number, "sealed although no majority holds it")
    held.release()
    stage.until(lambda: stage.metadata().current > number, "sealed")
    return stage.finish()


@scenario(13, 29)
def forwards_repeated_after_the_seal(seed: int) -> int:
    """Forwards come again after their segment was sealed, and those answers overtake the first ones."""
    stage = Stage(seed)
    stage.warm()
    for _ in range(4):
        number, leader = stage.metadata().current, stage.leader()
        again: list[tuple[int, int, m.PeerMessage]] = []

        def copy(sender: int, to: int, message: m.PeerMessage) -> bool:
            if isinstance(message, m.Forward) and message.segment == number:  # noqa: B023
                again.append((sender, to, message))  # noqa: B023
            return False

        stage.world.rules.append(copy)
        first = stage.keep(
            lambda s, to, message: (
                isinstance(message, m.ForwardReply) and s == leader and message.segment == number  # noqa: B023
            )
        )
        stage.until(lambda: stage.metadata().current > number, "sealed")  # noqa: B023
        stage.run(0.01)
        first.drop()
        for sender, to, message in again:
            stage.world.deliver(sender, to, message)
        stage.run(0.02)
        for sender, to, message in first.messages:
            stage.world.deliver(sender, to, message)
        stage.world.rules.remove(copy)
    return stage.finish()


# --- the disk -------------------------------------------------------------------------------------------


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
    """fsync fails once, then would succeed: the process stops, nobody is told OK on the strength of it."""
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
    stage.host(full).drive.fill(True)
    stage.run(2.0)
    stage.host(full).drive.fill(False)
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
    """Change a bit of this entry where the node's disk holds it."""
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
    old, number, victim = stage.leader(), stage.metadata().current, stage.followers()[0]
    flip_entry(stage, victim, stage.judge.truth(("t0", number)).stream[-1])
    stage.world.kill(old)
    stage.until(lambda: stage.metadata().current > number, "recovered")
    stage.world.start(old)
    return stage.finish()


@scenario(25)
def blackout(seed: int) -> int:
    """Power loss of all nodes at once, unsynced data gone, default schedule: nothing acknowledged is lost."""
    stage = Stage(seed, engine=bool(seed % 2))
    stage.warm()
    for _ in range(3):
        stage.run(0.5 + 0.01 * (seed % 7))
        for node in sorted(stage.world.hosts):
            stage.power_loss(node)
        for node in sorted(stage.world.hosts):
            stage.world.after(0.05 * node, stage.world.start, node)
        acked = stage.acknowledged()
        stage.until(lambda acked=acked: stage.acknowledged() > acked, "the cluster is back")  # type: ignore[misc]
    return stage.finish()


@scenario(25)
def blackout_with_slow_disks(seed: int) -> int:
    """The same while every sync takes long: what is on its way to the disks was told to nobody."""
    stage = Stage(seed)
    stage.warm()
    for host in stage.world.hosts.values():
        host.sync_time = (0.02, 0.06)
    for _ in range(6):
        stage.run(0.4 + 0.013 * (seed % 7))
        for node in sorted(stage.world.hosts):
            stage.power_loss(node)
        for node in sorted(stage.world.hosts):
            stage.world.after(0.02 * node, stage.world.start, node)
        acked = stage.acknowledged()
        stage.until(lambda acked=acked: stage.acknowledged() > acked, "the cluster is back")  # type: ignore[misc]
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
    """fsync takes 2 s: on a follower nobody waits for it, on the leader there is no flapping."""
    stage = Stage(
        seed, think=0.03, settings={"max_segment_entries": 100_000}
    )  # no rollover hands the slow one the lead
    stage.warm()
    slow = next(node for node in stage.followers() if node != stage.raft_leader())
    stage.host(slow).sync_time = (2.0, 2.0)
    raft, acked = stage.raft_leader(), stage.acknowledged()
    stage.run(1.5)
    expect(stage.acknowledged() > acked + 50, "everybody waits for one slow follower")
    stage.host(slow).sync_time = (0.0005, 0.002)
    stage.run(3.0)
    leader = stage.raft_leader()
    stage.host(leader).sync_time = (2.0, 2.0)
    term = stage.controller(leader).raft.current_term
    stage.run(8.0)
    terms = max(host.controller.raft.current_term for host in stage.world.live() if host.controller)
    expect(terms <= term + 1, f"leadership flaps: {terms - term} elections; first leader {raft}")
    return stage.finish()


# --- producers and consumers ----------------------------------------------------------------------------


@scenario(28, 29, 30, 31, 33)
def healthy_cluster(seed: int) -> int:
    """Many appends without any fault: no anomaly, nothing refused, no redelivery, everything OK."""
    stage = Stage(seed, topics=2, producers=4, consumers=2, fetchers=2)
    stage.warm()
    stage.until(lambda: stage.acknowledged() > 4_000, "4,000 entries")
    steps = stage.finish()
    for producer in stage.producers:
        for attempt in producer.attempts:
            early = attempt.reply.startswith("unknown topic")
            expect(attempt.outcome is Outcome.OK or early, f"{attempt.payload!r}: {attempt.reply}")
    for consumer in stage.simulation.consumers:
        expect(len(set(consumer.received)) == len(consumer.received), "delivered twice without any fault")
    return steps


@scenario(32)
def sizes(seed: int) -> int:
    """An entry larger than the read budget after a small one, an entry of 0 bytes, and large ones."""
    stage = Stage(seed, engine=bool(seed % 2))
    stage.warm()
    special = stage.producer("special", node=1)
    read = int(stage.world.options.settings["read_bytes"])
    special.send([b"s:small", b"s:large" + bytes(5 * read), b"", b"s:tiny", b"s:" + bytes(read - 2)])
    stage.until(lambda: special.pending == 0, "answered")
    expect(all(a.outcome is Outcome.OK for a in special.attempts), "refused")
    return stage.finish()


# --- cursors --------------------------------------------------------------------------------------------


@scenario(34)
def node_dies_between_cursor_and_answer(seed: int) -> int:
    """The node dies between moving the cursor and answering: redelivery, never a gap."""
    stage = Stage(seed)
    stage.warm()
    for _ in range(5):
        stage.run(0.1)
        _, asked, _ = stage.sees(m.GetEntries)
        stage.run(0.0005 * (seed % 4))
        stage.world.kill(asked)
        stage.world.after(0.3, stage.world.start, asked)
        stage.run(1.5)
    return stage.finish()


@scenario(35)
def two_consumers_share_a_cursor_across_a_partition(seed: int) -> int:
    """Two consumers on two nodes share a cursor, with a partition between them: nothing is skipped."""
    stage = Stage(seed)
    stage.warm()
    shared = [Consumer(stage.world, f"shared{node}", "t0", "shared") for node in (1, 2)]
    for node, consumer in enumerate(shared, 1):
        consumer.node = node
    stage.world.clients += shared
    for _ in range(3):
        stage.run(0.5)
        stage.cut(1, [2])
        stage.run(0.7)
        stage.mend()
    return stage.finish()


@scenario(36)
def stale_node_commits_an_older_cursor(seed: int) -> int:
    """A stale node commits an older position after failover: the cursor does not move back."""
    stage = Stage(seed)
    stage.warm()
    old = stage.leader()
    late = stage.keep(lambda sender, to, message: sender == old and type(message) is m.Propose)
    stage.run(0.5)
    stage.cut(old)
    stage.run(2.0)
    stage.mend()
    stage.run(0.5)
    before = dict(stage.metadata().cursors)
    late.release()
    stage.run(0.5)
    for group, position in before.items():
        expect(stage.metadata().cursors[group] >= position, f"the cursor of {group} went back")
    return stage.finish()


@scenario(37)
def cursor_of_a_topic_that_nobody_read(seed: int) -> int:
    """Registered, written, nothing read, failover: the first reader begins at the start."""
    stage = Stage(seed)
    stage.warm()
    number = stage.metadata().current
    stage.world.kill(stage.leader())
    stage.until(lambda: stage.metadata().current > number, "failover")
    reader = Consumer(stage.world, "first", "t0", "first", run=5)
    stage.world.clients.append(reader)
    stage.until(lambda: bool(reader.received), "something is read")
    expect(reader.received[0] == stage.judge.truth(("t0", 1)).stream[0], "it does not begin at the start")
    return stage.finish()


# --- membership and time --------------------------------------------------------------------------------


@scenario(38)
def clocks_jump_and_drift(seed: int) -> int:
    """A clock jumps by hours, or drifts: safety untouched."""
    stage = Stage(seed, think=0.03)
    stage.warm()
    for node, (rate, jump) in enumerate(((1.3, 7200.0), (0.7, 0.0), (1.0, 0.9)), 1):
        stage.world.set_clock(1 + (node + seed) % 3, rate, jump)
        stage.run(2.0)
    return stage.finish()


@scenario(39)
def compaction_while_a_node_is_away(seed: int) -> int:
    """Compaction while a node is away; it returns by snapshot, and all states are equal."""
    stage = Stage(seed, settings={"compact_entries": 40})
    stage.warm()
    away = next(node for node in (1, 2, 3) if node != stage.raft_leader())
    stage.world.kill(away)
    known = stage.host(away)
    applied = len(stage.judge.committed)
    stage.until(
        lambda: (
            stage.raft_leader() != 0
            and stage.controller(stage.raft_leader()).raft.log.snapshot_index > applied + 40
        ),
        "the log is cut",
    )
    stage.world.start(away)
    stage.until(lambda: known.up and stage.controller(away).applied > applied, "it has caught up")
    return stage.finish()


@scenario(40)
def member_leaves_while_its_segment_is_recovered(seed: int) -> int:
    """A node joins and one leaves while a segment is being recovered: its own replicas decide."""
    stage = Stage(seed, nodes=4, settings={"replication_factor": 3})
    stage.warm()
    leaving, number = stage.leader(), stage.metadata().current
    stage.world.kill(leaving)
    stage.world.join(5)
    stage.run(0.1)
    other = next(node for node in (1, 2, 3, 4) if node != leaving)
    call = Call(Nobody(), other, 1, stage.world.now)
    stage.world.ask(stage.host(other), call, Leave(leaving))
    stage.until(lambda: stage.metadata().current > number, "the segment is sealed")
    stage.world.start(leaving)
    stage.until(lambda: leaving not in stage.judge.metadata.nodes, "it is gone", patience=60.0)
    stage.world.retire(leaving)
    return stage.finish()


@scenario(40)
def growing_from_one(seed: int) -> int:
    """One node founds a cluster, two join under load: replica sets grow, nothing is lost."""
    stage = Stage(seed, nodes=1, think=0.05)
    stage.until(lambda: bool(stage.raft_leader()), "it leads itself")
    stage.world.ask(stage.host(1), Call(Nobody(), 1, 1, stage.world.now), Register("t1"))
    stage.run(0.5)
    for node in (2, 3):
        stage.world.join(node)
        stage.run(1.0)
    stage.until(
        lambda: all(len(segment.replicas) == 3 for segment in stage.metadata().segments),
        "every segment has three replicas",
    )
    return stage.finish()
