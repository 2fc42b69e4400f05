"""Real processes, killed, frozen, cut off and restarted, while clients write: nothing acknowledged is lost.

The numbers in brackets are those of the schedules that broke other logs. Each test ends with the same oracle:
every entry that was acknowledged is there, once, in its producer's order, on every node.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.harness import BRISK, CALM, Cluster, Launcher, wait_for
from tests.node.history import OK, UNKNOWN, Producer, check, outcome, read_all, read_back

pytestmark = pytest.mark.process

SMALL = {"WALRUS_MAX_SEGMENT_ENTRIES": "100"}


def wait_sealed(cluster: Cluster, segment: int, node_id: int) -> dict[str, Any]:
    """STATE of topic `t`, once it counts this segment as sealed."""

    def sealed() -> dict[str, Any] | None:
        state = cluster.state("t", node_id)
        return state if str(segment) in state["sealed_segments"] else None

    try:
        return wait_for(sealed, f"segment {segment} to be sealed")
    except AssertionError as late:
        raise AssertionError(f"{late}\n{cluster.logs()}") from None


def others(cluster: Cluster, node_id: int) -> list[int]:
    """All nodes but one."""
    return [other for other in cluster.nodes if other != node_id]


def test_each_node_in_turn_is_killed_under_load(launch: Launcher) -> None:
    cluster = launch(env=SMALL)
    cluster.register("t")
    with Producer(cluster, "t", "a", [1, 2, 3]) as first, Producer(cluster, "t", "b", [3, 2, 1]) as second:
        for victim in (1, 2, 3):
            first.wait_for_more(150)
            cluster[victim].kill()
            first.wait_for_more(50)
            second.wait_for_more(50)
            cluster[victim].start()
            cluster.wait_ready()
    check(read_back(cluster, "t"), [first, second])


@pytest.mark.parametrize("fsync", ["each", "none"])
def test_all_nodes_are_killed_at_once_under_load(launch: Launcher, fsync: str) -> None:
    cluster = launch(env=SMALL, flags=[*CALM, "--fsync", fsync])
    cluster.register("t")
    with Producer(cluster, "t", "a", [1, 2, 3]) as first, Producer(cluster, "t", "b", [2, 3, 1]) as second:
        for _ in range(2):
            first.wait_for_more(200)
            second.wait_for_more(50)
            for node in cluster:
                node.kill()
            cluster.start()
        first.wait_for_more(100)
    check(read_back(cluster, "t"), [first, second])


@pytest.mark.parametrize("also_raft_leader", [False, True])
def test_the_segment_leader_dies_and_another_node_goes_on(launch: Launcher, also_raft_leader: bool) -> None:
    cluster = launch()
    raft_leader = cluster.raft_leader()
    topic = next(
        name
        for name in (f"t{number}" for number in range(100))
        if cluster.register(name) or (cluster.segment_leader(name) == raft_leader) is also_raft_leader
    )
    victim = cluster.segment_leader(topic)
    with Producer(cluster, topic, "p", others(cluster, victim)) as producer:
        producer.wait_for_more(100)
        cluster[victim].kill()
        producer.wait_for_more(100)
    survivor = others(cluster, victim)[0]
    state = cluster.state(topic, survivor)
    assert state["leader_node"] != victim and "1" in state["sealed_segments"]
    check(read_back(cluster, topic), [producer])
    assert cluster[survivor].metrics()["failovers"] == 1


def test_a_leader_killed_and_restarted_at_once_never_resumes_its_segment(cluster: Cluster) -> None:  # (6)
    cluster.register("t")
    leader = cluster.segment_leader("t")
    with Producer(cluster, "t", "p", others(cluster, leader)) as producer:
        for _ in range(3):
            producer.wait_for_more(50)
            survivor = others(cluster, leader)[0]
            before = cluster.state("t", survivor)["current_segment"]
            cluster[leader].kill()
            cluster[leader].start()
            wait_sealed(cluster, before, survivor)
            producer.wait_for_more(50)
            cluster.wait_ready()
            leader = cluster.segment_leader("t", survivor)  # the other may lag and name the last one
    check(read_back(cluster, "t"), [producer])


def test_a_leader_that_was_frozen_acknowledges_nothing_past_the_seal(launch: Launcher) -> None:  # (5)
    cluster = launch(flags=BRISK)
    cluster.register("t")
    leader = cluster.segment_leader("t")
    rest = others(cluster, leader)
    with (
        Producer(cluster, "t", "old", [leader], window=50) as old,
        Producer(cluster, "t", "new", rest) as new,
    ):
        old.wait_for_more(200)
        new.wait_for_more(50)
        for _ in range(2):
            frozen = cluster.segment_leader("t", rest[0])
            current = cluster.state("t", rest[0])["current_segment"]
            if frozen != leader:
                break
            cluster[leader].pause()
            wait_sealed(cluster, current, rest[0])
            new.wait_for_more(300)
            cluster[leader].resume()
        old.wait_for_more(100)
    check(read_back(cluster, "t"), [old, new])


def test_a_leader_cut_off_from_its_peers_but_not_from_its_clients(launch: Launcher) -> None:  # (4)
    cluster = launch(proxied=True, flags=BRISK)
    cluster.register("t")
    leader = cluster.segment_leader("t")
    rest = others(cluster, leader)
    assert cluster.proxy is not None
    with (
        Producer(cluster, "t", "minority", [leader]) as minority,
        Producer(cluster, "t", "majority", rest) as majority,
    ):
        minority.wait_for_more(50)
        majority.wait_for_more(50)
        first = cluster.state("t", rest[0])["current_segment"]
        cluster.proxy.isolate(leader, rest)
        state = wait_sealed(cluster, first, rest[0])
        majority.wait_for_more(100)
        before = minority.acknowledged
        majority.wait_for_more(200)
        assert minority.acknowledged == before, "the minority side acknowledged something"
        cluster.proxy.heal()
        minority.wait_for_more(50)
        majority.wait_for_more(50)
    cluster.wait_ready()
    assert state["leader_node"] != leader
    entries = read_back(cluster, "t")
    assert sum(entry.segment == first for entry in entries) == state["sealed_segments"][str(first)]
    check(entries, [minority, majority])


def test_one_way_cuts_between_all_pairs_heal(launch: Launcher) -> None:
    cluster = launch(proxied=True, flags=BRISK)
    cluster.register("t")
    assert cluster.proxy is not None
    with Producer(cluster, "t", "a", [1, 2, 3]) as first, Producer(cluster, "t", "b", [3, 1, 2]) as second:
        for source, target in ((1, 2), (3, 1), (2, 3)):
            first.wait_for_more(50)
            cluster.proxy.cut(source, target)
            second.wait_for_more(20)
            cluster.proxy.heal()
    check(read_back(cluster, "t"), [first, second])


def test_one_replica_that_never_answers_does_not_hold_up_the_seal(launch: Launcher) -> None:  # (10)
    cluster = launch(flags=BRISK)
    cluster.register("t")
    leader = cluster.segment_leader("t")
    raft_leader = cluster.raft_leader()
    silent = next(node_id for node_id in (1, 2, 3) if node_id not in (leader, raft_leader))
    third = next(node_id for node_id in (1, 2, 3) if node_id not in (leader, silent))
    with Producer(cluster, "t", "p", [third]) as producer:
        producer.wait_for_more(50)
        cluster[silent].pause()
        producer.wait_for_more(50)
        cluster[leader].kill()
        cluster[leader].start()
        wait_sealed(cluster, 1, third)
        producer.wait_for_more(50)
        cluster[silent].resume()
        cluster.wait_ready()
    check(read_back(cluster, "t"), [producer])


def test_without_a_majority_nothing_is_acknowledged_and_it_resumes_by_itself(
    launch: Launcher,
) -> None:  # (11)
    cluster = launch(flags=BRISK)
    cluster.register("t")
    with cluster.wire(1) as wire:
        assert wire.ask(b"PUT t before") == b"OK"
    cluster[2].kill()
    cluster[3].kill()
    with cluster.wire(1) as wire:
        reply = wire.ask(b"PUT t alone")
        assert reply.startswith(b"ERR "), reply
        register = wire.ask(b"REGISTER other")
        assert register.startswith(b"ERR no leader"), register
    cluster[2].start()
    cluster.wait_ready(1, 2)
    with cluster.wire(2) as wire:
        wait_for(lambda: wire.ask(b"PUT t after") == b"OK", "writes to resume")
    cluster[3].start()
    cluster.wait_ready()
    payloads = [entry.payload for entry in read_back(cluster, "t")]
    assert payloads[0] == b"before" and b"after" in payloads
    if outcome(reply) != UNKNOWN:
        assert b"alone" not in payloads


def test_a_reader_goes_on_across_rollover_failover_and_another_node(launch: Launcher) -> None:  # (31)
    cluster = launch(env=SMALL)
    cluster.register("t")
    seen: list[bytes] = []

    def read_on(node_id: int, count: int) -> None:
        goal = len(seen) + count
        with cluster.wire(node_id) as wire:

            def one() -> bool:
                reply = wire.ask(b"GET t")
                if reply.startswith(b"OK "):
                    seen.append(reply[3:])
                return len(seen) >= goal

            wait_for(one, f"{count} more entries to be read")

    with Producer(cluster, "t", "p", [1, 2, 3]) as producer:
        producer.wait_for_more(250)
        read_on(1, 120)
        victim = cluster.segment_leader("t")
        cluster[victim].kill()
        survivors = others(cluster, victim)
        producer.wait_for_more(150)
        read_on(survivors[0], 100)
        cluster[victim].start()
        cluster.wait_ready()
        read_on(victim, 100)
    order = [entry.payload for entry in read_all(cluster, "t", 1)]
    places = [order.index(payload) for payload in seen]
    highest = -1
    for place in places:
        assert place <= highest + 1, f"skipped from {highest} to {place}"
        highest = max(highest, place)
    check(read_back(cluster, "t"), [producer])


def test_a_node_that_was_away_catches_up_and_agrees_with_the_others(launch: Launcher) -> None:  # (39)
    cluster = launch(env=SMALL)
    cluster.register("t")
    with Producer(cluster, "t", "p", [1, 2]) as producer:
        producer.wait_for_more(50)
        cluster[3].kill()
        producer.wait_for_more(500)
        cluster[3].start()
        cluster.wait_ready()

    def digests() -> bool:
        metrics = [node.metrics() for node in cluster]
        applied = {m["last_applied"]["index"] for m in metrics}
        return len(applied) == 1 and len({m["metadata_digest"] for m in metrics}) == 1

    wait_for(digests, "all nodes to have the same metadata")
    check(read_back(cluster, "t"), [producer])
    assert {attempt.outcome for attempt in producer.attempts} <= {OK, UNKNOWN}
