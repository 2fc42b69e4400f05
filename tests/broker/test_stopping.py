"""An orderly stop leaves nothing behind that would have to be done again."""

from __future__ import annotations

import pytest

from tests.broker.world import NodeWorld, three
from walrus import protocol
from walrus.broker.stopping import PATIENCE, QUIET

OK = b"OK"


def stop(world: NodeWorld, *nodes: int) -> dict[int, float]:
    """SIGTERM to all of these at once; how long each takes, after which it is gone."""
    began, took = world.now, {}
    for node in nodes:
        world.nodes[node].stop(world.now)
    while len(took) < len(nodes):
        for node in set(nodes) - took.keys():
            if world.nodes[node].may_stop(world.now):
                took[node] = world.now - began
                world.kill(node)
        world.step()
    return took


def read(world: NodeWorld, node: int, count: int) -> list[bytes]:
    return [reply[3:] for reply in world.ask(node, protocol.Get("t", "", count))]


@pytest.mark.parametrize("client", [1, 2, 3])
@pytest.mark.parametrize("stopped", [(1, 2, 3), (3, 2, 1), (1,), (2,), (3,)])
def test_what_was_delivered_before_an_orderly_stop_does_not_come_again(client: int, stopped: tuple[int, ...]):
    world = three(cursor_interval=30.0)
    world.register("t")
    world.put(1, "t", *(str(number) for number in range(10)))
    assert read(world, client, 6) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    world.step()
    assert max(stop(world, *stopped).values()) < PATIENCE, "it had time enough"
    for node in stopped:
        world.start(node)
    world.until(lambda: all(node.ready for node in world.nodes.values()))
    assert read(world, client, 4) == [b"6", b"7", b"8", b"9"]


def test_stop_of_the_raft_leader_hands_over_first():
    world = three()
    assert world.raft_leader == 1
    stop(world, 1)
    assert any(node.raft.role.value == "Leader" for node in world.nodes.values()), "and no election timeout"


def test_stop_without_a_majority_is_not_kept_waiting():
    world = three()
    world.register("t")
    world.put(1, "t", "a", "b")
    read(world, 1, 1)
    world.isolate(world.topic("t").open.leader)
    took = stop(world, world.topic("t").open.leader)
    assert max(took.values()) <= PATIENCE + 0.1


def test_stop_at_rest_is_quick():
    world = three()
    world.run(1)
    assert max(stop(world, 2).values()) <= QUIET + 0.1
    alone = NodeWorld()
    alone.start(1, bootstrap=True)
    alone.until(lambda: alone.nodes[1].ready)
    assert stop(alone, 1)[1] <= 0.1
