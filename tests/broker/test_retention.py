"""Settings, retention and deletion in a cluster of real nodes' logic.

Assertion messages that begin with a name say which invariant of `spec/Retention.tla` they stand for.
"""

from __future__ import annotations

import msgspec
import pytest

from tests.broker.world import NodeWorld, three
from walrus import protocol, segments
from walrus.consensus.messages import AppendEntriesRequest
from walrus.protocol import Ack, Configure, Delete, Fetch, Get, Leave, Receive, Register, Seek, State
from walrus.segments import RegisterTopic, Seal
from walrus.storage.errors import DiskFull
from walrus.wire.messages import Propose, RollOver

ROLLING = {"segment_entries": 5}


def rolling(count: int = 23, **settings: int) -> NodeWorld:
    """Three nodes, and a topic in segments of five entries, on which these settings are then made."""
    world = three(monitor_check=0.5)
    assert world.ask(1, Register("t", ROLLING)) == [b"OK"]
    for n in range(count):
        assert world.put(1 + n % 3, "t", str(n)) == [b"OK"]
    if settings:
        assert world.ask(2, Configure("t", settings)) == [b"OK"]
    return world


def state(world: NodeWorld, node: int = 1) -> dict[str, object]:
    (answer,) = world.ask(node, State("t"))
    found: dict[str, object] = msgspec.json.decode(answer)
    return found


def copies(world: NodeWorld, topic: str = "t") -> dict[int, list[int]]:
    """The segments of which each node still has a copy."""
    return {
        node: sorted(
            int(name.rpartition("/")[2])
            for name in data.topics()
            if name.startswith(f"{topic}/") and data.bounds(name)[1]
        )
        for node, (data, _) in world.stores.items()
    }


def test_segments_roll_by_the_topics_own_setting() -> None:
    world = rolling(12)
    assert world.topic("t").current == 3, "SealedStable: a segment of other size than the topic's setting"
    assert state(world)["settings"] == ROLLING, "OnlyWhatWasMeant: other settings than were asked for"
    assert world.ask(3, Configure("t", {"segment_entries": 2})) == [b"OK"], (
        "OnlyWhatWasMeant: CONFIGURE is refused"
    )
    world.until(lambda: world.topic("t").current == 4)  # it had two entries already
    assert world.put(2, "t", "a", "b", "c") == [b"OK"] * 3, (
        "RolloverProgress: a segment that is full by the new setting takes on"
    )
    world.until(lambda: world.topic("t").current == 5)


def test_what_is_beyond_retention_goes_from_every_disk_and_readers_are_told() -> None:
    world = rolling(23, retain_entries=8)
    world.until(lambda: world.topic("t").first == 3)
    world.run(1.0)
    assert all(found[0] == 3 for found in copies(world).values()), f"SpaceIsGivenBack: {copies(world)}"
    for node in world.nodes:
        (answer,) = world.ask(node, Fetch("t", 1, 0))
        assert answer == b"ERR trimmed: t begins at segment 3; go on with FETCH t 3 0", (
            "TrimmedIsSealed: a reader is not told where to go on"
        )
        assert world.ask(node, Fetch("t", 3, 0)) == [b"OK 1 10"], (
            "TrimmedIsSealed: more is gone than was to go"
        )
    assert world.ask(1, Fetch("t", 9, 0))[0].startswith(b"ERR unknown segment"), (
        "DeliveredIsPrefix: a segment that never was"
    )
    found = state(world)
    assert (found["first_segment"], found["trimmed_entries"], found["retained_entries"]) == (3, 10, 10), (
        "OverLimitIsTrimmed, TrimmedIsSealed"
    )
    assert found["last_sealed_entry_offset"] == 20, "LastSealedIsSum"
    assert [world.metrics(node)["entries_trimmed"] for node in world.nodes] == [10] * 3, "SpaceIsGivenBack"
    assert world.get_all(2, "t") == [str(n).encode() for n in range(10, 23)], "DeliveredIsPrefix"
    assert world.put(3, "t", "more") == [b"OK"], "EveryPubAnswered"


