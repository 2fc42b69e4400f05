"""Work queues in a cluster: what is acknowledged never comes again, and what is not does, whatever fails.

Assertion messages that begin with a name say which invariant of `spec/Delivery.tla` they stand for.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.broker.world import NodeWorld, batch, three
from walrus import protocol
from walrus.acknowledged import Acknowledged, HandedOn, Position, Run
from walrus.broker import dispatch, receivers
from walrus.broker.groups import WorkQueue
from walrus.consensus.messages import AppendEntriesRequest
from walrus.deadlines import SWEEP_AT
from walrus.protocol import Ack, Extend, Get, Nack, Receipt, Receive, Seek, errors
from walrus.segments import CommitCursors
from walrus.wire import messages as m


def loaded(count: int = 6, **settings: object) -> NodeWorld:
    world = three(**settings)
    world.register("t")
    if count:
        assert world.put(1, "t", *(f"{n}" for n in range(count))) == [b"OK"] * count
    return world


def received(reply: bytes) -> tuple[Receipt, int, bytes]:
    assert reply.startswith(b"OK "), reply
    text, deliveries, payload = protocol.split_received(reply[3:])
    receipt = protocol.parse_receipt(text.encode())
    assert receipt is not None
    return receipt, deliveries, payload


def receive(world: NodeWorld, node: int, count: int = 1, group: str = "g", wait: int = 0) -> list[bytes]:
    return world.ask(node, Receive("t", group, wait, count))


def take(world: NodeWorld, node: int, count: int = 1, group: str = "g") -> list[Receipt]:
    return [received(reply)[0] for reply in receive(world, node, count, group)]


def ack(world: NodeWorld, node: int, *receipts: Receipt, group: str = "g") -> None:
    answers = world.ask(node, Ack("t", group, receipts))
    assert answers == [b"OK"] * len(receipts), "EveryEntryAcked: an ACK is not answered OK in time"


def payloads(world: NodeWorld, node: int, group: str = "g") -> list[bytes]:
    """Receive and acknowledge until there is nothing more."""
    found = []
    while (reply := receive(world, node, group=group)[0]) != b"EMPTY":
        receipt, _, payload = received(reply)
        found.append(payload)
        ack(world, node, receipt, group=group)
    return found


def owner(world: NodeWorld) -> int:
    return world.topic("t").open.leader


def others(world: NodeWorld) -> list[int]:
    return [node for node in sorted(world.nodes) if node != owner(world)]


# --- a healthy cluster


def test_a_cursor_that_is_committed_late_ends_the_queue_of_its_group_and_says_so():
    """An earlier leader of the segment gave entries to GET, and its proposal was long on its way."""
    world = loaded(3)
    receipt = take(world, 1)[0]
    waiting = world.send(2, Receive("t", "g", 60_000, 5))
    world.run(0.1)
    cursor = CommitCursors(cursors={"t": {"g": Position(1, 1)}})
    world.nodes[world.raft_leader].on_message(2, m.Propose(commands=(cursor,)), world.now)
    world.run(0.3)
    refused = b"g is read with GET"
    assert refused in world.replies[waiting][-1], "Replies: a RECEIVE of a group that is read with GET"
    assert refused in world.ask(3, Ack("t", "g", (receipt,)))[0], (
        "Replies: an ACK of a group that is read with GET"
    )
    assert world.topic("t").cursors == {"g": Position(1, 1)} and not world.topic("t").groups, (
        "CursorInBounds: a group is read in two ways"
    )


def test_any_node_hands_out_each_entry_once_and_acknowledged_ones_are_done():
    world = loaded(6)
    replies = [receive(world, node, 2) for node in (1, 2, 3)]
    found = [received(reply) for run in replies for reply in run]
    assert [payload for _, _, payload in found] == [b"0", b"1", b"2", b"3", b"4", b"5"], "DeliveredIsPrefix"
    assert all(deliveries == 1 for _, deliveries, _ in found), "OutIsBounded: an entry is out once"
    assert receive(world, 1) == [b"EMPTY"], "OutIsBounded: an entry is out once"
    ack(world, 2, *(receipt for receipt, _, _ in found))
    assert world.topic("t").groups["g"].low == Position(1, 6), "EveryEntryAcked"
    world.run(40.0)
    assert receive(world, 3) == [b"EMPTY"], "AckedNotRedelivered"


def test_an_acknowledgement_waits_for_raft_and_for_no_timer():
    world = loaded(5, ack_interval=60.0)
    for receipt in take(world, 2, 5):
        ack(world, 2, receipt)  # answered within 15 seconds, or it fails


def test_a_seek_is_answered_when_it_is_committed_and_not_before():
    world = loaded(3)
    # Wherever the owner is, Raft's leader or another one: nothing that is proposed now commits.
    world.lose = lambda sender, to, message: (
        isinstance(message, m.Propose) or bool(getattr(message, "entries", ()))
    )
    slot = world.send(1, Seek("t", "g", Position(1, 2)))
    world.run(0.5)
    assert world.replies[slot] == [], "PromisedIsCommitted: a SEEK is answered that may yet be lost"
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.replies[slot] == [b"OK"])


def test_what_is_acknowledged_while_a_proposal_is_on_its_way_goes_into_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    world, proposed = loaded(6, ack_interval=60.0), list[int]()
    commit = dispatch.Dispatcher._commit

    def count(self: dispatch.Dispatcher, now: float) -> None:
        proposed.append(sum(len(queue.group.noted) for _, queue in self._all()))
        commit(self, now)

    monkeypatch.setattr(dispatch.Dispatcher, "_commit", count)
    first, *others = take(world, owner(world), 6)
    world.send(owner(world), Ack("t", "g", (first,)))
    world.until(lambda: bool(proposed))
    for receipt in others:
        world.send(owner(world), Ack("t", "g", (receipt,)))
    world.until(lambda: world.topic("t").groups["g"].low == Position(1, 6))
    assert proposed == [1, 5], "EveryEntryAcked: not what was acknowledged meanwhile"


def test_the_owner_says_what_is_out_and_how_far_behind_a_group_is():
    world = loaded()
    receipts = take(world, 2, 3)
    ack(world, 3, receipts[0])
    for request in (protocol.State("t"), protocol.Groups("t")):
        said = msgspec.json.decode(world.ask(owner(world), request)[0])
        assert said["exact"] and said["groups"]["g"] == {
            "read_with": "RECEIVE", "segment": 1, "offset": 1, "lag": 5, "out": 2,
        }  # fmt: skip
        elsewhere = msgspec.json.decode(world.ask(others(world)[0], request)[0])
        assert (elsewhere["exact"], elsewhere["groups"]["g"]["out"]) == (False, None)
    topic = world.metrics(owner(world))["topics_led"]["t"]
    assert (topic["lag"], topic["out"]) == ({"g": 5}, {"g": 2}), (
        "SkippedIsCounted: the lag is not what is left to acknowledge"
    )
    assert world.metrics(owner(world))["deliveries"] == 3, (
        "OutIsBounded: METRICS count other deliveries than there were"
    )


def test_groups_know_nothing_of_each_other():
    world = loaded(2)
    assert payloads(world, 1, "a") == payloads(world, 2, "b") == [b"0", b"1"], "NothingSkipped"


def test_an_entry_that_is_not_acknowledged_in_time_comes_again_and_counts():
    world = loaded(1)
    first = take(world, 1)[0]
    assert receive(world, 2) == [b"EMPTY"], "OutIsBounded: it is out twice"
    world.run(30.1)
    second, deliveries, payload = received(receive(world, 2)[0])
    assert (deliveries, payload) == (2, b"0"), "NothingSkipped"
    assert world.ask(1, Nack("t", "g", first)) == [b"ERR " + errors.STALE_RECEIPT.encode()], (
        "AckedNotRedelivered: a delivery that is over is given back"
    )
    assert world.ask(1, Extend("t", "g", first, 10)) == [b"ERR " + errors.STALE_RECEIPT.encode()], (
        "AckedNotRedelivered: a delivery that is over is extended"
    )
    ack(world, 1, first)  # late, and the work is done
    world.run(31)
    assert receive(world, 1) == [b"EMPTY"], "AckedNotRedelivered"
    ack(world, 2, second)


def test_what_is_given_back_comes_again_after_its_delay_and_what_is_extended_later():
    world = loaded(2)
    a, b = take(world, 1, 2)
    assert world.ask(2, Nack("t", "g", a, 5_000)) == [b"OK"], (
        "EveryEntryAcked: a NACK of what is in hand is refused"
    )
    assert world.ask(2, Extend("t", "g", b, 50_000)) == [b"OK"], (
        "EveryEntryAcked: an EXTEND of what is in hand is refused"
    )
    assert receive(world, 1) == [b"EMPTY"], "OutIsBounded: an entry is out once"
    world.run(5.1)
    assert received(receive(world, 3)[0])[2] == b"0", "EveryEntryAcked"
    world.run(31)
    assert received(receive(world, 3)[0])[1:] == (3, b"0"), "NothingSkipped: its second delivery timed out"
    assert receive(world, 3) == [b"EMPTY"], "OutIsBounded: the extended one is out still"
    world.run(20)
    assert received(receive(world, 3)[0])[1:] == (2, b"1"), "NothingSkipped"


def test_a_receive_that_waits_is_answered_in_the_turn_in_which_the_entry_is_acknowledged():
    world = loaded(0)
    node = others(world)[0]
    assert receive(world, node) == [b"EMPTY"], "DeliveredIsPrefix: a RECEIVE gets what is not there"
    slots = [world.send(node, Receive("t", "g", 60_000)) for _ in range(3)]
    world.run(1.0)
    assert [world.replies[slot] for slot in slots] == [[], [], []], (
        "Replies: a RECEIVE that may wait is answered EMPTY"
    )
    assert not world.nodes[node].busy, "a wait keeps no node awake"
    asked = world.now
    assert world.put(owner(world), "t", "a", "b") == [b"OK", b"OK"]
    assert [received(world.replies[slot][0])[2] for slot in slots[:2]] == [b"a", b"b"], "EveryEntryAcked"
    assert world.now - asked < 0.1 and world.replies[slots[2]] == [], (
        "Replies: not in the turn in which the entry is acknowledged"
    )


def test_one_that_waits_gets_what_comes_back_when_it_does_one_after_the_other():
    """No other request arrives: only the clock brings the second one."""
    world = loaded(2)
    take(world, 1)
    world.run(10.0)
    take(world, 2)
    waiting = world.send(3, Receive("t", "g", 60_000, 2))
    world.run(20.5)
    assert [received(reply)[1:] for reply in world.replies[waiting]] == [(2, b"0")], "EveryEntryAcked"
    world.run(10.0)
    assert [received(reply)[1:] for reply in world.replies[waiting][1:]] == [(2, b"1")], "EveryEntryAcked"


def test_what_its_owner_cannot_read_comes_from_another_replica_though_a_first_attempt_fails():
    world = loaded(3)
    reads, lost = world.nodes[owner(world)].queues.owner._reads, [0]

    def lose(sender: int, to: int, message: object) -> bool:
        lost[0] += isinstance(message, m.Read)
        return isinstance(message, m.Read) and lost[0] == 1

    reads.readable = lambda topic, number: 0  # type: ignore[method-assign]
    world.lose = lose
    waiting = world.send(others(world)[0], Receive("t", "g", 30_000, 3))
    world.run(10.0)
    found = [received(reply)[2] for reply in world.replies[waiting]]
    assert lost[0] > 1 and found == [b"0", b"1", b"2"], "EveryEntryAcked"


def test_while_an_entry_is_read_elsewhere_nobody_is_told_that_there_is_none():
    world = loaded(1)
    reads = world.nodes[owner(world)].queues.owner._reads
    reads.readable = lambda topic, number: 0  # type: ignore[method-assign]
    for group in ("g", "h"):  # the first waits for a lease, the second finds it
        reply = receive(world, others(world)[0], group=group)[0]
        assert reply != b"EMPTY", "ReadProgress: there is one"


def test_a_wait_ends_with_empty_when_it_is_over():
    world = loaded(0)
    receive(world, 1)
    asked = world.now
    assert receive(world, 1, wait=2_000) == [b"EMPTY"], "EveryEntryAcked"
    assert 2.0 <= world.now - asked < 2.3, "Replies: EMPTY too early, or too late"


def test_entries_of_a_client_that_is_gone_go_to_the_next():
    world = loaded(2)
    gone = world.send(others(world)[0], Receive("t", "g", 0, 2))
    world.closed.add(gone)
    world.run(0.5)
    found = [received(reply) for reply in receive(world, 1, 2)]
    assert [(deliveries, payload) for _, deliveries, payload in found] == [(2, b"0"), (2, b"1")], (
        "NothingSkipped"
    )


def test_entries_go_to_no_node_that_is_gone_and_waits():
    world = loaded(0)
    gone, node = others(world)
    receive(world, node)
    world.send(gone, Receive("t", "g", 60_000, 1))
    world.run(0.5)
    world.kill(gone)
    waiting = world.send(node, Receive("t", "g", 60_000, 1))
    world.put(owner(world), "t", "x")
    world.run(1.0)
    assert [received(reply)[1:] for reply in world.replies[waiting]] == [(1, b"x")], "EveryEntryAcked"


def test_never_more_than_the_window_is_out():
    world = loaded(0)
    for _ in range(3):
        world.put(1, "t", *["x"] * 400)
    replies = [reply for _ in range(3) for reply in receive(world, 1, 500)]
    found = [received(reply)[0] for reply in replies if reply != b"EMPTY"]
    assert len(found) == 1_000, "OutIsBounded"
    ack(world, 1, *found[1:])
    assert receive(world, 1) == [b"EMPTY"], "OutIsBounded: the first one is not acknowledged"
    ack(world, 1, found[0])
    assert len([reply for reply in receive(world, 1, 500) if reply != b"EMPTY"]) == 200, (
        "OutIsBounded, EveryEntryAcked"
    )


def test_a_group_is_read_with_get_or_with_receive():
    world = loaded(3)
    take(world, 1)
    assert world.ask(2, Get("t", "g"))[0].startswith(b"ERR group in use: g is read with RECEIVE"), (
        "DomainConsistency: a group is read in two ways"
    )
    assert world.ask(2, Get("t", "h")) == [b"OK 0"], "DomainConsistency: a group that is read with GET is not"
    assert receive(world, 1, group="h")[0].startswith(b"ERR group in use: h is read with GET"), (
        "DomainConsistency: a group is read in two ways"
    )
    world.run(20)  # what is volatile is forgotten, what is committed is not
    assert receive(world, 1, group="h")[0].startswith(b"ERR group in use: h is read with GET"), (
        "DomainConsistency: a group is read in two ways"
    )


def test_an_unknown_topic_and_a_receipt_of_no_entry_are_errors_that_change_nothing():
    world = loaded(1)
    assert world.ask(1, Receive("nope", "g"))[0].startswith(b"ERR unknown topic nope"), (
        "DomainConsistency: an unknown topic is read"
    )
    stale = [b"ERR " + errors.STALE_RECEIPT.encode()]
    for receipt in (Receipt(1, 1, 0, 1), Receipt(2, 0, 0, 1), Receipt(1, 0, 3, 1)):
        assert world.ask(1, Ack("t", "g", (receipt,))) == stale, f"NothingSkipped: {receipt}"
        assert world.ask(1, Nack("t", "g", receipt)) == stale, f"NothingSkipped: {receipt}"
    assert payloads(world, 1) == [b"0"], "NothingSkipped: an acknowledgement of what was never out"


def test_a_group_begins_with_the_first_request_that_names_it_an_ack_too():
    world = loaded(2)
    receipt = Receipt(1, 0, 0, 1)
    for change in (Nack("t", "new", receipt), Extend("t", "new", receipt, 1_000)):
        assert world.ask(1, change) == [b"ERR " + errors.STALE_RECEIPT.encode()], (
            "OutIsBounded: nothing of it is out"
        )
    assert world.ask(1, Ack("t", "new", (receipt,))) == [b"OK"], "EveryEntryAcked"
    assert payloads(world, 1, "new") == [b"1"], "AckedNotRedelivered"
    assert payloads(world, 1, "another") == [b"0", b"1"], "NothingSkipped"


# --- SEEK


def test_seek_goes_back_and_forth_and_makes_receipts_of_before_stale():
    world = loaded(4)
    receipts = take(world, 1, 3)
    ack(world, 1, *receipts[:2])
    assert world.ask(2, Seek("t", "g", "begin")) == [b"OK"], "EveryEntryAcked"
    assert world.ask(1, Ack("t", "g", (receipts[2],))) == [b"ERR " + errors.STALE_RECEIPT.encode()], (
        "NothingSkipped: a receipt of before the SEEK counts"
    )
    assert payloads(world, 1) == [b"0", b"1", b"2", b"3"], "NothingSkipped"
    assert world.ask(2, Seek("t", "g", Position(1, 3))) == [b"OK"], "OnlyWhatWasMeant: a SEEK is refused"
    assert payloads(world, 1) == [b"3"], "NothingSkipped"
    assert world.ask(2, Seek("t", "g", "begin")) == [b"OK"], "OnlyWhatWasMeant: a SEEK is refused"
    assert world.ask(3, Seek("t", "g", "end")) == [b"OK"], "OnlyWhatWasMeant: a SEEK is refused"
    assert receive(world, 1) == [b"EMPTY"], "NothingSkipped"
    assert world.ask(2, Seek("t", "g", Position(1, 5)))[0].startswith(
        b"ERR invalid position: t has no place 1 5"
    ), "MarkInBounds: a SEEK beyond the end"
    assert world.ask(2, Seek("t", "new", Position(1, 2))) == [b"OK"], "OnlyWhatWasMeant: it makes the group"
    assert payloads(world, 1, "new") == [b"2", b"3"], "NothingSkipped"


def test_a_seek_whose_proposal_is_lost_is_proposed_again():
    world = loaded(2)
    dispatcher, asked = world.nodes[owner(world)].queues.owner, list[object]()
    propose = dispatcher._propose

    def lossy(command: Any, now: float) -> None:
        asked.append(command)
        if len(asked) > 1:
            propose(command, now)

    dispatcher._propose = lossy
    reply = world.ask(1, Seek("t", "g", Position(1, 1)))
    assert reply == [b"OK"] and len(asked) == 2, "EveryEntryAcked: a SEEK waits for good"
    assert payloads(world, 1) == [b"1"], "NothingSkipped"


# --- rollover and failover


def test_a_healthy_rollover_delivers_nothing_again():
    world = loaded(4, max_segment_entries=8)
    a, b, c, _ = take(world, 1, 4)
    ack(world, 1, b)
    waiting = world.send(2, Receive("t", "g", 60_000))
    world.put(1, "t", *(f"{n}" for n in range(4, 12)))
    world.until(lambda: world.topic("t").current == 2)
    assert not world.topic("t").segments[0].recovered, "SealHandsOn: the rollover was not healthy"
    assert received(world.replies[waiting][0])[2] == b"4", "NothingSkipped"
    rest = [received(reply) for reply in receive(world, 3, 20) if reply != b"EMPTY"]
    assert [int(payload) for _, _, payload in rest] == list(range(5, 12)), "SealHandsOn"
    ack(world, 1, a, c)
    assert world.topic("t").groups["g"].low == Position(1, 3), "MarkOnlyRises"
    world.run(31)
    again = [received(reply)[1:] for reply in receive(world, 3, 20) if reply != b"EMPTY"]
    assert [(2, b"%d" % n) for n in range(3, 12)] == sorted(again, key=lambda one: int(one[1])), (
        "NothingSkipped: what was out comes again, and counts on"
    )


def test_an_owner_that_hears_late_of_others_in_between_hands_out_nothing_that_they_had_out():
    """It applies three healthy Seals at once: what it had in hand is over, what is out the last one says."""
    world = loaded(4, max_segment_entries=8)
    late, node = owner(world), others(world)[0]
    (first,) = take(world, node)
    if world.raft_leader == late:
        world.nodes[late].raft.transfer_leadership(node, world.now)
        world.until(lambda: world.raft_leader != late)
    world.lose = lambda _, to, message: (
        to == late and isinstance(message, AppendEntriesRequest) and bool(message.entries)
    )
    leader, taken = world.nodes[world.raft_leader].metadata, set[tuple[int, ...]]()
    for number in range(1, 4):
        world.put(node, "t", *(f"{number}.{n}" for n in range(8)))
        world.until(lambda number=number: leader.topics["t"].current > number)
        if number < 3:
            taken |= {receipt[:2] for receipt in take(world, node, 3)}
    assert leader.topics["t"].open.leader == late and not any(
        s.recovered for s in leader.topics["t"].segments
    )
    world.lose = lambda sender, to, message: False
    world.until(lambda: owner(world) == late and world.settled())
    ack(world, node, first)
    rest = {received(reply)[0][:2] for reply in receive(world, node, 40) if reply != b"EMPTY"}
    assert len(taken) == 6 and rest and not taken & rest, "SealHandsOn: what is out is handed out once more"


def test_an_ack_of_what_is_not_there_is_stale_and_holds_up_no_other():
    world = loaded(6, max_segment_entries=4)
    world.until(lambda: world.topic("t").current == 2)
    first, _ = take(world, 1, 2)
    (reply,) = world.ask(1, Ack("t", "g", (Receipt(1, 4, 0, 1),)))
    ack(world, 1, first)
    assert reply.startswith(b"ERR stale receipt"), "NothingSkipped: an entry counts that is not there"
    assert world.topic("t").groups["g"].low == Position(1, 1), "MarkOnlyRises"


def test_what_was_fetched_from_another_replica_is_read_in_its_own_segment_only():
    asked: list[object] = []
    reads = SimpleNamespace(readable=lambda topic, number: 0)
    owner = cast(Any, SimpleNamespace(_reads=reads, _fetch=lambda *question: asked.append(question[2])))
    queue = dispatch.Queue(("t", "g"), WorkQueue(Acknowledged(), (), 0.0, 10))
    queue.fetched = Position(1, 4), batch("a", "b")

    def read(number: int, offset: int) -> list[bytes]:
        found = dispatch.Dispatcher._read(owner, queue.key, queue, Position(number, offset), 1, 0.0)
        return list(found.payloads())

    assert read(1, 5) == [b"b"] and not asked, "DeliveredIsPrefix"
    for place in ((2, 5), (1, 3), (1, 6)):
        assert read(*place) == [], "DeliveredIsPrefix: an entry comes in the place of another one"
    assert asked == [(2, 5), (1, 3), (1, 6)], "DeliveredIsPrefix: read in another segment, or twice"


def test_an_owner_without_a_lease_answers_no_ack_that_it_has_seen_committed():
    """The next owner may not have seen it, and hands the entry out after that answer."""
    said, serves = list[tuple[object, ...]](), [False]
    tenure = SimpleNamespace(owns=lambda name: True, serves=lambda name, now: serves[0])
    here = SimpleNamespace(
        _tenure=tenure,
        _settled=lambda *told: said.append(told),
        _unawait=lambda queue, caller: queue.answers.pop(caller),
        _trace_of=lambda key: None,
    )
    queue = dispatch.Queue(("t", "g"), WorkQueue(Acknowledged(low=Position(1, 1)), (), 0.0, 10))
    queue.answers[2, 7] = dispatch.Unanswered((errors.NO_ERROR,), (Run(1, 0, 1),), 9.0)
    dispatch.Dispatcher._answer(cast(Any, here), "t", queue, [(2, 7)], 0.0)
    assert not said, "AckedNotRedelivered: an ACK is answered by an owner that another one may have followed"
    serves[0] = True
    dispatch.Dispatcher._answer(cast(Any, here), "t", queue, [(2, 7)], 0.0)
    assert said == [((2, 7), (errors.NO_ERROR,))], "EveryEntryAcked"


@pytest.mark.parametrize("ending", ["killed", "cut off"])
def test_a_failover_delivers_again_what_was_out_and_nothing_that_was_acknowledged(ending: str):
    world = loaded(4)
    dead = owner(world)
    node = others(world)[0]
    first, _, third, _ = take(world, node, 4)
    ack(world, node, first, third)
    if ending == "killed":
        world.kill(dead)
    else:
        world.isolate(dead)
    world.until(lambda: world.nodes[node].metadata.topics["t"].current == 2, 20)
    waiting = world.send(node, Receive("t", "g", 20_000, 4))
    world.until(lambda: len(world.replies[waiting]) == 2, 20)
    found = [received(reply)[1:] for reply in world.replies[waiting]]
    assert found == [(1, b"1"), (1, b"3")], "AckedNotRedelivered"


def test_an_acknowledgement_that_was_on_its_way_when_the_owner_died_reaches_the_next_one():
    world = loaded(2)
    dead, node = owner(world), others(world)[0]
    receipts = take(world, node, 2)
    world.lose = lambda sender, to, message: isinstance(message, m.Settle) and to == dead
    slot = world.send(node, Ack("t", "g", tuple(receipts)))
    world.run(0.1)
    world.kill(dead)
    world.until(lambda: bool(world.replies[slot]), 20)
    if world.replies[slot][0].startswith(b"ERR timeout:"):
        ack(world, node, *receipts)  # as the reply says
    assert (
        world.nodes[node].metadata.topics["t"].groups["g"].low == Position(1, 2)
        or payloads(world, node) == []
    ), "EveryEntryAcked"


def test_the_next_owner_waits_until_the_lease_of_the_last_one_is_over():
    world = loaded(2)
    dead, node = owner(world), others(world)[0]
    take(world, node, 1)
    world.kill(dead)
    world.until(lambda: world.nodes[node].metadata.topics["t"].current == 2, 20)
    sealed = world.now
    assert world.put(node, "t", "x") == [b"OK"], "AckedDurable: PUTs need not wait: the fence protects them"
    waiting = world.send(node, Receive("t", "g", 20_000))
    world.until(lambda: bool(world.replies[waiting]), 20)
    assert world.now - sealed >= world.nodes[node].config.failure_timeout - 0.1, "AckedNotRedelivered"


def test_an_owner_that_is_cut_off_hands_out_nothing_and_answers_no_ack_once_its_lease_is_over():
    world = loaded(4)
    stale = owner(world)
    receipts = take(world, stale, 2)
    world.isolate(stale)
    world.run(1.3)
    acked = world.send(stale, Ack("t", "g", tuple(receipts)))
    asked = world.send(stale, Receive("t", "g"))
    world.run(8)
    assert world.replies[acked] == [b"ERR " + errors.NOT_ACKNOWLEDGED_YET.encode()] * 2, (
        "PromisedIsCommitted: an ACK is answered before it is committed"
    )
    assert world.replies[asked] == [b"ERR " + errors.OWNER_UNREACHED.encode()], (
        "AckedNotRedelivered: handed out without a lease"
    )


def test_all_nodes_are_killed_at_once_and_the_group_goes_on_where_it_was():
    world = loaded(4)
    first, second = take(world, 1, 2)
    ack(world, 1, second)
    for node in (1, 2, 3):
        world.kill(node)
    for node in (1, 2, 3):
        world.start(node)
    world.until(lambda: world.nodes[1].ready and world.nodes[1].metadata.topics["t"].current == 2, 20)
    slot = world.send(1, Receive("t", "g", 20_000, 4))
    world.until(lambda: len(world.replies[slot]) == 3, 20)
    assert [received(reply)[2] for reply in world.replies[slot]] == [b"0", b"2", b"3"], "AckedNotRedelivered"
    ack(world, 2, first)  # of before, and good


# --- bounds


def test_requests_that_wait_at_either_end_are_bounded(monkeypatch: pytest.MonkeyPatch):
    world = loaded(0)
    node = others(world)[0]
    receive(world, node)
    busy = [b"ERR " + errors.BUSY.encode()]
    monkeypatch.setattr(receivers, "MAX_PENDING", 3)
    slots = [world.send(node, Receive("t", "g", 10_000)) for _ in range(4)]
    world.run(0.1)
    assert world.replies[slots[3]] == busy, "OutIsBounded: more requests wait than may"
    monkeypatch.setattr(dispatch, "MAX_RECEIVES", 3)
    assert world.ask(owner(world), Receive("t", "g", 10_000)) == busy, (
        "OutIsBounded: more requests wait than may"
    )
    world.put(1, "t", "a", "b", "c")
    assert [received(world.replies[slot][0])[2] for slot in slots[:3]] == [b"a", b"b", b"c"], (
        "EveryEntryAcked"
    )
    assert receive(world, node) == [b"EMPTY"], "EveryEntryAcked: answered requests make room"


def test_waits_of_a_day_that_were_answered_at_once_leave_nothing_behind():
    """OutIsBounded counts entries; this counts what the clock keeps of requests, at either end."""
    world, day = loaded(300), protocol.MAX_WAIT_MS
    world.register("u")
    node = others(world)[0]
    world.send(node, Receive("u", "g", day - 1))  # its deadline is the first one, and stands
    for offset in range(300):
        receipt, _, _ = received(receive(world, node, wait=day)[0])
        assert receipt.offset == offset, "NothingSkipped"
    ends = world.nodes[node].queues.receivers, world.nodes[owner(world)].queues.owner
    kept = len(ends[0]._pending.deadlines), len(ends[1]._alarms.waits)
    assert max(kept) <= SWEEP_AT, f"{kept} deadlines of 300 requests that were answered"


def test_what_a_seal_hands_on_is_bounded(monkeypatch: pytest.MonkeyPatch):
    world = loaded(4)
    monkeypatch.setattr(dispatch, "MAX_HANDED_ON", 3)
    take(world, 1, 2, "a")
    take(world, 1, 2, "b")
    done, handed = world.nodes[owner(world)].queues.freeze("t")
    assert done.keys() == handed.keys() == {"a", "b"}, "SealHandsOn"
    assert [len(handed[group]) for group in ("a", "b")] == [2, 1], "SealHandsOn"


@pytest.mark.parametrize(("offset", "deliveries", "near"), [(2, 1, False), (3, 1, True), (12, 1, True)])
def test_of_what_a_seal_hands_on_only_what_is_in_the_window_is_out(offset: int, deliveries: int, near: bool):
    topic = loaded(20).topic("t")
    done, handed = Acknowledged(low=Position(1, 3)), HandedOn(1, offset, deliveries)
    assert dispatch._is_near(topic, done, handed, 10) is near, "OutIsBounded: beyond the window, and out"
    assert not dispatch._is_near(topic, done, handed._replace(offset=13), 10), "OutIsBounded"
    assert not dispatch._is_near(topic, done, handed._replace(deliveries=0), 20), "OutIsBounded: never out"


def test_acknowledgements_that_wait_are_not_looked_at_again_for_each_that_comes(
    monkeypatch: pytest.MonkeyPatch,
):
    world, looks = loaded(60, ack_interval=60.0), [0]
    receipts = take(world, owner(world), 60)
    covers = Acknowledged.covers

    def count(self: Acknowledged, position: Position, count: int = 1) -> bool:
        looks[0] += 1
        return covers(self, position, count)

    monkeypatch.setattr(Acknowledged, "covers", count)
    slots = [world.send(owner(world), Ack("t", "g", (receipt,))) for receipt in receipts]
    world.until(lambda: all(world.replies[slot] == [b"OK"] for slot in slots))
    assert looks[0] < 15 * len(receipts), "a few for each, however many wait"
