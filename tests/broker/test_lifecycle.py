"""A node says "certainly not written" of a forward only where it knows: what it says that of is resent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.broker.world import NodeWorld, batch, config, three
from walrus import protocol
from walrus.broker import lifecycle
from walrus.broker.lifecycle import Early, EarlyForwards, Lifecycle
from walrus.replicas.replication import SegmentWriter
from walrus.segments import Seal
from walrus.wire import messages as m
from walrus.wire.effects import Send

OK = b"OK"


def forward(world: NodeWorld, to: int, origin: int, request: int, segment: int = 1) -> list[m.ForwardReply]:
    """Have a node get a forward; what it answers, in so far as nothing was taken."""
    answers: list[m.ForwardReply] = []

    def note(sender: int, receiver: int, message: Any) -> None:
        if (sender, receiver) == (to, origin) and isinstance(message, m.ForwardReply) and not message.taken:
            answers.append(message)

    world.watch = note
    message = m.Forward(request=request, topic="t", segment=segment, batch=batch("x"))
    world.nodes[to].on_message(origin, message, world.now)
    world.step()
    return answers


def seals_in(message: object) -> list[Seal]:
    """The Seals that a message proposes."""
    return [c for c in message.commands if isinstance(c, Seal)] if isinstance(message, m.Propose) else []


def sealed() -> tuple[NodeWorld, int, int]:
    """A world, the node that led t/1 to its end, and another one."""
    world = three(max_segment_entries=2)
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a", "b") == [OK, OK]
    world.until(lambda: all(c.metadata.topics["t"].current == 2 for c in world.nodes.values()))
    proposed = world.nodes[leader].lifecycle._seals._until
    assert not proposed, "RolloverProgress: a Seal that was applied keeps its place among those that may be"
    world.run(1)
    return world, leader, leader % 3 + 1


def test_the_leader_of_a_segment_that_is_over_hands_back_what_it_has_not_seen():
    world, leader, other = sealed()
    (answer,) = forward(world, leader, other, 1 << 40)
    assert (answer.request, answer.taken, answer.acked, answer.refused) == (1 << 40, 0, 0, True), (
        "AnswersAreTrue: what was never taken is not handed back"
    )


def test_a_repeated_or_overtaken_forward_of_a_segment_that_is_over_is_not_handed_back():
    """It may be the repetition of one that was written."""
    world, leader, other = sealed()
    forward(world, leader, other, 1 << 40)
    assert forward(world, leader, other, 1 << 40) == [], "NoDuplicate: it was answered, and may be sent anew"
    assert forward(world, leader, other, (1 << 40) - 1) == [], "NoDuplicate: an earlier one may be written"


def test_a_forward_to_a_topic_that_is_gone_is_not_answered_and_leaves_nothing_behind():
    world, leader, other = sealed()
    assert world.ask(other, protocol.Delete("t")) == [OK]
    world.run(0.5)
    assert forward(world, leader, other, 1 << 40) == [], "AnswersAreTrue: it may have been written"
    assert not world.nodes[leader].lifecycle._early, "SpaceIsGivenBack: a forward waits for what is gone"
    assert "t" not in world.nodes[leader].lifecycle._shared, (
        "SpaceIsGivenBack: what is kept of a deleted topic piles up"
    )


def test_a_node_that_did_not_lead_a_segment_hands_nothing_back():
    world, leader, other = sealed()
    assert forward(world, other, leader, 1 << 40) == [], "NoDuplicate: only the leader knows what it took"


def test_a_restarted_leader_hands_back_nothing_that_it_may_have_written_before():
    world, leader, other = sealed()
    world.kill(leader)
    world.start(leader)
    world.until(lambda: world.nodes[leader].ready and world.settled())
    world.run(1)
    assert forward(world, leader, other, 1 << 40) == [], "NoDuplicate: its former self may have written it"


def test_a_restarted_leader_hands_nothing_of_its_open_segment_back_either():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    other = leader % 3 + 1
    assert world.put(other, "t", "a") == [OK]
    world.kill(leader)
    world.start(leader)
    world.until(lambda: "t" in world.nodes[leader].metadata.topics)
    assert forward(world, leader, other, 1 << 40) == [], "NoDuplicate: its former self may have written it"


def test_a_node_that_is_alone_leads_the_next_segment_of_what_it_led_before_a_restart():
    world = NodeWorld()
    world.start(1, bootstrap=True)
    world.until(lambda: world.nodes[1].ready)
    world.register("t")
    assert world.put(1, "t", "a") == [OK], "EveryPubAnswered"
    world.kill(1)
    world.start(1)
    assert world.put(1, "t", "b") == [OK], "FailoverProgress: there is nobody else to lead"
    assert (world.topic("t").current, world.topic("t").open.leader) == (2, 1), (
        "FailoverProgress: a node that is alone leads nothing"
    )


def test_a_seal_that_is_not_answered_is_proposed_again_at_intervals():
    world = three(max_segment_entries=1)
    number = 0
    while not number or world.topic(f"t{number}").open.leader == world.raft_leader:
        number += 1
        world.register(f"t{number}")
    seals = list[Seal]()
    world.watch = lambda sender, to, message: seals.extend(seals_in(message))
    world.lose = lambda sender, to, message: isinstance(message, m.Propose)
    world.send(1, protocol.Put(f"t{number}", batch("a")))
    world.run(2.0)
    most = 2.0 / config().resend_interval + 1
    assert 2 <= len(seals) <= most, "RolloverProgress: again, for it may be lost, and not with every step"


def test_a_recovery_that_found_a_majority_proposes_the_seal_by_itself():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK]
    world.lose = lambda sender, to, message: to == leader and isinstance(message, m.Fence)
    world.nodes[leader % 3 + 1].lifecycle.recover("t", 1, world.now)
    world.until(lambda: world.topic("t").current == 2, within=2.0)


def test_the_seal_of_a_recovery_is_proposed_again_at_intervals_too():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK]
    node = next(node for node in world.nodes if node not in (leader, world.raft_leader))
    seals = list[Seal]()

    def lost(sender: int, to: int, message: Any) -> bool:
        if sender == node:
            seals.extend(seals_in(message))
        return isinstance(message, m.Propose) or (to == leader and isinstance(message, m.Fence))

    world.lose = lost
    world.nodes[node].lifecycle.recover("t", 1, world.now)
    world.run(2.0)
    most = 2.0 / config().resend_interval + 1
    assert 2 <= len(seals) <= most, "FailoverProgress: again, for it may be lost, and not with every step"


def test_a_writer_whose_fence_no_recovery_follows_recovers_its_segment_itself():
    """The node that began the recovery may have died; the leader lives, so that Raft's leader begins none."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    assert world.put(leader, "t", "a") == [OK]
    world.nodes[leader].on_message(leader % 3 + 1, m.Fence(topic="t", segment=1), world.now)
    world.run(3.0)
    assert world.topic("t").current == 2, (
        "FailoverProgress: a fenced writer waits for a recovery that is over"
    )
    assert world.topic("t").segments[0].count == 1, "AckedDurable"


