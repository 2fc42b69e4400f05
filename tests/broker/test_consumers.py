"""GET and FETCH at the node that has the client."""

from __future__ import annotations

import pytest

from tests.broker.world import NodeWorld, batch, three
from walrus import protocol
from walrus.broker import consumers
from walrus.segments import Position
from walrus.wire import messages as m


def loaded(count: int = 6, **settings: object) -> NodeWorld:
    world = three(**settings)
    world.register("t")
    assert world.put(1, "t", *(f"{n}" for n in range(count))) == [b"OK"] * count
    world.run(0.3)
    return world


def followers(world: NodeWorld) -> list[int]:
    return [node for node in world.nodes if node != world.topic("t").open.leader]


def test_clients_of_one_node_share_the_entries_in_the_order_they_asked():
    world = loaded(4)
    node = followers(world)[0]
    slots = [world.send(node, protocol.Get("t", "", count)) for count in (1, 2, 3)]
    world.until(lambda: [len(world.replies[s]) for s in slots] == [1, 2, 3])
    assert [world.replies[s] for s in slots] == [
        [b"OK 0"],
        [b"OK 1", b"OK 2"],
        [b"OK 3", b"EMPTY", b"EMPTY"],
    ], "DeliveredIsPrefix: clients do not share the entries in the order in which they asked"


def test_client_that_is_gone_loses_nobody_an_entry():
    world = loaded(3)
    node = followers(world)[0]
    gone = world.send(node, protocol.Get("t", "", 2))
    world.closed.add(gone)
    world.run(0.5)
    assert world.get_all(node, "t") == [b"0", b"1", b"2"], "DeliveredIsPrefix"


def test_answer_that_is_lost_is_asked_for_again_until_the_deadline():
    world = loaded(2)
    node = followers(world)[0]
    world.lose = lambda sender, to, message: isinstance(message, m.GetReply)
    slot = world.send(node, protocol.Get("t"))
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot][0].startswith(b"ERR no leader: the node that has the cursor did not answer"), (
        "ReadProgress: a client does not hear that the cursor's node is silent"
    )
    world.lose = lambda sender, to, message: False
    assert world.get_all(node, "t") == [b"0", b"1"], "DeliveredIsPrefix"


def test_lost_confirmation_is_a_redelivery_and_no_gap():
    world = loaded(3)
    node = followers(world)[0]
    world.lose = lambda sender, to, message: isinstance(message, m.Confirm)
    assert world.ask(node, protocol.Get("t")) == [b"OK 0"], (
        "NothingSkipped: an entry whose delivery is not confirmed is skipped"
    )
    world.lose = lambda sender, to, message: False
    assert world.get_all(node, "t") == [b"0", b"1", b"2"], (
        "DeliveredIsPrefix: what reached no client comes again"
    )


def test_get_follows_a_failover():
    world = loaded(3)
    node = followers(world)[0]
    world.ask(node, protocol.Get("t"))
    world.run(0.5)
    world.kill(world.topic("t").open.leader)
    slot = world.send(node, protocol.Get("t"))
    world.until(lambda: bool(world.replies[slot]))
    assert world.replies[slot] == [b"OK 1"], "DeliveredIsPrefix"


def test_late_answer_reaches_no_client():
    world = loaded(1)
    node = followers(world)[0]
    late = m.GetReply(request=12345, batch=batch("x"), moved=False, error="")
    world.nodes[node].on_message(world.topic("t").open.leader, late, world.now)
    world.run(0.2)
    assert all(replies == [b"OK"] * len(replies) for replies in world.replies.values()), (
        "DeliveredIsPrefix: a late answer reaches a client"
    )


def test_a_run_of_which_nobody_wants_the_rest_is_not_confirmed():
    world = loaded(3)
    node, leader = followers(world)[0], world.topic("t").open.leader
    confirmed: list[bool] = []
    world.watch = lambda sender, to, message: (
        confirmed.append(message.delivered) if isinstance(message, m.Confirm) else None
    )
    world.lose = lambda sender, to, message: isinstance(message, m.GetReply)
    slot = world.send(node, protocol.Get("t"))
    world.step()
    asked = world.nodes[node].consumers._groups["t", ""].request
    longer = m.GetReply(request=asked, batch=batch("0", "1"), moved=False, error="")
    world.nodes[node].on_message(leader, longer, world.now)
    world.step()
    assert world.replies[slot] == [b"OK 0"], "DeliveredIsPrefix"
    assert confirmed == [False], "DeliveredIsPrefix: the second entry reached no client"


