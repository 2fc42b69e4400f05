"""Work queues beside GET: RECEIVE and ACK of a topic's entries, with 100 in flight and one at a time.

    python -m benchmarks.queues [--entries 5000] [--fsync 200]

Three nodes, one client, a connection to the leader of the segment, 100-byte payloads. In flight: 100 RECEIVEs
are sent, and when all are answered their 100 ACKs; GETs by the hundred as well. Processor time is that of all
nodes, from the kernel. The rate of ACKs hangs on the disk: each round is committed by Raft, which syncs on a
majority; the table shows how long one such sync took.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cluster import (
    CLIENT_PORT,
    PAYLOAD,
    RAFT_PORT,
    SCHEDULES,
    dial,
    frame,
    port_of,
    segment_leader,
)
from benchmarks.one_put import processor_seconds
from walrus.client import Client
from walrus.cluster import LocalCluster

IN_FLIGHT = 100


class Wire:
    """One connection: requests out together, as many replies in."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.buffer = connection, bytearray()

    def exchange(self, requests: list[bytes]) -> list[bytes]:
        """Send all, wait for all."""
        self.connection.sendall(b"".join(map(frame, requests)))
        return [self._reply() for _ in requests]

    def _reply(self) -> bytes:
        while len(self.buffer) < 4 or len(self.buffer) < 4 + struct.unpack_from("<I", self.buffer)[0]:
            received = self.connection.recv(1 << 20)
            assert received, "the node hung up"
            self.buffer += received
        end = 4 + struct.unpack_from("<I", self.buffer)[0]
        reply = bytes(self.buffer[4:end])
        del self.buffer[:end]
        return reply


def get(wire: Wire, count: int) -> None:
    """The next `count` entries."""
    assert all(reply.startswith(b"OK") for reply in wire.exchange([b"GET got"] * count))


def work(wire: Wire, count: int) -> None:
    """The next `count`, and the word that they are done."""
    replies = wire.exchange([b"RECEIVE worked g"] * count)
    acks = [b"ACK worked g " + reply.split(b" ")[1] for reply in replies]
    assert wire.exchange(acks) == [b"OK"] * count


def fsync_probe(directory: Path) -> float:
    """Milliseconds of one small write and sync on this disk, the median of 50."""
    times = []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            begin = time.perf_counter()
            file.write(bytes(512))
            posix_sync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def posix_sync(fd: int) -> None:
    """The sync that the engine makes."""
    from walrus.storage.posix import sync_descriptor

    sync_descriptor(fd)


def measure(nodes: LocalCluster, entries: int) -> dict[str, tuple[float, float]]:
    """Rates and processor microseconds, by what was done."""
    found = {}
    loops: dict[str, tuple[str, Callable[[Wire, int], None], int, int]] = {
        "GET, 100 in flight": ("got", get, IN_FLIGHT, entries),
        "RECEIVE and ACK, 100 in flight": ("worked", work, IN_FLIGHT, entries),
        "RECEIVE and ACK, one at a time": ("worked", work, 1, entries // 10),
    }
    pids = [process.pid for process in nodes.processes.values()]
    for name, (topic, loop, at_once, count) in loops.items():
        with dial(port_of(segment_leader(nodes, topic, 1))) as connection:
            wire = Wire(connection)
            begin, before = time.perf_counter(), processor_seconds(pids)
            for _ in range(count // at_once):
                loop(wire, at_once)
            elapsed, used = time.perf_counter() - begin, processor_seconds(pids) - before
        found[name] = count / elapsed, used / count * 1e6
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.queues", description="RECEIVE and ACK beside GET")
    parser.add_argument("--entries", type=int, default=5_000, metavar="N", help="default: 5000")
    parser.add_argument("--fsync", choices=SCHEDULES, default="200")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walrus-queues-", dir=".") as name:
        directory = Path(name)
        flags = ["--fsync", options.fsync]
        nodes = LocalCluster(3, directory / "n", client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
        nodes.start()
        try:
            nodes.wait_ready()
            with Client(nodes.addresses) as client:
                for topic in ("got", "worked"):
                    client.register(topic)
                    for start in range(0, options.entries * 2, 500):
                        client.put_many(topic, [PAYLOAD] * min(500, options.entries * 2 - start))
            found = measure(nodes, options.entries)
        finally:
            nodes.stop()
        probe = fsync_probe(directory)
    table = Table("", "per second", "of GET", "processor us")
    bare = found["GET, 100 in flight"][0]
    for what, (rate, micros) in found.items():
        table.add_row(what, f"{rate:,.0f}", f"{rate / bare:.2f}", f"{micros:,.0f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"a sync of this disk: {probe:.2f} ms")


if __name__ == "__main__":
    main()