def test_a_word_of_an_operator_that_comes_while_nothing_waits_for_it_is_not_remembered():
    """Later, when copies turn out to be unsure, whether to do without them has not been asked."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    node = world.nodes[leader % 3 + 1]
    world.lose = lambda sender, to, message: isinstance(message, m.Fence)
    node.lifecycle.recover("t", 1, world.now)
    node.lifecycle.on_recover(m.Recover(topic="t", segment=1), world.now)
    forced = node.lifecycle.recoveries["t", 1].forced
    assert not forced, "AckedDurable: copies that a power loss may have shortened will do without a question"


def test_forwards_that_came_early_give_their_room_back():
    early = EarlyForwards(max_bytes=100)
    message = m.Forward(request=1, topic="t", segment=2, batch=batch("x" * 60))
    for _ in range(3):
        early.add(Early(1, message, 5.0))
        assert early.take("t"), "EveryPubAnswered: forwards that were taken before keep out the next"
    early.add(Early(1, message, 5.0))
    early.expire(5.0)
    early.add(Early(1, message, 9.0))
    assert early.take("t"), "EveryPubAnswered: forwards that were given up keep out the next"
    assert early.bytes == 0, "EveryPubAnswered: what waits for its segment counts for good"


def test_forwards_that_came_early_are_dropped_once_the_first_of_their_topic_is_too_old():
    """They are taken in order or not at all, so those behind it would wait for nothing."""
    early = EarlyForwards(max_bytes=100)
    for request, deadline in ((1, 5.0), (2, 9.0)):
        message = m.Forward(request=request, topic="t", segment=2, batch=batch("x"))
        early.add(Early(1, message, deadline))
    early.expire(4.9)
    assert early.bytes, "EveryPubAnswered: dropped before its time"
    early.expire(5.0)
    assert not early and not early.bytes, "SeqOrder: what came behind is taken without what came first"


def test_a_recovery_outlives_a_change_of_its_topic_and_ends_with_its_segment():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    lives = world.nodes[leader % 3 + 1].lifecycle
    world.lose = lambda sender, to, message: isinstance(message, m.Fence)
    lives.recover("t", 1, world.now)
    assert world.ask(leader, protocol.Configure("t", {"segment_entries": 9})) == [OK]
    world.run(0.2)
    assert ("t", 1) in lives.recoveries, "FailoverProgress: a change of settings ends a recovery"


def test_what_waits_at_a_writer_goes_back_when_another_node_has_ended_its_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was never appended: without an answer its client would be told that the outcome is unknown."""
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    other = leader % 3 + 1
    monkeypatch.setattr(world.nodes[leader].lifecycle.leases, "holds", lambda *_: False)
    answers = forward(world, leader, other, 1 << 40)
    assert not answers, "AnswersAreTrue: a writer without a lease answers"
    world.lose = lambda sender, to, message: to == leader and isinstance(message, m.Fence)
    world.nodes[other].lifecycle.recover("t", 1, world.now)
    world.until(lambda: world.nodes[leader].metadata.topics["t"].current == 2)
    world.step()
    handed_back = [(answer.request, answer.refused) for answer in answers] == [(1 << 40, True)]
    assert handed_back, "RolloverProgress: what waits at the writer of a segment that is over has no answer"


