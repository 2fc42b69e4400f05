"""A small cluster at work with a console beside it, for the browser tests and the console's screenshots.

with watched(directory) as seen:
    page.goto(seen.url)
    seen.cluster.address(1)
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from walrus.client import Client, WalrusError
from walrus.cluster import LocalCluster, start_console, take_down
from walrus.demo import free_ports

SEGMENT_ENTRIES = 400
"""Short, so that a topic soon has segments of several leaders."""
TOPICS = ("invoices", "metrics.checkout", "orders")
"""Topics beside that of the console's own stream."""
FLAGS = (
    *("--fsync", "none", "--log-level", "warning", "--heartbeat-ms", "100"),
    *("--election-timeout-ms", "4000", "--lease-ttl-ms", "5000", "--failure-timeout-ms", "8000"),
)
"""A live leader is not replaced, even on a busy machine; a killed one is replaced at once."""


@dataclass(frozen=True)
class Watched:
    """The running cluster and its console."""

    cluster: LocalCluster
    url: str
    """The URL of the page, with the token."""


def _work(addresses: list[str], stop: threading.Event) -> None:
    """Write to every topic, read with two groups, one of which falls behind."""
    turn = 0
    with Client(addresses, timeout=10.0) as client:
        while not stop.wait(0.05):
            turn += 1
            try:
                for number, topic in enumerate(TOPICS):
                    client.put_many(topic, [b"%d" % turn] * (12 >> number))
                client.get_many("orders", 3, group="billing")
                client.get_many("orders", 1, group="search")
                client.get_many("invoices", 5, group="archive")
            except WalrusError:
                continue  # mostly a failover, which the page shows


def _console(cluster: LocalCluster, http: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start a console and return the address that it prints."""
    process = start_console(cluster, f"127.0.0.1:{http}", subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.readline().decode()
    assert said.startswith("console: "), said
    return process, said.split()[1]


@contextmanager
def watched(directory: Path, nodes: int = 3, base: int = 0) -> Iterator[Watched]:
    """Start nodes, work for them, and a console in play mode; end all of it after the `with`.

    `base` is the first of the `2 * nodes + 1` ports that they take.
    """
    base = base or free_ports(2 * nodes + 1)
    cluster = LocalCluster(
        nodes, directory, client_port=base, raft_port=base + nodes, flags=FLAGS, traces=True
    )
    cluster.environ |= {"WALRUS_MAX_SEGMENT_ENTRIES": str(SEGMENT_ENTRIES)}
    cluster.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    stop = threading.Event()
    console: subprocess.Popen[bytes] | None = None
    try:
        cluster.start()
        cluster.wait_ready()
        with Client(cluster.addresses) as client:
            for topic in TOPICS:
                client.register(topic)
        worker = threading.Thread(target=_work, args=(cluster.addresses, stop), daemon=True)
        worker.start()
        console, url = _console(cluster, base + 2 * nodes)
        yield Watched(cluster, url)
        stop.set()
        worker.join()
    finally:
        stop.set()
        if console is not None:
            console.terminate()
            console.wait()
        for node_id in cluster.processes:
            cluster.kill(node_id)
        take_down(directory)  # the console's nodes are no children of this process
