"""Settings, retention, deletion and dead letters on real processes, through kill -9 and restarts.

Assertion messages that begin with a name say which invariant of `spec/Retention.tla` they stand for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher, wait_for
from walrus.client import Client, OutcomeUnknown, Position, Trimmed, UnknownTopic

pytestmark = pytest.mark.process

OFTEN = {"WALRUS_MONITOR_CHECK_MS": "200"}


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


@pytest.fixture
def cluster(launch: Launcher) -> Cluster:
    """Three nodes that look at retention several times a second."""
    return launch(env=OFTEN)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of all nodes, which outlives those that are killed."""
    with Client(addresses(cluster), timeout=PATIENCE) as found:
        yield found


def test_retention_outlives_kills_and_a_restart_of_all(cluster: Cluster, client: Client) -> None:
    client.register("t", {"segment_entries": 10})
    entries = [b"%d" % number for number in range(95)]
    assert all(isinstance(place, Position) for place in client.put_many("t", entries))
    assert client.get("t", "reader") == b"0"
    wait_for(lambda: cluster.state("t")["cursors"].get("reader"), "the position is committed")
    client.configure("t", {"retain_entries": 25})
    cluster[cluster.raft_leader()].kill()
    first = wait_for(lambda: (n := client.state("t")["first_segment"]) > 1 and n, "old segments go")
    for node in cluster:
        node.kill()
    cluster.start()
    cluster.wait_ready()
    for node in cluster:
        state = cluster.state("t", node.node_id)
        assert state["first_segment"] >= first, "TrimmedStaysTrimmed"
        assert state["settings"] == {"retain_entries": 25, "segment_entries": 10}
        assert state["last_sealed_entry_offset"] in (90, 95), "a failover seals the last five"
    with pytest.raises(Trimmed, match="trimmed: t begins at segment"):
        client.fetch("t", 1, 0)
    # The restart sealed the last five, so three segments hold the 25 that are retained.
    wait_for(lambda: client.state("t")["first_segment"] == 8, "what is not retained goes")
    assert list(client.entries("t")) == entries[70:]
    assert client.get("t", "reader") == entries[70], "MarkInBounds: at the first entry there is"


def test_a_deleted_topic_stays_deleted_and_its_name_is_free(cluster: Cluster, client: Client) -> None:
    client.register("t", {"segment_entries": 10})
    client.put_many("t", [b"old"] * 25)
    away = next(n for n in (1, 2, 3) if n not in (cluster.raft_leader(), cluster.segment_leader("t")))
    cluster[away].kill()
    client.delete("t")
    with pytest.raises(UnknownTopic):
        client.get("t")
    client.register("t")
    client.put("t", b"new")
    cluster[away].start()
    cluster.wait_ready()
    for node in cluster:
        with Client(f"{node.client[0]}:{node.client[1]}", timeout=PATIENCE) as one:
            assert list(one.entries("t")) == [b"new"], "NoFrameOfAnOldTopic"
            assert one.state("t")["first_segment"] == 4, "TrimmedStaysTrimmed: a number is used twice"


def _is_deleted(client: Client, topic: str) -> bool:
    try:
        client.delete(topic)
    except OutcomeUnknown:
        return False
    except UnknownTopic:
        pass  # by the one before, whose outcome was unknown
    return True


@pytest.mark.parametrize("how", ["nothing", "killed", "frozen"])
def test_a_put_that_follows_delete_and_register_is_there_whatever_dies(
    cluster: Cluster, client: Client, how: str
) -> None:
    """The old topic's writer is killed, or frozen and thawed. What is put then is in the new topic."""
    client.register("t")
    client.put("t", b"old")
    writer = cluster[cluster.segment_leader("t")]
    others = [
        address for node, address in zip(cluster, addresses(cluster), strict=True) if node is not writer
    ]
    if how == "killed":
        writer.kill()
    elif how == "frozen":
        writer.pause()
    with Client(others, timeout=PATIENCE) as asked:
        wait_for(lambda: _is_deleted(asked, "t"), "the topic is deleted")
        asked.register("t")
    if how == "killed":
        writer.start()
        cluster.wait_ready()
    elif how == "frozen":
        writer.resume()
    host, port = writer.client
    with Client(f"{host}:{port}", timeout=PATIENCE) as late:
        late.put("t", b"new")
        assert list(late.entries("t")) == [b"new"], "NoAckAfterDelete, NoFrameOfAnOldTopic"
        assert late.get("t") == b"new", "NoFrameOfAnOldTopic"


def test_no_put_is_acknowledged_in_a_deleted_topic_where_nobody_has_heard_of_that(launch: Launcher) -> None:
    """Of five nodes a topic's writer and one of its replicas, which are a majority, are cut off."""
    cluster = launch(nodes=5, proxied=True)
    leader = cluster.raft_leader()
    for name in ("a", "b", "c", "d", "e", "f"):
        cluster.register(name)
    topic, writer, other = next(
        (name, int(segment["leader_node"]), replica)
        for name, segment in ((name, cluster.state(name)) for name in ("a", "b", "c", "d", "e", "f"))
        for replica in segment["segment_replicas"]["1"]
        if leader not in (segment["leader_node"], replica) and replica != segment["leader_node"]
    )
    assert cluster.proxy is not None
    with cluster.wire(leader) as here, cluster.wire(writer) as there:
        assert there.ask(b"PUT %b old" % topic.encode()) == b"OK"
        for node_id in (writer, other):
            rest = [node.node_id for node in cluster if node.node_id not in (writer, other)]
            cluster.proxy.isolate(node_id, rest)
        here.send(b"DELETE %b" % topic.encode(), b"REGISTER %b" % topic.encode())
        deleted = threading.Thread(target=lambda: answers.extend([here.receive(), here.receive()]))
        answers: list[bytes] = []
        deleted.start()
        late = b"OK"
        while late == b"OK" and len(answers) < 2:
            late = there.ask(b"PUT %b before" % topic.encode())
        if len(answers) == 2:
            late = there.ask(b"PUT %b after" % topic.encode())
        assert answers != [b"OK", b"OK"] or late != b"OK", "NoAckAfterDelete"
        cluster.proxy.heal()
        deleted.join(PATIENCE)
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        wait_for(lambda: _is_deleted(client, topic), "the topic is deleted")
        client.register(topic)
        client.put(topic, b"new")
        assert list(client.entries(topic)) == [b"new"], "NoAckAfterDelete, NoFrameOfAnOldTopic"


def test_dead_letters_are_there_whichever_owner_dies(cluster: Cluster, client: Client) -> None:
    client.register("jobs", {"max_deliveries": 2, "visibility_ms": 300})
    client.put_many("jobs", [b"bad", b"good"])
    done = set()

    def work() -> bool:
        delivery = client.receive("jobs", "g", wait=0.2)
        if delivery is not None and delivery.payload == b"good":
            client.ack("jobs", "g", delivery)
            done.add(delivery.payload)
        return client.state("jobs").get("dead_letters", {}).get("g", 0) > 0

    work()
    cluster[cluster.segment_leader("jobs")].kill()
    wait_for(lambda: work() or None, "the bad job is given up")
    assert set(client.entries("jobs.dead")) == {b"bad"} and done == {b"good"}
    assert client.receive("jobs", "g", wait=0.5) is None
