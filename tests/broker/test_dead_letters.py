"""Dead letters: what was handed out too often is appended to a topic of its own first, and done afterwards.

Assertion messages that begin with a name say which invariant of `spec/Delivery.tla` they stand for.
"""

from __future__ import annotations

from tests.broker.test_queues import ack, loaded, others, owner, payloads, receive, received, take
from tests.broker.world import NodeWorld
from walrus import protocol
from walrus.broker.dead_letters import dead_letter_topic
from walrus.protocol import Configure, Nack, Seek
from walrus.wire import messages as m


def limited(deliveries: int = 2, count: int = 3) -> NodeWorld:
    world = loaded(count)
    assert world.ask(1, Configure("t", {"max_deliveries": deliveries})) == [b"OK"]
    return world


def give_back(world: NodeWorld, times: int) -> None:
    """Receive the first entry and give it back, so many times."""
    for number in range(times):
        (receipt,) = take(world, 1)
        assert receipt.delivery == number + 1
        assert world.ask(1, Nack("t", "g", receipt)) == [b"OK"]


def test_an_entry_that_comes_back_too_often_goes_to_the_dead_letters() -> None:
    world = limited()
    give_back(world, 2)
    assert payloads(world, 2) == [b"1", b"2"], "NothingSkipped"
    world.until(lambda: world.topic("t").dead == {"g": 1})
    assert world.get_all(3, "t.dead") == [b"0"], "NothingSkipped: a spent entry is nowhere"
    figures = world.metrics(owner(world))
    assert (figures["deliveries"], figures["redeliveries"], figures["dead_letters"]) == (4, 1, 1), (
        "EveryEntryAcked: not counted"
    )
    assert world.topic("t").groups["g"].low == (1, 3), "EveryEntryAcked: an entry that was given up is done"
    assert receive(world, 3) == [b"EMPTY"], "AckedNotRedelivered"


def test_what_was_a_dead_letter_before_a_seek_and_is_acknowledged_after_it_is_none() -> None:
    world = limited(1, count=1)
    give_back(world, 1)
    assert payloads(world, 2) == [], "EveryEntryAcked: handed out more often than the topic allows"
    world.until(lambda: world.topic("t").dead == {"g": 1})
    assert world.ask(1, Seek("t", "g", "begin")) == [b"OK"]
    (receipt,) = take(world, 1)
    ack(world, 1, receipt)
    assert world.topic("t").dead == {"g": 1}, "EveryEntryAcked: what was acknowledged counts as a dead letter"


def test_without_a_limit_it_comes_for_ever() -> None:
    world = loaded(1)
    give_back(world, 9)
    assert "t.dead" not in world.nodes[1].metadata.topics, "EveryEntryAcked: a dead letter without a limit"


def test_several_are_given_up_and_the_rest_is_handed_out_at_once() -> None:
    world = limited(1, count=6)
    receipts = take(world, 1, 3)
    for receipt in receipts:
        world.ask(1, Nack("t", "g", receipt))
    found = [received(reply)[2] for reply in receive(world, 2, 3)]
    assert found == [b"3", b"4", b"5"], "NothingSkipped"
    world.until(lambda: world.topic("t").dead == {"g": 3})
    assert sorted(world.get_all(3, "t.dead")) == [b"0", b"1", b"2"], (
        "NothingSkipped: a spent entry is nowhere"
    )


def test_one_that_is_spent_is_not_handed_out_in_a_run_with_others() -> None:
    world = limited(2)
    first, second = take(world, 1, 2)
    assert world.ask(1, Nack("t", "g", second)) == [b"OK"]
    (second,) = [one for one in take(world, 1) if one.offset == 1]
    for receipt in (first, second):
        assert world.ask(1, Nack("t", "g", receipt)) == [b"OK"]
    found = [received(reply)[1:] for reply in receive(world, 1, 3) if reply != b"EMPTY"]
    assert found == [(2, b"0"), (1, b"2")], "EveryEntryAcked: handed out more often than the topic allows"
    world.until(lambda: world.topic("t").dead == {"g": 1})
    assert world.get_all(2, "t.dead") == [b"1"], "NothingSkipped: a spent entry is nowhere"


def test_it_is_not_done_before_it_is_in_the_dead_letter_topic() -> None:
    world = limited()
    world.lose = lambda sender, to, message: isinstance(message, m.Append) and message.topic == "t.dead"
    give_back(world, 2)
    assert received(receive(world, 1)[0])[2] == b"1", "NothingSkipped"
    world.run(6.0)
    assert world.topic("t").groups == {}, "NothingSkipped: done, and in no topic"
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.topic("t").dead == {"g": 1})
    found = world.get_all(2, "t.dead")
    assert set(found) == {b"0"}, "NothingSkipped"


def test_an_owner_that_dies_in_between_loses_none() -> None:
    world = limited()
    give_back(world, 2)
    world.lose = lambda sender, to, message: (
        isinstance(message, m.Propose) or (isinstance(message, m.AppendReply) and message.topic == "t.dead")
    )
    old, other = owner(world), others(world)[0]
    world.send(other, protocol.Receive("t", "g"))
    world.run(0.5)
    world.kill(old)
    world.lose = lambda sender, to, message: False
    world.until(lambda: world.topic("t").open.leader != old)
    while True:  # the next owner begins to count anew
        (reply,) = receive(world, other, wait=4_000)
        if reply == b"EMPTY":
            break
        receipt, _, payload = received(reply)
        if payload == b"0":
            world.ask(other, Nack("t", "g", receipt))
        else:
            ack(world, other, receipt)
    world.until(lambda: world.topic("t").groups["g"].low >= (1, 3))
    assert b"0" in world.get_all(other, "t.dead"), "NothingSkipped"


def test_a_dead_letter_topic_has_none_of_its_own() -> None:
    assert dead_letter_topic("t.dead") is None
    assert dead_letter_topic("n" * 250) == "n" * 250 + ".dead"
    assert dead_letter_topic("n" * 251) is None