def test_the_end_of_each_recovery_is_proposed_once_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that led many segments dies: the turns that follow look at what is done, not at all there is."""
    world, calls = three(), list[str]()
    names = [f"t{number}" for number in range(60)]
    for name in names:
        world.register(name, 1)
    victim = 1
    led = [name for name in names if world.topic(name).open.leader == victim]
    assert len(led) >= 15
    recover = Lifecycle.recover

    def count(self: Lifecycle, topic: str, number: int, now: float) -> None:
        calls.append(topic)
        recover(self, topic, number, now)

    monkeypatch.setattr(Lifecycle, "recover", count)
    world.kill(victim)
    world.until(lambda: all(world.topic(name).current == 2 for name in led))
    assert len(calls) <= 3 * len(led), "FailoverProgress: begun, proposed, and perhaps once more"


@pytest.mark.parametrize("victim_leaves", [False, True])
def test_seals_that_are_not_applied_are_repeated_some_at_a_time_and_each_gets_its_turn(
    monkeypatch: pytest.MonkeyPatch, victim_leaves: bool
) -> None:
    """A Raft leader that cannot commit for a while is not flooded by what is proposed meanwhile."""
    monkeypatch.setattr(lifecycle, "MAX_SEALS", 5)
    world, proposed = three(), list[str]()
    names = [f"t{number}" for number in range(60)]
    for name in names:
        world.register(name, 3)
    leader = world.raft_leader
    victim = leader % 3 + 1
    led = [name for name in names if world.topic(name).open.leader == victim]
    assert len(led) >= 15
    proposer = world.nodes[victim if victim_leaves else leader].lifecycle
    monkeypatch.setattr(proposer, "_propose", lambda command, now: proposed.append(command.topic))
    if victim_leaves:
        for name in led:
            proposer.roll_over(name, 1, 3)
    else:
        world.kill(victim)
        world.until(lambda: len(proposer.recoveries) == len(led))
    began = len(proposed)
    world.run(4 * 0.2)
    assert len(proposed) - began <= 5 * 5, "RolloverProgress: more Seals at once than MAX_SEALS"
    assert set(proposed) == set(led), "RolloverProgress: every segment gets its turn"


def test_topics_that_are_deleted_at_once_each_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than a node may propose Seals for: those without a turn look again at the next tick."""
    monkeypatch.setattr(lifecycle, "MAX_SEALS", 2)
    world = three(monitor_check=3600.0)
    names = [f"t{number}" for number in range(20)]
    for name in names:
        world.register(name, 3)
    asked = [world.send(1 + number % 3, protocol.Delete(name)) for number, name in enumerate(names)]
    world.until(lambda: all(world.replies[slot] for slot in asked))
    assert all(world.replies[slot] == [OK] for slot in asked), "DeletedInTheEnd: a Seal without a turn"


