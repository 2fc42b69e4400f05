"""GET and FETCH that wait, and followers, on real processes: woken by a PUT, across Seals and failovers."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.node.harness import PATIENCE, Cluster, Launcher, wait_for
from walrus.client import AsyncClient, Client

pytestmark = pytest.mark.process

SMALL = {"WALRUS_MAX_SEGMENT_ENTRIES": "50"}


def addresses(cluster: Cluster) -> list[str]:
    """The client ports of all nodes."""
    return [f"{host}:{port}" for host, port in (node.client for node in cluster)]


def test_a_fetch_and_a_get_that_wait_hear_of_a_put_on_any_node(launch: Launcher) -> None:
    cluster = launch()
    cluster.register("t")
    fetching, getting = [node.wire() for node in cluster], [node.wire() for node in cluster]
    for number, (one, other) in enumerate(zip(fetching, getting, strict=True)):
        one.send(b"FETCH t 1 0 20000")
        other.send(b"GET t g%d 20000" % number)
    quiet = cluster[1].wire()
    assert quiet.ask(b"FETCH t 1 0 300") == b"EMPTY", "its time is over"
    assert quiet.ask(b"GET t other") == b"EMPTY", "a wait holds up no other request"
    began = time.monotonic()
    assert quiet.ask(b"PUT t hello") == b"OK"
    assert [wire.receive() for wire in fetching] == [b"OK 1 hello"] * 3
    assert [wire.receive() for wire in getting] == [b"OK hello"] * 3
    assert time.monotonic() - began < 10, "not by their timeouts"


def test_a_follower_sees_every_entry_once_across_seals_and_a_failover(launch: Launcher) -> None:
    cluster = launch(env=SMALL)
    cluster.register("t")
    seen: list[bytes] = []

    def read() -> None:
        with Client(addresses(cluster), timeout=PATIENCE) as client:
            for entry in client.follow("t"):
                seen.append(entry.payload)
                if entry.payload == b"end":
                    return

    threads = [threading.Thread(target=read, daemon=True)]
    threads[0].start()
    expected = []
    with Client(addresses(cluster), timeout=PATIENCE) as client:
        producer = client.producer("t")
        for chunk in range(12):
            entries = [b"%d-%d" % (chunk, n) for n in range(20)]
            producer.put_many(entries, timeout=PATIENCE)
            expected += entries
            if chunk == 6:
                cluster[cluster.segment_leader("t", cluster.running()[0])].kill()
        producer.put(b"end", timeout=PATIENCE)
    wait_for(lambda: (b"end" in seen) or None, "the follower at the end")
    assert seen == [*expected, b"end"]


def test_many_tasks_follow_and_one_put_wakes_them_all(launch: Launcher) -> None:
    cluster = launch()
    cluster.register("t")

    async def first(client: AsyncClient) -> bytes:
        async for entry in client.follow("t"):
            return entry.payload
        raise AssertionError("a follower does not end")

    async def run() -> list[bytes]:
        async with AsyncClient(addresses(cluster), timeout=PATIENCE) as client:
            tasks = [asyncio.create_task(first(client)) for _ in range(20)]
            await asyncio.sleep(0)
            await client.put("t", b"hello")
            return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    assert asyncio.run(run()) == [b"hello"] * 20
