"""What a user of a healthy cluster sees, against real processes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.node.harness import BRISK, CALM, PATIENCE, Closed, Cluster, Launcher, Wire, wait_for
from tests.node.history import OK, Producer, check, read_all, read_back
from walrus.protocol import PeerCodec
from walrus.wire.messages import Join, PeerMessage

pytestmark = pytest.mark.process

PENDING_TIMEOUT = 3.6
"""Seconds after which a writer gives a PUT up that it cannot append: nine tenths of `put_timeout`."""


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster of three for all tests that only ask it something, each about topics of its own."""
    launcher = Launcher(tmp_path_factory.mktemp("unharmed"))
    try:
        yield launcher()
    finally:
        launcher.close()


def put_all(wire: Wire, topic: str, payloads: list[bytes]) -> None:
    """Pipelined, all acknowledged."""
    wire.send(*[b"PUT %b %b" % (topic.encode(), payload) for payload in payloads])
    replies = [wire.receive() for _ in payloads]
    assert replies == [b"OK"] * len(payloads), replies


def test_a_hundred_clients_register_a_hundred_topics_at_once(unharmed: Cluster) -> None:
    def one(number: int) -> tuple[bytes, bytes]:
        topic = b"topic-%d" % number
        with unharmed.wire(number % 3 + 1) as wire:
            registered = wire.ask(b"REGISTER " + topic)
        with unharmed.wire((number + 1) % 3 + 1) as wire:  # another node must know it at once
            return registered, wire.ask(b"PUT " + topic + b" x")

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(one, range(100))) == {(b"OK", b"OK")}
    leaders = {unharmed.segment_leader(f"topic-{number}") for number in range(100)}
    assert leaders == {1, 2, 3}, "the first leaders are spread over the nodes"


def test_small_segments_are_counted_exactly_led_by_all_and_come_back_in_order(launch: Launcher) -> None:
    cluster = launch(env={"WALRUS_MAX_SEGMENT_ENTRIES": "10"})
    cluster.register("t")
    payloads = [b"entry %d" % number for number in range(60)]
    with cluster.wire(2) as wire:
        for payload in payloads:
            assert wire.ask(b"PUT t " + payload) == b"OK"
    state = wait_for(
        lambda: (s := cluster.state("t", 3)) and len(s["sealed_segments"]) >= 6 and s, "six sealed segments"
    )
    assert set(state["sealed_segments"].values()) == {10}
    assert state["last_sealed_entry_offset"] == sum(state["sealed_segments"].values())
    assert set(state["segment_leaders"].values()) == {1, 2, 3}
    for node_id in (1, 2, 3):
        assert [entry.payload for entry in read_all(cluster, "t", node_id)] == payloads
    with cluster.wire(1) as wire:
        assert [wire.ask(b"GET t") for _ in payloads] == [b"OK " + payload for payload in payloads]
        assert wire.ask(b"GET t") == b"EMPTY"


def test_a_rollover_under_a_hundred_pipelined_puts_neither_loses_nor_repeats(launch: Launcher) -> None:
    cluster = launch(env={"WALRUS_MAX_SEGMENT_ENTRIES": "37"})
    cluster.register("t")
    with (
        Producer(cluster, "t", "a", [1], window=100) as first,
        Producer(cluster, "t", "b", [2], window=100) as second,
        Producer(cluster, "t", "c", [3], window=100) as third,
    ):
        producers = [first, second, third]
        for producer in producers:
            producer.wait_for_more(500)
    entries = read_back(cluster, "t")
    check(entries, producers)
    # On a starved machine a leader may be deposed, or a PUT may wait until its time is over. Nothing else
    # excuses an answer that is not OK: a rollover hands back what it does not write.
    deposed = any(node.metrics()["failovers"] for node in cluster)
    if not deposed and all(producer.slowest < PENDING_TIMEOUT for producer in producers):
        answers = {attempt.reply for producer in producers for attempt in producer.attempts}
        assert answers == {b"OK"}, "RolloverProgress: a PUT fails although its leader was not deposed"


def test_what_a_connection_pipelines_takes_effect_in_its_order_through_every_node(unharmed: Cluster) -> None:
    for node in (1, 2, 3):
        with unharmed.wire(node) as wire:
            for number in range(5):
                topic = b"t-%d-%d" % (node, number)
                wire.send(b"REGISTER " + topic, b"GET " + topic, b"PUT %b one" % topic, b"PUT %b two" % topic)
                wire.send(b"GET " + topic, b"FETCH %b 1 1" % topic, b"PUT %b three" % topic, b"GET " + topic)
                replies = [wire.receive() for _ in range(8)]
                assert replies == [b"OK", b"EMPTY", b"OK", b"OK", b"OK one", b"OK 2 two", b"OK", b"OK two"]