def test_groups_that_had_not_read_it_go_on_behind_and_it_is_counted() -> None:
    world = rolling(23)
    assert world.ask(1, Get("t", "reader", 4)) == [b"OK 0", b"OK 1", b"OK 2", b"OK 3"], "DeliveredIsPrefix"
    (reply,) = world.ask(1, Receive("t", "worker"))
    receipt = protocol.parse_receipt(reply.split()[1])
    assert receipt is not None
    assert world.ask(1, Ack("t", "worker", (receipt,))) == [b"OK"], "EveryEntryAcked"
    world.until(lambda: world.topic("t").cursors.get("reader") == (1, 4))
    assert world.ask(1, Receive("t", "worker"))[0].endswith(b" 1")  # out while its segment goes
    world.ask(1, Configure("t", {"retain_entries": 8}))
    world.until(lambda: world.topic("t").first == 3)
    assert world.topic("t").skipped == {"reader": 6, "worker": 9}, "SkippedIsCounted"
    assert world.ask(2, Get("t", "reader")) == [b"OK 10"], "MarkInBounds"
    assert world.ask(2, Receive("t", "worker"))[0].endswith(b" 10"), "MarkInBounds"
    assert world.ask(1, Seek("t", "worker", "begin")) == [b"OK"], "MarkInBounds: where it begins by now"
    assert world.ask(3, Receive("t", "worker"))[0].endswith(b" 10"), "MarkInBounds"


def test_protected_groups_hold_retention_up_until_they_have_read() -> None:
    world = rolling(23)
    world.ask(1, Get("t", "reader"))
    world.until(lambda: "reader" in world.topic("t").cursors)
    world.ask(1, Configure("t", {"retain_entries": 8, "protect_groups": 1}))
    world.run(3.0)
    assert world.topic("t").first == 1, "ProtectedUntilAcked"
    assert len(world.get_all(2, "t", "reader")) == 22, "ProtectedUntilAcked"
    world.until(lambda: world.topic("t").first == 3)
    assert world.topic("t").skipped == {}, "SkippedIsCounted"


def test_a_group_that_has_read_a_segment_to_its_end_does_not_protect_it() -> None:
    world = rolling(23)
    world.ask(1, Get("t", "reader", 8))
    world.until(lambda: world.topic("t").cursors.get("reader") == (2, 3))
    world.ask(1, Configure("t", {"retain_entries": 8, "protect_groups": 1}))
    world.run(1.0)
    assert world.topic("t").first == 2, (
        "OverLimitIsTrimmed, ProtectedUntilAcked: what the group has read goes"
    )
    world.ask(1, Get("t", "reader", 2))
    world.until(lambda: world.topic("t").cursors["reader"] == (2, 5))
    world.run(2.0)
    assert world.topic("t").first == 3, "OverLimitIsTrimmed: what is read is protected"


def test_a_quiet_segment_rolls_and_ages() -> None:
    world = rolling(2, segment_seconds=5, retain_seconds=10)
    world.until(lambda: world.topic("t").current == 2)
    assert world.topic("t").segments[0].sealed_ms > 0, (
        "OverLimitIsTrimmed: a sealed segment does not know its age"
    )
    world.until(lambda: world.topic("t").first == 2)
    world.run(20.0)
    assert world.topic("t").current == 2, "SealedStable: an empty segment rolls for ever"


def test_space_comes_back_to_a_node_that_was_away_and_to_one_that_restarts() -> None:
    world = rolling(3)
    away = next(node for node in world.nodes if node not in (world.raft_leader, world.topic("t").open.leader))
    world.kill(away)
    for n in range(3, 23):
        assert world.put(world.raft_leader, "t", str(n)) == [b"OK"]
    world.ask(world.raft_leader, Configure("t", {"retain_entries": 8}))
    world.until(lambda: world.topic("t").first >= 3)
    world.start(away)
    world.until(lambda: world.settled())
    world.run(2.0)
    first = world.topic("t").first
    assert all(number >= first for number in copies(world)[away]), f"SpaceIsGivenBack: {copies(world)}"


