"""Scenarios of producers, consumers, cursors, members and clocks (see `scenarios.py`)."""

from __future__ import annotations

from walrus.broker.supervisor import JOIN_PATIENCE
from walrus.protocol import Leave, Register
from walrus.segments import RegisterTopic, SetReplicas
from walrus.sim.calls import ClientCall, Outcome, Unattended
from walrus.sim.catalogue import scenario
from walrus.sim.clients import Consumer
from walrus.sim.stage import Stage, expect
from walrus.sim.violation import holds
from walrus.wire import messages as m
from walrus.wire.errors import OVERTAKEN, unknown_topic

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
            early = attempt.reply == unknown_topic(producer.topic)
            holds(attempt.reply != OVERTAKEN, "ProducerOrder", f"{attempt.payload!r} came behind a later one")
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
    call = ClientCall(Unattended(), other, 1, stage.world.now)
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
    stage.world.ask(stage.host(1), ClientCall(Unattended(), 1, 1, stage.world.now), Register("t1"))
    stage.run(0.5)
    for node in (2, 3):
        stage.world.join(node)
        stage.run(1.0)
    stage.until(
        lambda: all(len(segment.replicas) == 3 for segment in stage.metadata().segments),
        "every segment has three replicas",
    )
    return stage.finish()


@scenario(40)
def joiner_whose_start_is_not_heard_of(seed: int) -> int:
    """A joiner is connected, and for long nothing that it says arrives: it is waited for, and is a member in
    the end. Meanwhile a stray that only sent a Join is dropped, and the node whose id it took gets in."""
    stage = Stage(seed, nodes=3)
    stage.warm()
    slow, other = 4, 5
    unheard = stage.keep(lambda sender, to, message: sender == slow)
    stage.world.join(slow)
    stage.until(lambda: slow in stage.judge.membership.learners, "it is taken in")
    place = stage.host(slow).config.raft_address
    stray = m.Join(node_id=other, directory_id="stray", raft_address=place, client_address="")
    asked = stage.controller(stage.raft_leader())
    asked.on_join(stray, stage.host(stage.raft_leader()).clock(stage.world.now))
    stage.world.turn(stage.raft_leader())
    stage.until(lambda: other in stage.judge.membership.learners, "the stray took an id")
    stage.world.join(other)
    stage.until(lambda: other in stage.judge.membership.voters, "the node of that id is a member")
    patience = JOIN_PATIENCE * stage.host(slow).config.failure_timeout
    stage.run(3 * patience)
    expect(slow in stage.judge.metadata.nodes, "JoinerIsWaitedFor: it was connected, and is dropped")
    expect(not stage.judge.metadata.nodes[slow].incarnation, "nothing of it was to arrive")
    unheard.drop()
    stage.until(lambda: slow in stage.judge.membership.voters, "it is a member")
    return stage.finish()


@scenario(40)
def topics_of_proposers_that_know_too_little(seed: int) -> int:
    """A Raft leader that has applied nothing yet is asked for a topic, and another node proposes one with
    itself as the only replica: both have all replicas."""
    stage = Stage(seed, producers=1)
    stage.until(lambda: bool(stage.raft_leader()), "a Raft leader")
    leader = stage.raft_leader()
    other = next(node for node in (1, 2, 3) if node != leader)
    expect(not stage.controller(leader).metadata.nodes, "it knows members already")
    call = ClientCall(Unattended(), leader, 1, stage.world.now)
    stage.world.ask(stage.host(leader), call, Register("early"))
    lonely = m.Propose(commands=(RegisterTopic(topic="lonely", leader=other, replicas=(other,)),))
    stage.world.deliver(other, leader, lonely)
    topics = stage.judge.metadata.topics
    stage.until(lambda: "early" in topics, "the topic is there")
    stage.warm()
    stage.world.deliver(other, stage.raft_leader(), lonely)
    stage.until(lambda: "lonely" in topics, "the other one, too")
    for name in ("early", "lonely"):
        expect(len(topics[name].segments[0].replicas) == 3, f"{name} opened with too few replicas")
    return stage.finish()


@scenario(41)
def answers_lost_behind_an_append(seed: int) -> int:
    """Entries are written, and no answer reaches the nodes of their clients: the outcome is unknown."""
    stage = Stage(seed, settings={"max_segment_entries": 10_000})  # else another leader would answer
    stage.warm()
    leader = stage.leader()
    lost = stage.keep(lambda sender, to, message: sender == leader and type(message) is m.ForwardReply)
    outside = stage.producer("outside", node=stage.followers()[0])
    outside.put(20)
    stage.run(stage.world.options.settings["put_timeout"] + 1.0)
    lost.drop()
    expect(all(attempt.outcome is not Outcome.OK for attempt in outside.attempts), "OK without an answer")
    return stage.finish()


@scenario(42)
def replica_by_a_command(seed: int) -> int:
    """A command makes a node a replica that holds nothing, and a snapshot another one: both copy it all."""
    stage = Stage(seed, nodes=4, settings={"max_segment_entries": 20, "compact_entries": 10})
    stage.warm()
    stage.until(lambda: stage.metadata().current > 3, "sealed segments")
    for number, away in ((1, False), (2, True)):
        old = stage.metadata().segments[number - 1].replicas
        (new,) = {1, 2, 3, 4} - set(old)
        if away:
            stage.cut(new)
            stage.until(lambda: stage.raft_leader() not in (0, new), "another node leads Raft")  # noqa: B023
        leader = stage.controller(stage.raft_leader())
        change = SetReplicas(topic="t0", segment=number, old=old, new=(*old, new))
        leader.raft_host.propose(change, stage.host(stage.raft_leader()).clock(stage.world.now))
        stage.until(lambda: new in stage.metadata().segments[number - 1].replicas, "it is a replica")  # noqa: B023
        if away:
            stage.until(
                lambda: leader.raft.log.snapshot_index > stage.controller(new).applied,  # noqa: B023
                "it gets a snapshot",
            )
            stage.mend()
        else:  # then a late command for the former set, which would leave too few
            late = SetReplicas(topic="t0", segment=number, old=old, new=old[:2])
            leader.raft_host.propose(late, stage.host(stage.raft_leader()).clock(stage.world.now))
            stage.run(0.3)
    return stage.finish()