def test_the_shared_cursor_is_one_for_the_whole_cluster_and_groups_have_their_own(unharmed: Cluster) -> None:
    unharmed.register("shared")
    payloads = [b"%d" % number for number in range(30)]
    with unharmed.wire(1) as wire:
        put_all(wire, "shared", payloads)
    wires = [unharmed.wire(node_id) for node_id in (1, 2, 3)]
    got = [wires[turn % 3].ask(b"GET shared") for turn in range(30)]
    assert got == [b"OK " + payload for payload in payloads]
    assert [wire.ask(b"GET shared") for wire in wires] == [b"EMPTY"] * 3
    assert wires[1].ask(b"GET shared billing") == b"OK 0"
    for wire in wires:
        wire.close()


def test_a_cluster_restarted_from_disk_continues_its_cursors(cluster: Cluster) -> None:
    cluster.register("t")
    with cluster.wire(2) as wire:
        put_all(wire, "t", [b"%d" % number for number in range(20)])
        assert [wire.ask(b"GET t") for _ in range(7)] == [b"OK %d" % number for number in range(7)]
    wait_for(
        lambda: cluster.state("t")["cursors"].get("", {}).get("offset") == 7, "the cursor to be committed"
    )
    assert cluster.stop() == [0, 0, 0]
    cluster.start()
    with cluster.wire(3) as wire:
        assert [wire.ask(b"GET t") for _ in range(13)] == [b"OK %d" % number for number in range(7, 20)]
        assert wire.ask(b"GET t") == b"EMPTY"
        assert wire.ask(b"PUT t more") == b"OK"
        assert wire.ask(b"GET t") == b"OK more"


def test_a_cluster_whose_members_all_have_new_addresses_is_found_through_one_of_them(
    launch: Launcher,
) -> None:
    """Containers, DHCP, a move: only where node 1 lives now is told to the others, with --join."""
    cluster = launch()
    cluster.register("t")
    with cluster.wire(2) as wire:
        put_all(wire, "t", [b"%d" % number for number in range(100)])
    assert cluster.stop() == [0, 0, 0]
    cluster.move()
    cluster.start()
    with cluster.wire(3) as wire:
        assert wire.ask(b"PUT t after") == b"OK"
    assert [entry.payload for entry in read_all(cluster, "t", 2)] == [b"%d" % n for n in range(100)] + [
        b"after"
    ]
    for node in cluster:
        assert node.metrics()["current_leader"] is not None
    assert "refuses this node" not in cluster.logs()


def test_a_member_that_finds_nobody_says_what_it_tries_and_what_to_do(launch: Launcher) -> None:
    cluster = launch()
    old = dict(cluster.raft_ports)
    cluster.stop()
    cluster.move()
    cluster[2].start()
    wait_for(lambda: "not ready yet" in cluster[2].log(), "it to say so")
    line = next(line for line in cluster[2].log().splitlines() if "not ready yet" in line)
    assert f"node 3 at {cluster.raft_host(3)}:{old[3]}" in line
    assert f"--join {cluster.raft_host(1)}:{cluster.raft_ports[1]}" in line
    assert "restart with --join HOST:PORT" in line


def test_sigterm_answers_what_was_accepted_and_exits_0(cluster: Cluster) -> None:
    cluster.register("t")
    with cluster.wire(1) as wire:
        wire.send(*[b"PUT t %d" % number for number in range(500)])
        first = wire.receive()
        cluster[1].signal(signal.SIGTERM)
        replies = [first]
        try:
            while len(replies) < 500:
                replies.append(wire.receive())
        except Closed:
            pass  # what had not been read by then was never accepted
    assert cluster[1].wait() == 0
    acknowledged = replies.count(b"OK")
    assert replies[:acknowledged] == [b"OK"] * acknowledged
    assert len(read_all(cluster, "t", 2)) >= acknowledged > 0
    cluster[1].start()
    cluster.wait_ready()


def test_sigint_stops_cleanly_too(cluster: Cluster) -> None:
    for node in cluster:
        node.signal(signal.SIGINT)
    assert [node.wait() for node in cluster] == [0, 0, 0]