def held_back(world: NodeWorld, *gets: protocol.Get) -> tuple[int, list[object]]:
    """GETs at a node: the first is asked for at once, and all answers are lost; the others come meanwhile."""
    node = followers(world)[0]
    world.lose = lambda sender, to, message: isinstance(message, m.GetReply)
    slots = [world.send(node, get) for get in gets]
    world.step()
    return node, slots


def no_entries(world: NodeWorld, node: int) -> None:
    """The node's question is answered: there were no entries."""
    asked = world.nodes[node].consumers._groups["t", ""].request
    nothing = m.GetReply(request=asked, batch=batch(), moved=False, error="", end=Position(1, 0))
    world.nodes[node].on_message(world.topic("t").open.leader, nothing, world.now)


def test_a_get_that_came_after_the_question_is_not_answered_by_it_also_behind_one_that_waits():
    world = loaded(0)
    first, later = protocol.Get("t", "", 1, wait_ms=5_000), protocol.Get("t")
    node, (_, slot) = held_back(world, first, later)
    no_entries(world, node)
    world.step()
    assert world.replies[slot] == [], "ReadProgress: EMPTY, by an answer to an earlier question"
    assert world.nodes[node].consumers._groups["t", ""].leader, "ReadProgress: it is not asked for in turn"


def test_no_more_gets_are_answered_than_were_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(consumers, "MAX_GET", 2)
    world = loaded(0)
    node, (slot,) = held_back(world, protocol.Get("t", "", 3))
    no_entries(world, node)
    world.step()
    assert world.replies[slot] == [b"EMPTY"] * 2, "ReadProgress: EMPTY to a GET that was never asked for"


def test_a_get_is_asked_again_when_the_connection_to_the_leader_was_lost():
    world = loaded(1)
    node, leader = followers(world)[0], world.topic("t").open.leader
    world.lose = lambda sender, to, message: isinstance(message, m.GetReply)
    slot = world.send(node, protocol.Get("t"))
    world.step()
    world.lose = lambda sender, to, message: False
    world.nodes[node].on_disconnected(leader, False, world.now)
    world.until(lambda: bool(world.replies[slot]), within=1.0)
    assert world.replies[slot] == [b"OK 0"], "DeliveredIsPrefix"


# --- FETCH ---


def test_open_segment_is_fetched_through_any_node_up_to_what_is_acknowledged():
    world = loaded(2)
    for node in (1, 2, 3):
        assert world.ask(node, protocol.Fetch("t", 1, 0, 3)) == [b"OK 1 0", b"OK 2 1", b"EMPTY"], (
            "DeliveredIsPrefix"
        )


def test_sealed_segment_is_served_by_its_replicas_without_anybody_else():
    world = loaded(6, max_segment_entries=3)
    world.until(lambda: world.topic("t").current == 3)
    world.run(0.2)
    for node in world.nodes:
        world.isolate(node)
    for node in world.nodes:
        expected = [b"OK 1 0", b"OK 2 1", b"OK 3 2", b"EMPTY"]
        assert world.ask(node, protocol.Fetch("t", 1, 0, 4), within=1.0) == expected, "DeliveredIsPrefix"


def test_sealed_segment_that_is_not_here_is_fetched_from_a_replica_that_answers():
    world = loaded(6, max_segment_entries=3)
    world.join(4)
    world.kill(world.topic("t").segments[0].replicas[0])
    assert world.ask(4, protocol.Fetch("t", 1, 1, 2)) == [b"OK 2 1", b"OK 3 2"], "DeliveredIsPrefix"


def test_fetch_beyond_the_end_is_empty_and_of_no_segment_an_error():
    world = loaded(1)
    assert world.ask(2, protocol.Fetch("t", 1, 7, 2)) == [b"EMPTY", b"EMPTY"], (
        "DeliveredIsPrefix: beyond the end there is something"
    )
    assert world.ask(2, protocol.Fetch("t", 9, 0))[0].startswith(b"ERR unknown segment"), (
        "DeliveredIsPrefix: a segment that never was"
    )


def test_long_run_of_fetches_of_large_entries_does_not_recurse_without_end():
    world = three(read_bytes=1)
    world.register("t")
    count = 1500
    assert world.put(1, "t", *(["x"] * count)) == [b"OK"] * count
    leader = world.topic("t").open.leader
    assert len(world.ask(leader, protocol.Fetch("t", 1, 0, count))) == count, (
        "ReadProgress: a long run is not answered"
    )
