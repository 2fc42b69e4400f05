"""Other releases, on real processes: what is refused is refused by name, and what was written is read.

The releases before this one and after it are trees (`trees.py`) whose nodes run beside those of this one. One
that no node speaks with is a node of today that greets with an earlier version (`patch`). The directories in
`directories/` stay as they were written (by `write` below): one by the release that first had work queues,
producers and retention, one by the release that first had append times, and one by the release that first
deleted a topic with a Seal, after a deletion.
"""

from __future__ import annotations

import contextlib
import itertools
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node import trees
from tests.node.harness import CALM, PATIENCE, ROOT, Cluster, Launcher, wait_for
from walrus import commands
from walrus.broker import handshake
from walrus.client import Client, OutcomeUnknown, UnknownTopic
from walrus.protocol import split_fetched, split_time
from walrus.storage.record import STAMPED_VERSION

DIRECTORIES = Path(__file__).parent / "directories"
OF_THIS_RELEASE = f"peers_{handshake.VERSION}_commands_{commands.VERSION}_blocks_{STAMPED_VERSION}"
"""What a release is known by: the versions of what it says to other nodes, and of what it writes."""

GREETS_EARLIER = """
import walrus.broker.handshake as handshake
handshake.OLDEST = handshake.VERSION = handshake.VERSION - 1
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
    refusal = ": upgrade by way of a release that speaks both"
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


class Load:
    """Clients that never rest: one PUTs, one PUBs, one RECEIVEs and ACKs. What each was told is kept."""

    def __init__(self, cluster: Cluster) -> None:
        self._addresses = addresses(cluster)
        self.put: list[bytes] = []
        self.published: list[bytes] = []
        self.received: dict[bytes, None] = {}
        self.acknowledged: dict[bytes, None] = {}
        self._over, self._drained = threading.Event(), threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(part,))
            for part in (self._put, self._publish, self._consume)
        ]
        for thread in self._threads:
            thread.start()

    def _guarded(self, part: Callable[[Client], None]) -> None:
        try:
            with Client(self._addresses, timeout=PATIENCE) as client:
                part(client)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, the test is told
            self._failures.append(failure)

    def _goes_on(self) -> bool:
        """Wait until the queue is short enough for one entry more; whether there is to be one."""
        while len(self.put) + len(self.published) > len(self.received) + 100:
            if self._over.wait(0.01):
                break
        return not self._over.is_set()

    def _put(self, client: Client) -> None:
        for number in itertools.count():
            if not self._goes_on():
                return
            with contextlib.suppress(OutcomeUnknown):  # its node was stopped: it may be there or not
                client.put("t", b"put %d" % number)
                self.put.append(b"put %d" % number)

    def _publish(self, client: Client) -> None:
        producer = client.producer("t", "p")
        while self._goes_on():
            producer.put(b"pub %d" % len(self.published))
            self.published.append(b"pub %d" % len(self.published))

    def _consume(self, client: Client) -> None:
        while not self._drained.is_set():
            with contextlib.suppress(OutcomeUnknown):  # what was on its way may come again
                received = client.receive("t", "workers", wait=1)
                if received is not None:
                    assert received.payload not in self.acknowledged, "AckedNeverAgain"
                    self.received[received.payload] = None
                    client.ack("t", "workers", received.receipt)
                    self.acknowledged[received.payload] = None

    def goes_on(self, by: int = 10) -> None:
        """Wait until all three have got on."""
        parts = (self.put, self.published, self.acknowledged)
        goals = [(part, len(part) + by) for part in parts]

        def enough() -> bool:
            assert not self._failures, self._failures
            return all(len(part) >= goal for part, goal in goals)

        wait_for(enough, "the load to go on")

    def end(self, client: Client) -> None:
        """Stop, and be sure that nothing is lost, nothing is out of order, and nothing repeated."""
        self._over.set()
        for thread in self._threads[:2]:
            thread.join(PATIENCE)
        stored = list(client.entries("t"))
        wait_for(lambda: self._failures or set(stored) <= self.received.keys(), "the queue is empty")
        self._drained.set()
        self._threads[2].join(PATIENCE)
        assert not self._failures, self._failures
        assert [entry for entry in stored if entry.startswith(b"pub")] == self.published, "AckedDurable"
        put = [entry for entry in stored if entry.startswith(b"put")]
        assert set(self.put) <= set(put), "AckedDurable: an acknowledged entry is lost"
        assert put == sorted(put, key=lambda entry: int(entry.split()[1])), "ProducerOrder"
        assert self.received.keys() == set(stored), "NothingInvented: the queue gave what is not there"

    def abandon(self) -> None:
        """The test has failed, or is over."""
        self._over.set()
        self._drained.set()


@contextlib.contextmanager
def loaded(cluster: Cluster) -> Iterator[Load]:
    """The cluster under load, with a topic `t` of short segments."""
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        client.register("t", {"segment_entries": 200, "visibility_ms": 3000})
        load = Load(cluster)
        try:
            load.goes_on()
            yield load
            load.end(client)
        finally:
            load.abandon()


def secured(launch: Launcher, tree: Path) -> Cluster:
    """Three nodes of this tree that prove a secret to each other, and with it their versions."""
    secret = launch.path / "secret"
    launch.path.mkdir(parents=True, exist_ok=True)
    secret.write_text("ab" * 32 + "\n")
    secret.chmod(0o600)
    cluster = launch.prepare(flags=[*CALM, "--cluster-secret-file", str(secret)])
    for node in cluster:
        node.tree = tree
    return cluster.start()


def change(cluster: Cluster, node_id: int, tree: Path) -> None:
    """Stop a node, install another release, start it, and wait until the cluster is whole again."""
    assert cluster[node_id].terminate() == 0
    cluster[node_id].tree = tree
    cluster[node_id].start()
    cluster.wait_ready()
    wait_for(lambda: all(node.metrics()["ready"] for node in cluster), "all are ready")


def versions(cluster: Cluster, node_id: int) -> tuple[dict[str, int], dict[str, int]]:
    """What a node speaks with the others, and what commands all of them know."""
    metrics = cluster[node_id].metrics()
    return metrics["wire_versions"], metrics["command_versions"]


def delete_while_releases_are_mixed(cluster: Cluster) -> None:
    """Node 1 is of this release, and may not mark a topic. Node 3 is not, and lets it go at once, as ever."""
    with cluster.wire(1) as new, cluster.wire(3) as old:
        assert new.ask(b"REGISTER gone") == b"OK"
        assert new.ask(b"DELETE gone").startswith(b"ERR older release: node ")
        assert old.ask(b"DELETE gone") == b"OK"
        assert new.ask(b"GET gone").startswith(b"ERR unknown topic")


@pytest.mark.process
def test_a_cluster_of_the_release_before_is_upgraded_node_by_node_under_load(launch: Launcher) -> None:
    cluster = secured(launch, trees.before(launch.path / "before"))
    with loaded(cluster) as load:
        for node in cluster:
            change(cluster, node.node_id, ROOT)
            load.goes_on()
            if node.node_id == 1:
                delete_while_releases_are_mixed(cluster)
        change(cluster, 2, trees.before(launch.path / "before again"))
        load.goes_on()
        change(cluster, 2, ROOT)
    assert versions(cluster, 3)[0] == {"1": 4, "2": 4}
    wait_for(
        lambda: set(versions(cluster, 3)[1].values()) == {4}, "all are known to know what this release does"
    )
    with cluster.wire(2) as wire:
        assert wire.ask(b"DELETE t") == b"OK"
    with cluster.wire(3) as wire:
        assert wire.ask(b"GET t").startswith(b"ERR unknown topic")


@pytest.mark.process
def test_a_cluster_is_upgraded_to_the_release_that_follows_and_uses_it_once_all_nodes_can(
    launch: Launcher,
) -> None:
    news = trees.following(launch.path / "following")
    cluster = secured(launch, ROOT)
    paint = b"CONFIGURE t colour=7"
    with loaded(cluster) as load:
        change(cluster, 1, news)
        load.goes_on()
        change(cluster, 1, ROOT)  # nothing of it was used: it can be taken back
        load.goes_on()
        for node_id, older in ((1, 2), (2, 3)):
            change(cluster, node_id, news)
            load.goes_on()
            with cluster.wire(node_id) as wire:
                assert wire.ask(paint).startswith(b"ERR older release: node %d runs one" % older)
            with cluster.wire(3) as wire:
                assert wire.ask(paint).startswith(b"ERR invalid setting"), "it has never heard of it"
        assert versions(cluster, 1) == ({"2": 5, "3": 4}, {"1": 5, "2": 5, "3": 4})
        change(cluster, 3, news)
        assert versions(cluster, 1) == ({"2": 5, "3": 5}, {"1": 5, "2": 5, "3": 5})
        with cluster.wire(3) as wire:
            assert wire.ask(paint) == b"OK", "all know it"
        assert cluster[3].terminate() == 0
        cluster[3].tree = ROOT
        cluster[3].start()
        assert cluster[3].wait() == 1, "the cluster uses what this release does not know"
        assert "this node knows 4: upgrade it" in cluster[3].log()
        cluster[3].tree = news
        cluster[3].start()
        cluster.wait_ready()
        load.goes_on()
    assert cluster.state("t")["settings"]["colour"] == 7
    said = "".join(node.log() for node in cluster)
    assert "noted by node 3" in said and "not a message that this version knows" not in said


def fill(client: Client) -> None:
    """What is in the directory."""
    client.register("t", {"segment_entries": 4, "retain_entries": 20})
    client.put_many("t", [b"%d" % number for number in range(6)])
    client.producer("t", "p").put_many([b"p%d" % number for number in range(3)])
    assert [client.get("t", "reader") for _ in range(2)] == [b"0", b"1"]
    for received in client.receive_many("t", "workers", 3):
        client.ack("t", "workers", received.receipt)
    client.register("gone")
    client.put("gone", b"gone")
    client.delete("gone")


def test_a_directory_of_this_release_is_kept_for_those_to_come() -> None:
    kept = [path.name.partition(".")[0] for path in DIRECTORIES.iterdir()]
    assert OF_THIS_RELEASE in kept, "a version was raised: keep a directory of it, by `write` below"


@pytest.mark.process
@pytest.mark.parametrize(
    ("release", "times"),
    [
        ("peers_3_commands_3_blocks_2", False),
        ("peers_4_commands_3_blocks_3", True),
        ("peers_4_commands_4_blocks_3", True),
    ],
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
        with pytest.raises(UnknownTopic):
            client.get("gone")
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
