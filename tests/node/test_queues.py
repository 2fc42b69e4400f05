"""Work queues on real processes: nodes are killed, and no acknowledged entry is handed out again.

Was every entry worked on? Did an entry come again that was asked for after its ACK had been answered OK? Is
the group at its end on every node?
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher, wait_for
from walrus.client import AsyncClient, Client, Delivery, Position
from walrus.client.errors import WalrusError

pytestmark = pytest.mark.process

SMALL = {"WALRUS_MAX_SEGMENT_ENTRIES": "60"}


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


class Workers:
    """Workers that remember when each entry was asked for, and when its ACK was answered OK."""

    def __init__(self, cluster: Cluster, topic: str, group: str, workers: int = 3) -> None:
        self.seen: Counter[bytes] = Counter()
        self.acknowledged: dict[bytes, float] = {}
        self.again: list[bytes] = []
        """Entries that a RECEIVE brought which was sent after their ACK was answered OK."""
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(addresses(cluster), topic, group, n), daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, nodes: list[str], topic: str, group: str, number: int) -> None:
        with Client(nodes[number % len(nodes) :] + nodes[: number % len(nodes)], timeout=PATIENCE) as client:
            while not self._stop.is_set():
                asked = time.monotonic()
                try:
                    delivery = client.receive(topic, group, wait=0.5)
                    if delivery is not None:
                        self._take(delivery, asked)
                        client.ack(topic, group, delivery)
                        with self._lock:
                            self.acknowledged.setdefault(delivery.payload, time.monotonic())
                except WalrusError:  # a node died; the entry comes again, and is judged then
                    self._stop.wait(0.05)

    def _take(self, delivery: Delivery, asked: float) -> None:
        with self._lock:
            self.seen[delivery.payload] += 1
            if self.acknowledged.get(delivery.payload, asked) < asked:
                self.again.append(delivery.payload)

    def wait_for(self, count: int) -> None:
        """Until so many entries are acknowledged."""
        wait_for(lambda: len(self.acknowledged) >= count or None, f"{count} acknowledged entries")

    def end(self) -> None:
        """Stop them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("also_all", [False, True])
def test_workers_of_a_queue_outlive_their_nodes(launch: Launcher, also_all: bool) -> None:
    cluster = launch(env=SMALL)
    cluster.register("jobs")
    entries = [b"job %d" % number for number in range(240)]
    with Client(addresses(cluster), timeout=PATIENCE) as producer:
        assert all(isinstance(place, Position) for place in producer.put_many("jobs", entries))
    workers = Workers(cluster, "jobs", "g")
    try:
        workers.wait_for(60)
        owner = cluster.segment_leader("jobs")
        cluster[owner].kill()
        workers.wait_for(120)
        cluster[owner].start()
        cluster.wait_ready()
        if also_all:
            for node in cluster:
                node.kill()
            cluster.start()
        workers.wait_for(len(entries))
    finally:
        workers.end()
    assert set(workers.seen) == set(entries), "NothingSkipped: every entry was worked on"
    assert workers.again == [], "AckedNotRedelivered: an entry came again after its ACK was answered OK"
    for node in cluster:
        with Client(f"{node.client[0]}:{node.client[1]}", timeout=PATIENCE) as client:
            assert client.receive("jobs", "g", wait=0.2) is None, "EveryEntryAcked"


def test_what_a_dead_worker_had_comes_again_and_a_full_window_waits(launch: Launcher) -> None:
    cluster = launch()
    cluster.register("jobs")
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        client.put_many("jobs", [b"%d" % number for number in range(10)])
        taken = client.receive_many("jobs", "g", 4, wait=30)
        assert [delivery.payload for delivery in taken] == [b"0", b"1", b"2", b"3"]
        client.ack("jobs", "g", taken[1])
        for delivery in (taken[0], taken[2], taken[3]):
            client.nack("jobs", "g", delivery)
        rest = client.receive_many("jobs", "g", 20)
        assert sorted(delivery.payload for delivery in rest) == sorted(b"%d" % n for n in range(10) if n != 1)
        assert {delivery.deliveries for delivery in rest} == {1, 2}
        assert client.ack_many("jobs", "g", rest) == [None] * 9
        client.seek("jobs", "g", "begin")
        assert client.receive("jobs", "g", wait=30).payload == b"0"  # type: ignore[union-attr]


def test_followers_of_a_group_outlive_its_owner(launch: Launcher) -> None:
    """The last entry stops one follower, which gives it back; it then stops the other."""
    cluster = launch(env=SMALL)
    cluster.register("jobs")
    entries = [b"job %d" % number for number in range(200)]
    seen: Counter[bytes] = Counter()
    lock = threading.Lock()

    def follow(nodes: list[str]) -> None:
        with Client(nodes, timeout=PATIENCE) as client:
            for entry in client.follow("jobs", group="g", prefetch=10):
                with lock:
                    seen[entry.payload] += 1
                if entry.payload == b"end":
                    break

    nodes = addresses(cluster)
    threads = [threading.Thread(target=follow, args=(nodes[n:] + nodes[:n],), daemon=True) for n in range(2)]
    with Client(nodes, timeout=PATIENCE) as client:
        for place in client.put_many("jobs", entries[:100]):
            assert isinstance(place, Position)
        for thread in threads:
            thread.start()
        wait_for(lambda: seen.total() >= 30 or None, "entries that are followed")
        cluster[cluster.segment_leader("jobs", cluster.running()[0])].kill()
        client.producer("jobs").put_many([*entries[100:], b"end"], timeout=PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert set(seen) == {*entries, b"end"}, "NothingSkipped: every entry was followed"
        with client.receive("jobs", "g", wait=None) as delivery:
            assert delivery.payload == b"end", "EveryEntryAcked, but for the one that was in hand"
        assert client.receive("jobs", "g", wait=0.2) is None


def test_a_task_that_is_cut_in_its_block_leaves_the_entry_to_another(launch: Launcher) -> None:
    cluster = launch()

    async def run() -> None:
        async with AsyncClient(addresses(cluster), timeout=PATIENCE) as client:
            await client.register("jobs", {"visibility_ms": 600_000})
            await client.put("jobs", b"one")
            begun = asyncio.Event()

            async def work() -> None:
                async with client.receive("jobs", "g", wait=None):
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            async with client.receive("jobs", "g", wait=None) as delivery:
                assert (delivery.payload, delivery.deliveries) == (b"one", 2)
            assert await client.receive("jobs", "g", wait=0.2) is None

    asyncio.run(run())