def test_a_second_process_on_the_same_directory_is_refused(cluster: Cluster) -> None:
    twin = cluster.add(4, data_dir=cluster.path)
    twin.arguments[1] = "1"  # another port, the same node and directory
    twin.start()
    assert twin.wait() == 1
    assert f"in use by process {cluster[1].pid}" in twin.log()
    del cluster.nodes[4]


@pytest.mark.parametrize("node_id", [1, 2])
def test_an_empty_disk_under_a_known_id_is_refused_with_the_way_out(cluster: Cluster, node_id: int) -> None:
    cluster[node_id].kill()
    returned = cluster[node_id]
    place = returned.arguments.index("--data-dir") + 1
    returned.arguments[place] = str(cluster.path / "replaced disk")
    returned.start("--join-timeout", "3600")  # which it does not wait for: the answer will not change
    assert returned.wait() == 1
    assert f"LEAVE {node_id}" in returned.log()


def test_a_fourth_node_joins_under_load_and_takes_its_share(launch: Launcher) -> None:
    cluster = launch(env={"WALRUS_MAX_SEGMENT_ENTRIES": "200"})
    cluster.register("t")
    with Producer(cluster, "t", "p", [1, 2, 3], window=20) as producer:
        producer.wait_for_more(100)
        cluster.add(4).start()
        cluster.wait_ready()
        wait_for(lambda: 4 in cluster.state("t")["segment_leaders"].values(), "node 4 to lead a segment")
        producer.wait_for_more(100)
    assert {attempt.reply for attempt in producer.attempts if attempt.outcome != OK} == set()
    check(read_back(cluster, "t"), [producer])


def test_any_member_takes_a_join_whoever_leads(cluster: Cluster) -> None:
    leader = cluster.raft_leader()
    follower = next(node_id for node_id in (1, 2, 3) if node_id != leader)
    fourth = cluster.add(4)
    host = f"{cluster.raft_host(follower)}:{cluster.raft_ports[follower]}"
    fourth.arguments[fourth.arguments.index("--join") + 1] = host
    fourth.start()
    cluster.wait_ready()


def test_joining_nobody_ends_with_the_reason(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=2)
    cluster[2].start("--join-timeout", "1")
    assert cluster[2].wait() == 1
    assert "--join" in cluster[2].log()


def test_a_node_leaves_under_load_and_nothing_is_lost(launch: Launcher) -> None:
    cluster = launch(nodes=4, env={"WALRUS_MAX_SEGMENT_ENTRIES": "100"})
    cluster.register("t")
    with Producer(cluster, "t", "p", [1, 2, 4], window=10) as producer:
        producer.wait_for_more(300)
        with cluster.wire(1) as wire:
            assert wire.ask(b"LEAVE 3") == b"OK"
        producer.wait_for_more(100)
    assert cluster[3].wait() == 0, "a node that left as it was asked to stops by itself, and is not restarted"
    assert "this node was removed from the cluster" in cluster[3].log()
    del cluster.nodes[3]
    voters = cluster[1].metrics()["membership_config"]["membership"]["configs"][-1]
    assert voters == [1, 2, 4]
    replicas = cluster.state("t", 2)["segment_replicas"]
    assert all(3 not in nodes for nodes in replicas.values()), replicas
    check(read_back(cluster, "t"), [producer])


def test_a_node_that_was_removed_while_it_was_away_stops_when_it_comes_back(cluster: Cluster) -> None:
    cluster[3].kill()
    with cluster.wire(1) as wire:
        assert wire.ask(b"LEAVE 3").startswith(b"ERR needs force")
        assert wire.ask(b"LEAVE 3 force") == b"OK"
    cluster[3].start()
    assert cluster[3].wait() == 1
    assert "empty --data-dir" in cluster[3].log()
    cluster.wait_ready(1, 2)
    del cluster.nodes[3]


def test_a_node_that_is_asked_to_leave_says_so_when_it_has_left(cluster: Cluster) -> None:
    with cluster.wire(3) as wire:
        assert wire.ask(b"LEAVE 3 force") == b"OK"
    assert cluster[3].wait() == 0
    assert "was removed from the cluster" in cluster[3].log()
    with cluster.wire(1) as wire:
        assert wire.ask(b"LEAVE 3").startswith(b"ERR unknown node")