def test_a_full_disk_gives_space_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    world = rolling(23)
    data, _ = world.stores[1]
    delete, refused = data.delete_topic, []

    def full(name: str) -> None:
        if len(refused) < 3:
            refused.append(name)
            raise DiskFull("no room", name)
        delete(name)

    monkeypatch.setattr(data, "delete_topic", full)
    world.ask(2, Configure("t", {"retain_entries": 8}))
    world.until(lambda: world.topic("t").first == 3)
    world.run(1.0)
    assert refused and copies(world)[1][0] == 3, "SpaceIsGivenBack"


def test_a_deleted_topic_is_gone_everywhere_and_its_clients_are_told() -> None:
    world = rolling(12)
    waiting = world.send(3, Receive("t", "g", 60_000, 20))
    world.run(0.5)
    assert world.ask(2, Delete("t")) == [b"OK"], "DeletedInTheEnd"
    world.run(1.0)
    assert world.replies[waiting][-1].startswith(b"ERR unknown topic t"), (
        "DeletedInTheEnd: a GET that waits for a topic that is gone is not answered"
    )
    assert copies(world) == {1: [], 2: [], 3: []}, "SpaceIsGivenBack"
    for node in world.nodes:
        for request in (
            Get("t"),
            State("t"),
            Fetch("t", 1, 0),
            Delete("t"),
            Configure("t", {"segment_bytes": 9}),
        ):
            assert world.ask(node, request)[0].startswith(b"ERR unknown topic t"), (
                f"DeletedInTheEnd: {request}"
            )
        assert world.put(node, "t", "x")[0].startswith(b"ERR unknown topic t"), (
            "DeletedInTheEnd: a PUT to a topic that is gone is taken"
        )


def test_a_topic_of_the_same_name_is_another_one() -> None:
    world = rolling(12)
    world.ask(1, Get("t", "g", 3))
    world.ask(2, Delete("t"))
    assert world.ask(3, Register("t")) == [b"OK"], "DeletedInTheEnd: the name cannot be registered anew"
    assert world.ask(1, Fetch("t", 1, 0)) == [
        b"ERR trimmed: t begins at segment 4; go on with FETCH t 4 0"
    ], "TrimmedStaysTrimmed"
    assert world.ask(1, Get("t", "g")) == [b"EMPTY"], "NoFrameOfAnOldTopic"
    assert world.put(2, "t", "new") == [b"OK"], (
        "NoFrameOfAnOldTopic: the next topic of the name takes nothing"
    )
    assert world.ask(1, Get("t", "g")) == [b"OK new"], "OnlyWhatWasMeant"
    assert state(world)["settings"] == {} and world.topic("t").first == 4, (
        "OnlyWhatWasMeant, NoFrameOfAnOldTopic"
    )


def test_puts_on_their_way_while_their_topic_is_deleted_are_answered() -> None:
    world = rolling(1)
    slots = [
        world.send(1 + n % 3, protocol.Put("t", protocol.parse_request(b"PUT t x").batch)) for n in range(9)
    ]
    deleted = world.send(2, Delete("t"))
    slots += [world.send(1 + n % 3, protocol.parse_request(b"PUT t y")) for n in range(9)]
    world.until(lambda: all(world.replies[slot] for slot in (*slots, deleted)))
    assert world.replies[deleted] == [b"OK"], "DeletedInTheEnd"
    for slot in slots:
        assert world.replies[slot][0].startswith((b"OK", b"ERR unknown topic", b"ERR outcome unknown")), (
            "AnswersAreTrue: another answer than what may have become of it"
        )