def test_a_node_that_is_down_costs_the_writers_of_its_segments_no_look_at_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of writers that are each looked at in every tick leave no time for the failover."""
    world, looks = three(), list[str]()
    names = [f"t{number}" for number in range(30)]
    for name in names:
        world.register(name, 3)
    leader = world.raft_leader
    led = [name for name in names if world.topic(name).open.leader == leader]
    assert len(led) >= 8
    world.kill(leader % 3 + 1)
    for name in led:
        assert world.put(leader, name, "a") == [OK]
    world.run(1.0)
    on_tick = SegmentWriter.on_tick

    def count(self: SegmentWriter, now: float) -> None:
        looks.append(self.topic)
        on_tick(self, now)

    monkeypatch.setattr(SegmentWriter, "on_tick", count)
    world.run(2.0)
    assert looks == [], "FailoverProgress: writers look at the clock for a node that is down"
    world.start(leader % 3 + 1)
    writers = [world.nodes[leader].lifecycle.writers[name] for name in led]
    world.until(lambda: all(f.match == 1 for writer in writers for f in writer.followers.values()))


def led_by_raft_leader(world: NodeWorld, topics: int) -> list[SegmentWriter]:
    """Register so many; return the writers of those that Raft's leader leads, each with an entry."""
    for number in range(topics):
        world.register(f"t{number}", 3)
    writers = list(world.nodes[world.raft_leader].lifecycle.writers.values())
    for writer in writers:
        assert world.put(world.raft_leader, writer.topic, "a") == [OK]
    return writers


def test_of_many_writers_a_tick_shows_the_clock_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "MAX_LOOKED", 2)
    world = three(monitor_check=3.0)
    writers = led_by_raft_leader(world, 30)
    assert len(writers) >= 8
    looks: list[tuple[float, str]] = []
    check = SegmentWriter.check_threshold

    def count(self: SegmentWriter, now: float | None = None) -> None:
        if now is not None and self in writers:
            looks.append((world.now, self.topic))
        check(self, now)

    monkeypatch.setattr(SegmentWriter, "check_threshold", count)
    world.run(6.0)
    ticks = Counter(at for at, _ in looks)
    assert max(ticks.values()) == 2, "RolloverProgress: a tick shows the clock to more writers, or to fewer"
    seen = Counter(topic for _, topic in looks)
    assert set(seen) == {writer.topic for writer in writers} and set(seen.values()) <= {2, 3}, (
        "RolloverProgress: every 3 s"
    )


def test_that_a_replica_is_back_many_writers_learn_in_turn_and_those_that_wait_for_it_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One pass that asked for 33,000 lengths would be a pause of some hundred milliseconds."""
    monkeypatch.setattr(lifecycle, "MAX_LOOKED", 2)
    world = three()
    writers = led_by_raft_leader(world, 30)
    leader, asked = world.raft_leader, list[tuple[float, str]]()
    back, gone = (node for node in (1, 2, 3) if node != leader)
    world.kill(gone)
    world.kill(back)  # now nothing can be acknowledged
    slot = world.send(leader, protocol.Put(writers[-1].topic, batch("b")))
    world.run(0.1)

    def note(sender: int, receiver: int, message: Any) -> None:
        if (sender, receiver) == (leader, back) and isinstance(message, m.Append) and not message.batch.count:
            asked.append((world.now, message.topic))

    world.watch = note
    lives = world.nodes[leader].lifecycle
    world.start(back)
    world.until(lambda: back in world.nodes[leader].connected)
    assert asked[0][1] == writers[-1].topic, "RolloverProgress: first the one that a client waits for"
    assert not all(writer.reaches(back) for writer in lives.writers.values())
    world.until(lambda: world.replies[slot] == [OK])
    world.until(lambda: all(writer.reaches(back) for writer in lives.writers.values()))
    assert max(Counter(at for at, _ in asked).values()) <= 2 * 2, "with the connection, and with a tick"
    assert {topic for _, topic in asked} == {writer.topic for writer in writers}
    world.until(lambda: not lives.busy)


def test_a_replica_that_goes_again_before_all_writers_knew_that_it_was_back_is_out_of_reach_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "MAX_LOOKED", 2)
    world = three()
    writers = led_by_raft_leader(world, 30)
    leader = world.raft_leader
    other = leader % 3 + 1
    world.kill(other)
    lives = world.nodes[leader].lifecycle
    lives.on_connection(other, True, world.now)
    assert sum(writer.reaches(other) for writer in writers) == 2
    lives.on_connection(other, False, world.now)
    world.run(0.5)
    assert not any(writer.reaches(other) for writer in writers), "NoRest: it is waited for in vain"


def test_a_connection_that_replaces_another_is_one_on_which_nothing_was_sent():
    world = three()
    world.register("t")
    leader = world.topic("t").open.leader
    other, node = leader % 3 + 1, world.nodes[leader]
    node.take_effects()
    node.lifecycle.on_connection(other, connected=True, now=world.now)
    sent = [effect for effect in node.take_effects() if isinstance(effect, Send)]
    asked = [(one.to, one.message.batch.count) for one in sent if isinstance(one.message, m.Append)]
    assert asked == [(other, 0)], "CommitProgress: frames that went with the old connection count as sent"
