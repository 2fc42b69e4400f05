"""Scenarios of fencing, failover and rollover (see `scenarios.py`)."""

from __future__ import annotations

from walrus.protocol import Fetch
from walrus.sim.calls import Outcome
from walrus.sim.catalogue import scenario
from walrus.sim.clients import Fetcher
from walrus.sim.network import Weather
from walrus.sim.stage import Stage, expect
from walrus.wire import messages as m


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
    read = Fetcher(stage.world, "late", "t0")  # the judge checks that what it gets is settled
    read.node, read.stopped = old, True
    for offset in range(0, 60, 3):
        read.ask(Fetch("t0", number, offset, 3, times=True), (number, offset))
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
        return stage.finish()  # its last step was the Seal
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
        raft, term = stage.raft_leader(), stage.raft_term()
        stage.run(0.001 * (seed % 4))
        if raft and stage.host(raft).up:
            stage.world.kill(raft)
            stage.world.after(1.0, stage.world.start, raft)
        else:
            continue  # the Raft leader failed in between
        stage.until(
            lambda term=term: stage.raft_leader() != 0 and stage.raft_term() > term,  # type: ignore[misc]
            "a leader of a later term",
        )
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
    stage.until(lambda: bool(stage.raft_leader()), "a node leads")
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
    stage = Stage(seed, settings={"max_segment_entries": 5_000})  # it must not fill up before the seal
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
    stage.until(lambda: 1 <= len(stage.stream()) <= 15, "a segment that has just begun")
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