def test_register_with_settings_is_done_once() -> None:
    world = three()
    assert world.ask(1, Register("t", {"max_deliveries": 3})) == [b"OK"], (
        "OnlyWhatWasMeant: a topic with settings is not registered"
    )
    assert world.ask(2, Register("t", {"max_deliveries": 3})) == [b"OK"], (
        "OnlyWhatWasMeant: the same REGISTER is refused"
    )
    assert world.ask(3, Register("t")) == [b"OK"], "OnlyWhatWasMeant: the same REGISTER is refused"
    assert world.ask(2, Register("t", {"max_deliveries": 4}))[0].startswith(
        b"ERR topic exists: t has other"
    ), "OnlyWhatWasMeant: other settings pass for those there are"
    assert world.ask(2, Configure("t", {"max_deliveries": -1})) == [b"OK"], (
        "OnlyWhatWasMeant: CONFIGURE is refused"
    )
    assert world.topic("t").settings == {}, "OnlyWhatWasMeant: a setting that was taken back counts"


def test_the_last_of_pipelined_changes_counts() -> None:
    world = three()
    world.register("t")
    for value in (5, 6, 7):
        assert world.ask(value % 3 + 1, Configure("t", {"retain_entries": value})) == [b"OK"], (
            "OnlyWhatWasMeant: a change is not made"
        )
        assert world.topic("t").settings == {"retain_entries": value}, (
            "OnlyWhatWasMeant: an earlier change counts"
        )


def cut_off(world: NodeWorld) -> tuple[str, int]:
    """Five nodes with topics; the writer of one of them, and one of its replicas, are cut off with leases."""
    for node in (4, 5):
        world.join(node)
    world.until(lambda: all(c.ready for c in world.nodes.values()) and world.settled())
    names = [f"t{n}" for n in range(6)]
    for name in names:
        world.register(name)
    topic, writer, follower = next(
        (name, segment.leader, replica)
        for name, segment in ((name, world.topic(name).open) for name in names)
        for replica in segment.replicas
        if world.raft_leader not in (segment.leader, replica) and replica != segment.leader
    )
    away = {writer, follower}
    world.cut |= {(a, b) for a in world.nodes for b in world.nodes if (a in away) != (b in away)}
    return topic, writer


def test_no_put_that_follows_a_deletion_is_acknowledged_in_the_topic_that_was_deleted() -> None:
    """A writer and one of its replicas, which are a majority, are cut off and know nothing of a deletion."""
    world = three()
    topic, writer = cut_off(world)
    asked = world.raft_leader
    deleted = world.send(asked, Delete(topic))
    world.run(0.3)
    again = world.send(asked, Register(topic))
    world.run(0.3)
    assert world.put(writer, topic, "before") == [b"OK"], "the writer is to have a lease, and a majority"
    assert not world.replies[deleted] and not world.replies[again], (
        "NoAckAfterDelete: answered while the writer goes on"
    )
    world.cut.clear()
    world.until(lambda: b"OK" in world.replies[deleted] and b"OK" in world.replies[again])
    assert world.put(writer, topic, "after") == [b"OK"], (
        "NoFrameOfAnOldTopic: the next topic of the name takes nothing"
    )
    assert world.get_all(asked, topic) == [b"after"], "NoFrameOfAnOldTopic, AckedDurable"


def test_a_reader_that_asks_after_a_deletion_gets_nothing_of_what_was_deleted() -> None:
    world = three()
    topic, writer = cut_off(world)
    assert world.put(writer, topic, "old") == [b"OK"]
    deleted = world.send(world.raft_leader, Delete(topic))
    world.run(0.5)
    assert not world.replies[deleted], "DeletedInTheEnd: answered while the writer goes on"
    assert world.put(writer, topic, "older") == [b"OK"], "the writer is to have a lease"
    world.cut.clear()
    world.until(lambda: world.replies[deleted] == [b"OK"])
    for node in world.nodes:
        assert world.ask(node, Get(topic, "g"))[0].startswith(b"ERR unknown topic"), "NoFrameOfAnOldTopic"