@pytest.mark.parametrize(("leaving", "asked"), [(2, 1), (2, 2), (1, 1)])
def test_a_cluster_of_two_goes_down_to_one(launch: Launcher, leaving: int, asked: int) -> None:
    cluster = launch(nodes=2)
    cluster.register("t")
    stays = 3 - leaving
    with cluster.wire(asked) as wire:
        assert wire.ask(b"PUT t before") == b"OK"
        assert wire.ask(b"LEAVE %d" % leaving) == b"OK"
    assert cluster[leaving].wait() == 0
    assert "was removed from the cluster" in cluster[leaving].log()
    with cluster.wire(stays) as wire:
        assert wire.ask(b"PUT t after") == b"OK"
        assert [wire.ask(b"GET t"), wire.ask(b"GET t")] == [b"OK before", b"OK after"]
    del cluster.nodes[leaving]


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_was_delivered_before_all_nodes_are_stopped_does_not_come_again(
    launch: Launcher, nodes: int
) -> None:
    cluster = launch(nodes=nodes)
    cluster.register("t")
    with cluster.wire(1) as wire:
        put_all(wire, "t", [b"%d" % number for number in range(400)])
        wire.send(*[b"GET t"] * 300)
        assert [wire.receive() for _ in range(300)][-1] == b"OK 299"
    for node in cluster:
        node.signal(signal.SIGTERM)
    assert [node.wait() for node in cluster] == [0] * nodes
    cluster.start()
    with cluster.wire(1) as wire:
        assert wire.ask(b"GET t") == b"OK 300"


@pytest.mark.parametrize("stopped", [True, False], ids=["a backup", "a copy of a running node"])
def test_an_older_data_directory_is_refused_with_the_way_out(cluster: Cluster, stopped: bool) -> None:
    cluster.register("t")
    directory, backup = cluster.path / "node_3", cluster.path / "backup"
    if stopped:
        assert cluster[3].terminate() == 0
    shutil.copytree(directory, backup)
    if stopped:
        cluster[3].start()
        cluster.wait_ready()
    cluster.register("u")
    with cluster.wire(1) as wire:
        put_all(wire, "t", [b"%d" % number for number in range(50)])
    assert cluster[3].terminate() == 0
    shutil.rmtree(directory)
    backup.rename(directory)
    cluster[3].start()
    assert cluster[3].wait() == 1
    assert "backup" in cluster[3].log() and "LEAVE 3" in cluster[3].log()
    cluster.wait_ready(1, 2)
    del cluster.nodes[3]
    assert [entry.payload for entry in read_all(cluster, "t", 1)] == [b"%d" % number for number in range(50)]


CRASH_ONCE_JOINED = """
import os
from walrus.shell.identity import DataDirectory
join = DataDirectory.join
def crash(self, *answer):
    join(self, *answer)
    os._exit(9)
DataDirectory.join = crash
"""


def test_an_id_that_a_stray_join_took_is_free_for_the_real_node_soon(launch: Launcher) -> None:
    cluster = launch(nodes=1, flags=BRISK)
    join = Join(node_id=2, directory_id="stray", raft_address="127.0.0.9:9", client_address="127.0.0.9:9")
    with socket.create_connection(cluster[1].raft) as stray:
        stray.sendall(PeerCodec[PeerMessage](PeerMessage).encode(join))
        stray.recv(1 << 16)
    wait_for(lambda: 2 in cluster[1].metrics()["learners"], "the stray to be a learner")
    cluster.add(2).start()
    cluster.wait_ready(1, 2)
    assert "node 2 was taken in and has not started" in cluster[1].log()


def test_a_node_that_dies_while_it_is_taken_in_can_come_back_however_late(launch: Launcher) -> None:
    cluster = launch(nodes=1, flags=BRISK)
    late = cluster.add(2)
    late.patch = CRASH_ONCE_JOINED
    assert late.start().wait() == 9
    wait_for(lambda: 2 in cluster[1].metrics()["learners"], "the node to be a learner")
    wait_for(lambda: "2" not in cluster[1].metrics()["client_addresses"], "the node to be dropped again")
    late.patch = ""
    late.start()
    cluster.wait_ready(1, 2)


def test_a_leave_that_would_cost_the_majority_is_refused(cluster: Cluster) -> None:
    cluster[3].kill()
    with cluster.wire(1) as wire:
        assert wire.ask(b"LEAVE 2").startswith(b"ERR cannot leave")
        assert wire.ask(b"LEAVE 99").startswith(b"ERR unknown node")


