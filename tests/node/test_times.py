"""Append times on real processes: the same on every node, through kills, and found again by SEEK."""

from __future__ import annotations

import time

import pytest

from tests.node.harness import Cluster, Launcher, wait_for
from walrus.protocol import split_fetched, split_time

pytestmark = pytest.mark.process


def told(cluster: Cluster, node: int) -> list[tuple[int, bytes]]:
    """Time and payload of each entry, as one node tells them."""
    found = []
    with cluster.wire(node) as wire:
        assert wire.ask(b"HELLO times=1") == b"OK times=1"
        for number in range(1, wire.json(b"STATE t")["current_segment"] + 1):
            offset = 0
            while (reply := wire.ask(b"FETCH t %d %d" % (number, offset))).startswith(b"OK "):
                offset, entry = split_fetched(reply[3:])
                found.append(split_time(entry))
    return found


def test_times_outlive_the_leader_and_a_restart_of_all_nodes(launch: Launcher) -> None:
    cluster = launch(nodes=3, env={"WALRUS_MAX_SEGMENT_ENTRIES": "3"})
    cluster.register("t")
    begun = time.time_ns() // 10**6
    with cluster.wire(1) as wire:
        assert [wire.ask(b"PUT t %d" % number) for number in range(4)] == [b"OK"] * 4
    before = told(cluster, 1)
    times = [ms for ms, _ in before]
    assert [payload for _, payload in before] == [b"0", b"1", b"2", b"3"]
    assert times == sorted(times), "TimesAscend"
    assert begun <= times[0] and times[-1] <= time.time_ns() // 10**6, "the time is the leader's clock"
    killed = cluster.segment_leader("t")
    cluster[killed].kill()
    other = killed % 3 + 1
    wait_for(lambda: told(cluster, other) == before, "TimesAgree: after a failover")
    for node in cluster:
        node.kill()
    cluster.start()
    cluster.wait_ready()
    for node in (1, 2, 3):
        wait_for(lambda node=node: told(cluster, node) == before, "TimesAgree: after a restart")
    with cluster.wire(other) as wire:
        # Refused until a replica of each segment is reached: right after a restart, "try again".
        wait_for(lambda: wire.ask(b"SEEK t g time=%d" % times[2]) == b"OK", "SEEK by time")
        segment, offset = divmod(times.index(times[2]), 3)
        assert wire.ask(b"FIND t time=%d" % times[2]) == b"OK %d %d" % (1 + segment, offset)
        first = next(payload for ms, payload in before if ms >= times[2])
        assert wire.ask(b"RECEIVE t g 10000").endswith(b" 1 " + first)