def test_a_writer_that_hears_and_is_not_heard_gives_nothing_of_a_topic_that_was_deleted() -> None:
    """Heartbeats reach it, so its lease to write never ends. Without its answers the leader of Raft sends it
    no entries once the window is full, so it does not learn that it was replaced."""
    world = three()
    for name in "abcdef":
        world.register(name)
    asked = world.raft_leader
    topic = next(name for name in "abcdef" if world.topic(name).open.leader != asked)
    writer = world.topic(topic).open.leader
    assert world.put(writer, topic, "old") == [b"OK"]
    world.lose = lambda sender, to, message: (
        sender == writer
        or (to == writer and isinstance(message, AppendEntriesRequest) and bool(message.entries))
    )
    world.until(lambda: asked == world.raft_leader and world.topic(topic).open.leader != writer, 30.0)
    assert world.ask(asked, Delete(topic)) == world.ask(asked, Register(topic)) == [b"OK"]
    world.until(lambda: world.put(asked, topic, "new") == [b"OK"], 30.0)
    old = world.nodes[writer]
    assert old.metadata.topics[topic].open.leader == writer, "the writer is to know nothing of it"
    assert old.leases.expires_at() > world.now, "the writer is to hear the Raft leader"
    slot = world.send(writer, Get(topic, "g"))
    world.run(world.nodes[writer].config.request_timeout + 1.0)
    assert b"OK old" not in world.replies[slot], "NoFrameOfAnOldTopic: given long after the topic was deleted"


def test_the_topic_of_a_dead_writer_can_be_deleted_and_its_name_registered_at_once() -> None:
    world = rolling(12)
    writer = world.topic("t").open.leader
    world.kill(writer)
    asked = min(world.nodes)
    deleted, again = world.send(asked, Delete("t")), world.send(asked, Register("t"))
    world.until(lambda: world.replies[deleted] == world.replies[again] == [b"OK"])
    world.until(lambda: all("t" in node.metadata.topics for node in world.nodes.values()))
    assert world.topic("t").born >= 4 and world.get_all(asked, "t") == [], "NoFrameOfAnOldTopic"


def test_the_topic_of_a_writer_that_restarts_is_deleted() -> None:
    world = rolling(12)
    writer = world.topic("t").open.leader
    asked = next(node for node in world.nodes if node != writer)
    world.kill(writer)
    deleted = world.send(asked, Delete("t"))
    world.run(0.2)
    world.start(writer)
    world.until(lambda: world.replies[deleted] == [b"OK"])
    world.until(lambda: world.settled() and copies(world) == {1: [], 2: [], 3: []}, 30.0)


def test_a_deletion_and_the_registration_behind_it_wait_for_a_failover_longer_than_other_requests() -> None:
    world = three(failure_timeout=5.0)
    for name in "abcdef":
        world.register(name)
    asked = world.raft_leader
    topic = next(name for name in "abcdef" if world.topic(name).open.leader != asked)
    world.paused.add(world.topic(topic).open.leader)
    deleted, again = world.send(asked, Delete(topic)), world.send(asked, Register(topic))
    world.run(4.5)
    assert not world.replies[deleted], "DeletedInTheEnd: given up before the writer is replaced"
    assert not world.replies[again], "DeletedInTheEnd: REGISTER is given up before the writer is replaced"
    world.until(lambda: world.replies[deleted] == world.replies[again] == [b"OK"], claim="DeletedInTheEnd")


