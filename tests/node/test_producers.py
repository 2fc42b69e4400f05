"""Exactly-once appends on real processes: nodes are killed, and each entry of a producer is there once."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher, wait_for
from walrus.client import Client, WalrusError

pytestmark = pytest.mark.process

SMALL = {"WALRUS_MAX_SEGMENT_ENTRIES": "150"}


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


class Stream:
    """Producers, each through a node of its own first, that put one chunk after the other."""

    def __init__(self, cluster: Cluster, topic: str, chunks: int) -> None:
        self.entries = [
            [[b"%d-%d-%d" % (turn, chunk, n) for n in range(20)] for chunk in range(chunks)]
            for turn in range(3)
        ]
        self.acknowledged = 0
        self.again = 0
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._produce, args=(turn, addresses(cluster), topic), daemon=True)
            for turn in range(3)
        ]
        for thread in self._threads:
            thread.start()

    def _produce(self, turn: int, nodes: list[str], topic: str) -> None:
        try:
            with Client(nodes[turn:] + nodes[:turn], timeout=PATIENCE) as client:
                producer = client.producer(topic)
                for chunk in self.entries[turn]:
                    self._put(producer, chunk)
                assert producer.next_number == 20 * len(self.entries[turn]) and not producer.kept
        except BaseException as error:
            self.failures.append(error)
            raise

    def _put(self, producer, chunk: list[bytes]) -> None:
        try:
            producer.put_many(chunk)
        except WalrusError:  # it took longer than the deadline: what was kept goes first
            self.again += 1
            producer.flush(timeout=PATIENCE)
        with self._lock:
            self.acknowledged += len(chunk)

    def wait_for(self, count: int) -> None:
        """Until so many entries are acknowledged."""
        wait_for(lambda: self.acknowledged >= count or self.failures or None, f"{count} acknowledged")

    def end(self) -> list[bytes]:
        """Wait for all; the entries in the order of each producer."""
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not self.failures
        return [entry for chunks in self.entries for chunk in chunks for entry in chunk]


@pytest.mark.parametrize("also_all", [False, True])
def test_each_entry_of_a_producer_is_there_once_whatever_dies(launch: Launcher, also_all: bool) -> None:
    cluster = launch(env=SMALL)
    cluster.register("orders")
    stream = Stream(cluster, "orders", chunks=30)
    stream.wait_for(300)
    with Client(addresses(cluster)) as client:
        victim = client.state("orders")["leader_node"]
    if also_all:
        for node in cluster:
            node.kill()
        for node in cluster:
            node.start()
    else:
        cluster[victim].kill()
        stream.wait_for(700)
        cluster[victim].start()
    expected = stream.end()
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        found = list(client.entries("orders"))
    assert Counter(found) == Counter(expected), "NoDuplicateAppend: an entry is twice in the topic, or lost"
    for turn in b"0", b"1", b"2":
        mine = [entry for entry in found if entry.startswith(turn + b"-")]
        assert mine == [entry for entry in expected if entry.startswith(turn + b"-")], "NumbersWithoutGap"
