"""Other releases, on real processes: what is refused is refused by name, and what was written is read.

A node of an earlier release is a node of today that is told it knows less (`patch`): it greets with an
earlier version, or knows the commands of an earlier one. The directories in `directories/` stay as they were
written (by `write` below): one by the release that first had work queues, producers and retention, one by the
release that first had append times.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher, wait_for
from walrus import commands
from walrus.broker import handshake
from walrus.client import Client
from walrus.protocol import split_fetched, split_time
from walrus.storage.record import STAMPED_VERSION

DIRECTORIES = Path(__file__).parent / "directories"
OF_THIS_RELEASE = f"peers_{handshake.VERSION}_commands_{commands.VERSION}_blocks_{STAMPED_VERSION}"
"""What a release is known by: the versions of what it says to other nodes, and of what it writes."""

GREETS_EARLIER = """
import walrus.broker.handshake as handshake
handshake.VERSION -= 1
"""
KNOWS_NO_RETENTION = """
import walrus.commands as commands
commands.VERSION = commands.QUEUES_VERSION
"""


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


@pytest.mark.process
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


@pytest.mark.process
def test_an_earlier_release_is_served_until_what_it_does_not_know_is_used(launch: Launcher) -> None:
    cluster = launch.prepare()
    cluster[3].patch = KNOWS_NO_RETENTION
    cluster.start()
    cluster.register("t")
    with Client(addresses(cluster)[:2], timeout=PATIENCE) as client:
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


def test_a_directory_of_this_release_is_kept_for_those_to_come() -> None:
    kept = [path.name.partition(".")[0] for path in DIRECTORIES.iterdir()]
    assert OF_THIS_RELEASE in kept, "a version was raised: keep a directory of it, by `write` below"


@pytest.mark.process
@pytest.mark.parametrize(
    ("release", "times"), [("peers_3_commands_3_blocks_2", False), ("peers_4_commands_3_blocks_3", True)]
)
def test_a_directory_of_each_release_opens_and_goes_on(launch: Launcher, release: str, times: bool) -> None:
    cluster = launch.prepare(nodes=1)
    with tarfile.open(DIRECTORIES / f"{release}.tar.gz") as archive:
        archive.extractall(cluster.path / "node_1", filter="data")
    cluster.start()
    cluster.wait_ready()
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        expected = [*(b"%d" % number for number in range(6)), b"p0", b"p1", b"p2"]
        assert list(client.entries("t")) == expected
        assert client.get("t", "reader") == b"2", "where the group was"
        received = client.receive("t", "workers", wait=30)
        assert received is not None and received.payload == b"3", "what was acknowledged does not come again"
        with cluster.wire(1) as wire:
            assert wire.ask(b"PUB t p 2 p2").startswith(b"OK"), "the producer is known"
            assert wire.ask(b"PUB t p 3 p3").startswith(b"OK")
        client.put("t", b"new")
        assert list(client.entries("t")) == [*expected, b"p3", b"new"]
        with cluster.wire(1) as wire:
            assert wire.ask(b"HELLO times=1 positions=1") == b"OK positions=1 times=1"
            told, payload = split_time(split_fetched(wire.ask(b"FETCH t 1 0")[3:])[1])
            assert payload == b"0" and (told > 1_700_000_000_000) is times
            assert times or told == 0, "no time is made up for what has none"
            _, segment, offset = wire.ask(b"PUT t last").split()
            entry = split_fetched(wire.ask(b"FETCH t %b %b" % (segment, offset))[3:])[1]
            assert split_time(entry)[0] > 1_700_000_000_000
    assert cluster.state("t")["settings"] == {"retain_entries": 20, "segment_entries": 4}


def write(place: Path) -> None:
    """Write an archive of this release, beside the ones there are: `place` is a directory for a node."""
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
    with tarfile.open(DIRECTORIES / f"{OF_THIS_RELEASE}.tar.gz", "w:gz") as archive:
        for path in sorted((place / "node_1").rglob("*")):
            archive.add(path, path.relative_to(place / "node_1"), recursive=False)