def test_the_topic_of_a_writer_that_is_leaving_is_deleted() -> None:
    """Whatever holds up the rollover of its segment: the topic goes, and then the node."""
    world = rolling(1)
    writer = world.topic("t").open.leader
    asked = writer % 3 + 1
    world.lose = lambda sender, to, message: isinstance(message, RollOver)
    left = world.send(asked, Leave(writer, force=True))
    world.until(lambda: all(node.metadata.nodes[writer].leaving for node in world.nodes.values()))
    deleted = world.send(asked, Delete("t"))
    world.until(lambda: bool(world.replies[deleted]))
    assert world.replies[deleted] == [b"OK"], "DeletedInTheEnd: the Seal names a node that is leaving"
    world.until(lambda: bool(world.replies[left]))
    assert world.replies[left] == [b"OK"], (
        "DeletedInTheEnd: a topic that is to be deleted keeps its writer from leaving"
    )


def test_a_name_whose_number_rises_with_the_deletion_of_others_is_not_said_to_be_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`floor` rises while a REGISTER is proposed: the topic is not there, and never was."""
    monkeypatch.setattr(segments, "MAX_TOMBSTONES", 1)
    world = rolling(12)
    world.register("u")
    leader = world.raft_leader
    asked = leader % 3 + 1
    world.lose = lambda sender, to, message: (
        isinstance(message, Propose) and isinstance(message.commands[0], RegisterTopic)
    )
    registered = world.send(asked, Register("new"))
    for topic in ("t", "u"):
        assert world.ask(leader, Delete(topic)) == [b"OK"], "DeletedInTheEnd"
    world.until(lambda: world.nodes[asked].metadata.next_number("new") > 1)
    world.run(0.5)
    assert not world.replies[registered], "AnswersAreTrue: OK to the REGISTER of a topic that is not there"


def test_a_topic_is_deleted_although_its_replicas_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic is deleted to make room. Its writer does not wait for what no replica can take."""
    world = rolling(1)
    writer = world.topic("t").open.leader

    def full(name: str, batch: object) -> int:
        raise DiskFull("no room", name)

    for node, (data, _) in world.stores.items():
        if node != writer:
            monkeypatch.setattr(data, "write", full)
    put = world.send(writer, protocol.parse_request(b"PUT t x"))
    world.run(0.5)
    assert not world.replies[put], "AckedDurable: acknowledged by one of three"
    assert world.ask(writer, Delete("t")) == [b"OK"], "DeletedInTheEnd: it waits for what no replica can take"
    world.until(lambda: bool(world.replies[put]))
    assert world.replies[put][0].startswith((b"ERR outcome unknown", b"ERR unknown topic")), (
        "AnswersAreTrue: what went with its topic is told otherwise"
    )
    monkeypatch.undo()
    world.until(lambda: copies(world) == {1: [], 2: [], 3: []})


def test_the_writer_stops_before_the_seal_of_a_deleted_topic_is_committed() -> None:
    """Its proposals are lost for a second: no entry is acknowledged meanwhile."""
    world = three()
    for name in "abc":
        world.register(name)
    topic = next(name for name in "abc" if world.topic(name).open.leader != world.raft_leader)
    writer, lost = world.topic(topic).open.leader, []

    def seals(sender: int, to: int, message: object) -> bool:
        lost.extend(
            [message] if isinstance(message, Propose) and isinstance(message.commands[0], Seal) else []
        )
        return message in lost

    world.lose = seals
    deleted = world.send(world.raft_leader, Delete(topic))
    world.until(lambda: bool(lost))
    put = world.send(writer, protocol.parse_request(b"PUT %b x" % topic.encode()))
    world.run(1.0)
    assert not world.replies[deleted], "NoAckAfterDelete: answered before the Seal is committed"
    assert b"OK" not in world.replies[put], "NoAckAfterDelete: acknowledged behind the last count"
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.replies[deleted] == [b"OK"] and bool(world.replies[put]))
    assert world.replies[put][0].startswith((b"ERR unknown topic", b"ERR outcome unknown")), (
        "AnswersAreTrue: what went with its topic is told otherwise"
    )