def test_nodes_of_another_cluster_and_strangers_are_refused(launch: Launcher) -> None:
    one, other = launch(nodes=1), launch(nodes=1)
    ours, theirs = one[1].metrics()["cluster_id"], other[1].metrics()["cluster_id"]
    assert ours != theirs
    with socket.create_connection(one[1].raft, timeout=PATIENCE) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(100) == b""
    with Wire(one[1].raft) as wire:  # a client on the wrong port
        wire.send(b"PUT t x")
        with pytest.raises(Closed):
            wire.receive()
    one.register("t")


def test_the_environment_limits_segments_by_bytes(launch: Launcher) -> None:
    cluster = launch(nodes=1, env={"WALRUS_MAX_SEGMENT_BYTES": "5000", "WALRUS_DISABLE_IO_URING": "1"})
    cluster.register("t")
    with cluster.wire(1) as wire:
        for _ in range(30):
            assert wire.ask(b"PUT t " + b"x" * 1000) == b"OK"
    assert len(cluster.state("t")["sealed_segments"]) >= 5


@pytest.mark.parametrize("fsync", ["none", "20"])
def test_other_fsync_schedules_serve_too(launch: Launcher, fsync: str) -> None:
    cluster = launch(flags=[*CALM, "--fsync", fsync])
    cluster.register("t")
    with cluster.wire(1) as wire:
        put_all(wire, "t", [b"%d" % number for number in range(1000)])
    assert cluster.stop() == [0, 0, 0]
    cluster.start()
    assert len(read_back(cluster, "t")) == 1000


def test_state_and_metrics_have_the_documented_fields(unharmed: Cluster) -> None:
    unharmed.register("fresh")
    state = unharmed.state("fresh")
    assert state["current_segment"] == 1 and state["sealed_segments"] == {}
    assert {
        "leader_node",
        "last_sealed_entry_offset",
        "segment_leaders",
        "segment_replicas",
        "cursors",
    } <= set(state)
    leader = unharmed.raft_leader()
    for node in unharmed:
        metrics = node.metrics()
        assert metrics["running_state"] == {"Ok": None} and metrics["id"] == node.node_id
        assert metrics["current_leader"] == leader
        assert metrics["state"] == ("Leader" if node.node_id == leader else "Follower")
        assert metrics["membership_config"]["membership"]["configs"] == [[1, 2, 3]]
        assert (metrics["replication"] is not None) is (node.node_id == leader)
    assert set(unharmed[leader].metrics()["replication"]) == {"1", "2", "3"}


def test_errors_are_one_line_that_says_what_to_do(unharmed: Cluster) -> None:
    with unharmed.wire(1) as wire:
        for request, reason in [
            (b"NONSENSE", b"unknown command"),
            (b"PUT", b"unknown command"),
            (b"PUT ", b"PUT requires a topic"),
            (b"PUT t", b"PUT requires a payload"),
            (b"PUT nowhere x", b"unknown topic nowhere"),
            (b"GET nowhere", b"unknown topic nowhere"),
            (b"STATE nowhere", b"unknown topic nowhere"),
            (b"REGISTER a\x01b", b"invalid topic"),
            (b"REGISTER \xff\xfe", b"invalid utf-8"),
            (b"", b"invalid frame length"),
            (b"x" * 70_000, b"invalid frame length"),
        ]:
            reply = wire.ask(request)
            assert reply.startswith(b"ERR "), (request, reply)
            if request != b"PUT":
                assert reason in reply, (request, reply)
            assert b"\n" not in reply


def test_a_payload_is_kept_byte_for_byte(unharmed: Cluster) -> None:
    unharmed.register("t")
    payloads = [b"", b" ", b"  two spaces ", bytes(range(256)), b"\0" * 1000, b"x" * (65_536 - 6), b"\n\r\n"]
    with unharmed.wire(1) as wire:
        put_all(wire, "t", payloads)
        assert wire.ask(b"PUT t " + b"x" * (65_537 - 6)).startswith(b"ERR invalid frame length")
    with unharmed.wire(3) as wire:
        assert [wire.ask(b"GET t") for _ in payloads] == [b"OK " + payload for payload in payloads]


def test_a_trace_is_one_json_object_per_line_stamped_in_order(launch: Launcher, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    cluster = launch(nodes=1, flags=["--trace", str(trace)])
    cluster.register("t")
    with cluster.wire(1) as wire:
        put_all(wire, "t", [b"x"] * 10)
    cluster.stop()
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {"LeaderAppend", "Ack"} <= {event["ev"] for event in events}
    assert all(event["node"] == 1 for event in events)
    stamps = [event["at"] for event in events]
    assert stamps == sorted(stamps)
