"""Work queues beside GET, numbered appends beside PUT, and what it costs to wait.

    python -m benchmarks.queues [--entries 5000] [--fsync 200]

Three nodes, one client, a connection to the leader of the segment, 100-byte payloads. In flight: 100 RECEIVEs
are sent, and when all are answered their 100 ACKs; GETs by the hundred as well. Processor time is that of all
nodes, from the kernel. The rate of ACKs hangs on the disk: each round is committed by Raft, which syncs on a
majority; the table shows how long one such sync took.

PUT and PUB go by the hundred, in turns; their ratio is the median of the turns. A RECEIVE that waits is
measured beside the PUT that it waits for, from when that was sent; the ratio is of the medians. Consumers
that wait have a connection each, a third of them to each node; their cost is the resident memory of all
nodes, before and after.
"""

from __future__ import annotations

import argparse
import resource
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
        return [self.reply() for _ in requests]

    def reply(self) -> bytes:
        """The next reply."""
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


TURNS = 9
"""Turns of PUT and PUB, each with a tenth of the entries."""


def published(nodes: LocalCluster, entries: int) -> float:
    """The rate of PUB over that of PUT: both by the hundred, each on its own topic, in turns."""
    ratios, number = [], 0
    with (
        dial(port_of(segment_leader(nodes, "put", 1))) as one,
        dial(port_of(segment_leader(nodes, "published", 1))) as other,
    ):
        puts, pubs = Wire(one), Wire(other)
        for _ in range(TURNS):
            begin = time.perf_counter()
            for _ in range(entries // 10 // IN_FLIGHT):
                assert puts.exchange([b"PUT put " + PAYLOAD] * IN_FLIGHT) == [b"OK"] * IN_FLIGHT
            middle = time.perf_counter()
            for _ in range(entries // 10 // IN_FLIGHT):
                requests = [b"PUB published p %d " % n + PAYLOAD for n in range(number, number + IN_FLIGHT)]
                number += IN_FLIGHT
                assert pubs.exchange(requests) == [b"OK"] * IN_FLIGHT
            ratios.append((middle - begin) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def waited(nodes: LocalCluster, times: int = 200) -> tuple[float, float]:
    """Milliseconds from a PUT to its own OK, and to the answer of a RECEIVE that waits for it."""
    own, heard = [], []
    port = port_of(segment_leader(nodes, "waited", 1))
    with dial(port) as one, dial(port) as other:
        puts, receives = Wire(one), Wire(other)
        for _ in range(times):
            receives.connection.sendall(frame(b"RECEIVE waited g 10000"))
            time.sleep(0.005)  # it has begun to wait
            begin = time.perf_counter()
            assert puts.exchange([b"PUT waited " + PAYLOAD]) == [b"OK"]
            own.append(time.perf_counter() - begin)
            reply = receives.reply()  # never before: what came sooner lay in the socket
            heard.append(time.perf_counter() - begin)
            assert receives.exchange([b"ACK waited g " + reply.split(b" ")[1]]) == [b"OK"]
    return statistics.median(own) * 1e3, statistics.median(heard) * 1e3


WAITING = 10_000
"""Consumers that wait at once, as far as this process may have connections."""


def waiting_memory(nodes: LocalCluster) -> tuple[int, float]:
    """How many consumers wait, and the MB that they cost all nodes together."""
    pids = [process.pid for process in nodes.processes.values()]
    count = min(WAITING, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    before, connections = sum(map(resident, pids)), list[socket.socket]()
    try:
        for number in range(count):
            connections.append(dial(port_of(1 + number % len(pids))))
            connections[-1].sendall(frame(b"RECEIVE empty g 60000"))
        time.sleep(3.0)  # all of them are where they wait
        return count, (sum(map(resident, pids)) - before) / 1e6
    finally:
        for connection in connections:
            connection.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process occupies."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


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
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory(prefix="walrus-queues-", dir=".") as name:
        directory = Path(name)
        flags = ["--fsync", options.fsync]
        nodes = LocalCluster(3, directory / "n", client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
        nodes.start()
        try:
            nodes.wait_ready()
            with Client(nodes.addresses) as client:
                for topic in ("put", "published", "waited", "empty"):
                    client.register(topic)
                for topic in ("got", "worked"):
                    client.register(topic)
                    for start in range(0, options.entries * 2, 500):
                        client.put_many(topic, [PAYLOAD] * min(500, options.entries * 2 - start))
            found = measure(nodes, options.entries)
            ratio, (own, heard) = published(nodes, options.entries), waited(nodes)
            waiting, memory = waiting_memory(nodes)
        finally:
            nodes.stop()
        probe = fsync_probe(directory)
    table = Table("", "per second", "of GET", "processor us")
    bare = found["GET, 100 in flight"][0]
    for what, (rate, micros) in found.items():
        table.add_row(what, f"{rate:,.0f}", f"{rate / bare:.2f}", f"{micros:,.0f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"PUB is {ratio:.2f} of PUT, 100 in flight")
    console.print(
        f"a PUT's OK: {own:.2f} ms; a RECEIVE that waits: {heard:.2f} ms, {heard / own:.2f} times that"
    )
    console.print(f"{waiting:,} consumers that wait: {memory:.1f} MB on three nodes")
    console.print(f"a sync of this disk: {probe:.2f} ms")


if __name__ == "__main__":
    main()
