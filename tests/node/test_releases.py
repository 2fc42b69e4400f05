"""Other releases, on real processes: what is refused is refused by name, and what was written is read.

A node of an earlier release is a node of today that is told it knows less (`patch`): it greets with an
earlier version, or knows the commands of an earlier one. The directory in `directories/` was written by the
release that first had work queues, producers and retention (`write` below made it), and stays as it is.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.node.harness import Cluster, Launcher, wait_for
from walrus.client import Client

pytestmark = pytest.mark.process

WRITTEN = Path(__file__).parent / "directories" / "peers_3_commands_3_blocks_2.tar.gz"

GREETS_EARLIER = """
import walrus.shell.peer_connections as peers
peers.VERSION -= 1
"""
KNOWS_NO_RETENTION = """
import walrus.commands as commands
commands.VERSION = commands.QUEUES_VERSION
"""


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


def test_a_node_that_greets_with_another_version_is_refused_by_name_and_the_others_go_on(
    launch: Launcher,
) -> None:
    cluster = launch()
    cluster.register("t")
    cluster[3].kill()
    cluster[3].patch = GREETS_EARLIER
    cluster[3].start()
    refusal = ": run the same release on all nodes"
    wait_for(lambda: refusal in cluster[3].log(), "the refusal is in its log")
    assert "it speaks version" in cluster[3].log() + cluster[1].log() + cluster[2].log()
    with Client([f"{host}:{port}" for host, port in (cluster[1].client, cluster[2].client)]) as client:
        client.put("t", b"the others go on")
        assert client.get("t", "g") == b"the others go on"
    if cluster[3].running:
        cluster[3].kill()
    cluster[3].patch = ""
    cluster[3].start()
    cluster.wait_ready()


def test_an_earlier_release_is_served_until_what_it_does_not_know_is_used(launch: Launcher) -> None:
    cluster = launch.prepare()
    cluster[3].patch = KNOWS_NO_RETENTION
    cluster.start()
    cluster.register("t")
    with Client(addresses(cluster)[:2], timeout=15) as client:
        client.put_many("t", [b"a", b"b"])
        with cluster.wire(3) as wire:
            assert wire.ask(b"PUT t c") == b"OK", "it serves, and is served"
            assert wire.ask(b"RECEIVE t g").endswith(b" a"), "what it knows it does"
        client.configure("t", {"retain_entries": 100})
        assert cluster[3].wait() == 1, "it cannot apply that, and must not go on without"
        assert "this node knows 2: upgrade it" in cluster[3].log()
        client.put("t", b"d")
        cluster[3].patch = ""
        cluster[3].start()
        cluster.wait_ready()
        assert list(client.entries("t")) == [b"a", b"b", b"c", b"d"]
    assert cluster.state("t", 3)["settings"] == {"retain_entries": 100}


def fill(client: Client) -> None:
    """What is in the directory."""
    client.register("t", {"segment_entries": 4, "retain_entries": 20})
    client.put_many("t", [b"%d" % number for number in range(6)])
    client.producer("t", "p").put_many([b"p%d" % number for number in range(3)])
    assert [client.get("t", "reader") for _ in range(2)] == [b"0", b"1"]
    for received in client.receive_many("t", "workers", 3):
        client.ack("t", "workers", received.receipt)


def test_a_directory_of_an_earlier_release_opens_and_goes_on(launch: Launcher, tmp_path: Path) -> None:
    cluster = launch.prepare(nodes=1)
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(cluster.path / "node_1", filter="data")
    cluster.start()
    cluster.wait_ready()
    with Client(addresses(cluster), timeout=15) as client:
        expected = [*(b"%d" % number for number in range(6)), b"p0", b"p1", b"p2"]
        assert list(client.entries("t")) == expected
        assert client.get("t", "reader") == b"2", "where the group was"
        received = client.receive("t", "workers", wait=10)
        assert received is not None and received.payload == b"3", "what was acknowledged does not come again"
        with cluster.wire(1) as wire:
            assert wire.ask(b"PUB t p 2 p2").startswith(b"OK"), "the producer is known"
            assert wire.ask(b"PUB t p 3 p3").startswith(b"OK")
        client.put("t", b"new")
        assert list(client.entries("t")) == [*expected, b"p3", b"new"]
    assert cluster.state("t")["settings"] == {"retain_entries": 20, "segment_entries": 4}


def write(place: Path) -> None:
    """Write the archive: for a release that writes something new, beside the ones there are."""
    cluster = Cluster(place, nodes=1)
    try:
        cluster.start()
        cluster.wait_ready()
        with Client(addresses(cluster)) as client:
            fill(client)
        wait_for(lambda: cluster.state("t")["cursors"].get("reader"), "the position is committed")
        assert cluster[1].terminate() == 0
    finally:
        cluster.close()
    with tarfile.open(WRITTEN, "w:gz") as archive:
        for path in sorted((place / "node_1").rglob("*")):
            archive.add(path, path.relative_to(place / "node_1"), recursive=False)
