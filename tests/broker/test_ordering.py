"""The order of one connection's requests: what may be under way together, and what a cluster then answers."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.world import NodeWorld, batch, three
from walrus.broker.ordering import EVERYTHING, Lane, RequestOrder, lane_of
from walrus.protocol import (
    Ack,
    Extend,
    Fetch,
    Get,
    Greeting,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receipt,
    Receive,
    Recover,
    Register,
    Request,
    Seek,
    State,
    errors,
)

TOPICAL: list[Request] = [
    request
    for topic in ("a", "b")
    for request in (
        Register(topic),
        Put(topic, batch("x")),
        Get(topic),
        Get(topic, "g"),
        Fetch(topic, 1, 0),
        Receive(topic, "g", 1_000),
        Ack(topic, "g", (Receipt(1, 0, 0, 1),)),
        Nack(topic, "g", Receipt(1, 0, 0, 1)),
        Extend(topic, "g", Receipt(1, 0, 0, 1), 5),
        Seek(topic, "g", "end"),
        State(topic),
        Recover(topic, 1),
    )
]


def kind_of(request: Request) -> type[Request]:
    """What an ACK must not wait for is of its kind."""
    return Receive if isinstance(request, Ack | Nack | Extend) else type(request)


REQUESTS: list[Request] = [*TOPICAL, Leave(3), Metrics(), Greeting(), Invalid(errors.UNKNOWN_COMMAND)]


@pytest.mark.parametrize("earlier", TOPICAL, ids=repr)
@pytest.mark.parametrize("later", TOPICAL, ids=repr)
def test_two_requests_are_under_way_together_if_of_one_kind_or_of_two_topics(
    earlier: Request, later: Request
) -> None:
    order = RequestOrder()
    order.started(earlier)
    together = kind_of(earlier) is kind_of(later) or lane_of(earlier) != lane_of(later)
    assert order.admits(later) == together, (
        "ProducerOrder: requests of another kind are in progress together, or of one kind are not"
    )


@pytest.mark.parametrize("alone", [Leave(3), Metrics()], ids=repr)
@pytest.mark.parametrize("other", [*TOPICAL, Leave(2), Metrics()], ids=repr)
def test_what_concerns_the_cluster_is_under_way_alone(alone: Request, other: Request) -> None:
    for first, second in ((alone, other), (other, alone)):
        order = RequestOrder()
        lane = order.started(first)
        assert not order.admits(second), "ProducerOrder: a request overtakes the one before it"
        order.answered(lane)
        assert order.admits(second), "ProducerOrder: a request waits for what is answered"


def test_what_is_no_request_waits_for_nothing() -> None:
    order = RequestOrder()
    order.started(Leave(3))
    assert order.admits(Invalid(errors.UNKNOWN_COMMAND)), "ProducerOrder: an invalid request waits for others"
    order.answered(order.started(Invalid(errors.UNKNOWN_COMMAND)))
    assert not order.admits(Metrics()), "ProducerOrder: the LEAVE is still under way"


@given(st.lists(st.sampled_from(REQUESTS), max_size=40), st.data())
def test_nothing_overtakes_and_nothing_is_stuck(requests: list[Request], data: st.DataObject) -> None:
    order, queue = RequestOrder(), deque(requests)
    under_way: list[tuple[Request, Lane]] = []
    while queue or under_way:
        while queue and order.admits(queue[0]):
            request = queue.popleft()
            under_way.append((request, order.started(request)))
        lanes: dict[str, set[type]] = {}
        for request, lane in under_way:
            if lane is not None:
                lanes.setdefault(lane, set()).add(kind_of(request))
        assert all(len(kinds) == 1 for kinds in lanes.values()), (
            "SeqOrder: what is under way for one topic is of one kind"
        )
        assert EVERYTHING not in lanes or len(lanes) == 1, (
            "SeqOrder: nothing is under way beside LEAVE or METRICS"
        )
        assert under_way, "SeqOrder: the first in line may always start when nothing is under way"
        order.answered(under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))[1])


class Connection:
    """One client's connection to a node of the world: requests in their order, as the shell starts them."""

    def __init__(self, world: NodeWorld, node: int) -> None:
        self.world, self.node = world, node

    def send(self, *requests: Request) -> list[bytes]:
        """All in one go; all their replies, in order."""
        order, queue, slots = RequestOrder(), deque(requests), []
        running: list[tuple[str, Request, Lane]] = []

        def done() -> bool:
            for entry in list(running):
                slot, request, lane = entry
                if len(self.world.replies[slot]) == request.replies:
                    running.remove(entry)
                    order.answered(lane)
            while queue and order.admits(queue[0]):
                request = queue.popleft()
                slots.append(self.world.send(self.node, request))
                running.append((slots[-1], request, order.started(request)))
            return not running and not queue

        self.world.until(done)
        return [reply for slot in slots for reply in self.world.replies[slot]]


@pytest.mark.parametrize("node", [1, 2, 3])
def test_what_follows_a_register_finds_the_topic(node: int) -> None:
    client = Connection(three(), node)
    replies = client.send(
        Register("t"), Put("t", batch("one", "two")), Get("t", "", 2), Fetch("t", 1, 0, 2), Get("t", "g")
    )
    assert replies == [b"OK", b"OK", b"OK", b"OK one", b"OK two", b"OK 1 one", b"OK 2 two", b"OK one"], (
        "ProducerOrder, ReadConsistency: requests of a connection overtake each other"
    )


@pytest.mark.parametrize("node", [1, 2, 3])
def test_a_read_sees_the_puts_before_it_and_none_behind_it(node: int) -> None:
    client = Connection(three(), node)
    replies = client.send(
        Register("t"), Get("t"), Put("t", batch("one")), Get("t"), Get("t"), Put("t", batch("two"))
    )
    assert replies == [b"OK", b"EMPTY", b"OK", b"OK one", b"EMPTY", b"OK"], (
        "ProducerOrder, ReadConsistency: requests of a connection overtake each other"
    )


def test_a_read_sees_the_puts_before_it_across_rollovers_and_a_failover() -> None:
    world = three(max_segment_entries=3)
    world.register("t")
    client = Connection(world, 1)
    expected: list[bytes] = []
    for number in range(12):
        payload = b"%d" % number
        assert client.send(Put("t", batch(payload)), Get("t")) == [b"OK", b"OK " + payload], (
            "ReadConsistency: a GET overtakes the PUT before it"
        )
        expected.append(payload)
    leader = world.topic("t").open.leader
    survivor = next(node for node in (1, 2, 3) if node != leader)
    world.kill(leader)
    client = Connection(world, survivor)
    assert client.send(Put("t", batch("after")), Get("t", "fresh", 20))[1:14] == [
        b"OK " + payload for payload in [*expected, b"after"]
    ]
