"""Work queues beside GET, numbered appends beside PUT, and the cost of waiting consumers.

    python -m benchmarks.queues [--entries 5000] [--fsync 200]
    python -m benchmarks.queues --only peers    beside NATS JetStream, where it is installed

Three nodes, one client, a connection to the leader of the segment, 100-byte payloads. "In flight": 100
RECEIVEs are sent, and when all are answered their 100 ACKs; GETs are sent by the hundred as well; and both
on eight connections at once. Each ratio is printed beside its goal. Processor time is that of all nodes,
from the kernel. The rate of ACKs depends on the disk: Raft commits each round, which syncs on a majority;
the table shows how long one such sync took.

PUT and PUB are sent by the hundred, in turns; their ratio is the median of the turns. A RECEIVE that waits
is measured beside the PUT that it waits for, from when that was sent; the ratio is of the medians. Waiting
consumers have a connection each, a third of them to each node; their cost is the resident memory of all
nodes, before and after, and the change in the rate of PUT to another topic.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import resource
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import queue_peers
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
from benchmarks.cluster_peers import Nats
from benchmarks.one_put import processor_seconds
from walrus.client import Client
from walrus.cluster import LocalCluster
from walrus.shell.descriptors import raise_file_limit

IN_FLIGHT = 100


class Wire:
    """One connection: sends requests together, and reads as many replies."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.buffer = connection, bytearray()

    def exchange(self, requests: list[bytes]) -> list[bytes]:
        """Send all requests, and wait for all replies."""
        return exchange([self], [requests])[0]

    def reply(self) -> bytes:
        """Return the next reply."""
        while len(self.buffer) < 4 or len(self.buffer) < 4 + struct.unpack_from("<I", self.buffer)[0]:
            received = self.connection.recv(1 << 20)
            assert received, "the node hung up"
            self.buffer += received
        end = 4 + struct.unpack_from("<I", self.buffer)[0]
        reply = bytes(self.buffer[4:end])
        del self.buffer[:end]
        return reply


def exchange(wires: list[Wire], requests: list[list[bytes]]) -> list[list[bytes]]:
    """Send all requests on all connections, and wait for all replies."""
    for wire, its in zip(wires, requests, strict=True):
        wire.connection.sendall(b"".join(map(frame, its)))
    return [[wire.reply() for _ in its] for wire, its in zip(wires, requests, strict=True)]


def get(wires: list[Wire], count: int) -> None:
    """GET the next `count` entries on each connection."""
    for replies in exchange(wires, [[b"GET got"] * count] * len(wires)):
        assert all(reply.startswith(b"OK") for reply in replies)


def work(wires: list[Wire], count: int, topic: bytes = b"worked") -> None:
    """RECEIVE and ACK the next `count` entries on each connection."""
    given = exchange(wires, [[b"RECEIVE %b g" % topic] * count] * len(wires))
    acks = [[b"ACK %b g %b" % (topic, reply.split(b" ")[1]) for reply in replies] for replies in given]
    assert exchange(wires, acks) == [[b"OK"] * count] * len(wires)


class Workload(NamedTuple):
    """Rounds of one kind, with `at_once` requests on each connection."""

    topic: str
    round: Callable[[list[Wire], int], None]
    connections: int
    at_once: int

    def rounds(self, entries: int) -> int:
        """Return the number of rounds: at least one, whatever the number of entries."""
        return max(1, entries // (self.connections * self.at_once))

    def entries(self, entries: int) -> int:
        """Return how many entries these rounds take."""
        return self.rounds(entries) * self.connections * self.at_once


LOADS = {
    "GET, 100 in flight": Workload("got", get, 1, IN_FLIGHT),
    "RECEIVE and ACK, 100 in flight": Workload("worked", work, 1, IN_FLIGHT),
    "GET, 8 x 100 in flight": Workload("got", get, 8, IN_FLIGHT),
    "RECEIVE and ACK, 8 x 100 in flight": Workload("worked", work, 8, IN_FLIGHT),
    "RECEIVE and ACK, one at a time": Workload("worked", work, 1, 1),
}
ONE_AT_A_TIME = 10
"""The one-at-a-time load takes this many times fewer entries."""


def put(wire: Wire, rounds: int) -> None:
    """Send this many rounds of a hundred PUTs."""
    for _ in range(rounds):
        assert wire.exchange([b"PUT put " + PAYLOAD] * IN_FLIGHT) == [b"OK"] * IN_FLIGHT


def pub(wire: Wire, topic: bytes, numbers: Iterator[int], rounds: int) -> None:
    """Send this many rounds of a hundred PUBs."""
    for _ in range(rounds):
        requests = [
            b"PUB %b p %d %b" % (topic, number, PAYLOAD) for number in itertools.islice(numbers, IN_FLIGHT)
        ]
        assert wire.exchange(requests) == [b"OK"] * IN_FLIGHT


TURNS = 9
"""Turns of PUT and PUB, each with a tenth of the entries."""


def published(nodes: LocalCluster, entries: int) -> float:
    """Return the rate of PUB over that of PUT: both by the hundred, each on its own topic, in turns."""
    ratios, numbers, rounds = [], itertools.count(), max(1, entries // 10 // IN_FLIGHT)
    with (
        dial(port_of(segment_leader(nodes, "put", 1))) as one,
        dial(port_of(segment_leader(nodes, "published", 1))) as other,
    ):
        puts, pubs = Wire(one), Wire(other)
        for _ in range(TURNS):
            begin = time.perf_counter()
            put(puts, rounds)
            middle = time.perf_counter()
            pub(pubs, b"published", numbers, rounds)
            ratios.append((middle - begin) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def waited(nodes: LocalCluster, times: int = 200) -> tuple[float, float]:
    """Return the milliseconds from a PUT to its own OK, and to the answer of a RECEIVE that waits for it."""
    own, heard = [], []
    port = port_of(segment_leader(nodes, "waited", 1))
    with dial(port) as one, dial(port) as other:
        puts, receives = Wire(one), Wire(other)
        for _ in range(times):
            receives.connection.sendall(frame(b"RECEIVE waited g 10000"))
            time.sleep(0.005)  # so that it waits before the PUT is sent
            begin = time.perf_counter()
            assert puts.exchange([b"PUT waited " + PAYLOAD]) == [b"OK"]
            own.append(time.perf_counter() - begin)
            reply = receives.reply()  # not read earlier: a reply that came sooner stays in the socket
            heard.append(time.perf_counter() - begin)
            assert receives.exchange([b"ACK waited g " + reply.split(b" ")[1]]) == [b"OK"]
    return statistics.median(own) * 1e3, statistics.median(heard) * 1e3


WAITING = 10_000
"""Consumers that wait at once, as far as this process may open connections."""


class Waits(NamedTuple):
    """The cost of waiting consumers."""

    waiting: int
    megabytes: float
    put: float
    """The rate of PUT beside them, divided by the rate without them."""


def put_rate(nodes: LocalCluster, entries: int) -> float:
    """Return PUTs per second, by the hundred: the median of some turns."""
    rates, rounds = [], max(1, entries // 10 // IN_FLIGHT)
    with dial(port_of(segment_leader(nodes, "put", 1))) as connection:
        puts = Wire(connection)
        for _ in range(TURNS):
            begin = time.perf_counter()
            put(puts, rounds)
            rates.append(rounds * IN_FLIGHT / (time.perf_counter() - begin))
    return statistics.median(rates)


def waits(nodes: LocalCluster, entries: int) -> Waits:
    """Have consumers wait, and measure what they cost all nodes together."""
    pids = [process.pid for process in nodes.processes.values()]
    count = min(WAITING, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    alone = put_rate(nodes, entries)
    before, connections = sum(map(resident, pids)), list[socket.socket]()
    try:
        for number in range(count):
            connections.append(dial(port_of(1 + number % len(pids))))
            connections[-1].sendall(frame(b"RECEIVE empty g 60000"))
        time.sleep(3.0)  # until all of them wait
        memory = (sum(map(resident, pids)) - before) / 1e6
        return Waits(count, memory, put_rate(nodes, entries) / alone)
    finally:
        for connection in connections:
            connection.close()


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def fsync_probe(directory: Path) -> float:
    """Return the milliseconds of one small write and sync on this disk, the median of 50."""
    times = []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            begin = time.perf_counter()
            file.write(bytes(512))
            posix_sync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def posix_sync(fd: int) -> None:
    """Sync as the engine does."""
    from walrus.storage.posix import sync_descriptor

    sync_descriptor(fd)


def measure(nodes: LocalCluster, entries: int) -> dict[str, tuple[float, float]]:
    """Return rates and processor microseconds, by load."""
    found = {}
    pids = [process.pid for process in nodes.processes.values()]
    for name, load in LOADS.items():
        port = port_of(segment_leader(nodes, load.topic, 1))
        wires = [Wire(dial(port)) for _ in range(load.connections)]
        begin, before = time.perf_counter(), processor_seconds(pids)
        for _ in range(load.rounds(share(load, entries))):
            load.round(wires, load.at_once)
        elapsed, used = time.perf_counter() - begin, processor_seconds(pids) - before
        for wire in wires:
            wire.connection.close()
        count = load.entries(share(load, entries))
        found[name] = count / elapsed, used / count * 1e6
    return found


def share(load: Workload, entries: int) -> int:
    """Return how many of `entries` a load takes."""
    return entries // ONE_AT_A_TIME if load.at_once == 1 else entries


def fill(client: Client, entries: int) -> None:
    """Write the entries that will be read."""
    for topic in ("put", "published", "waited", "empty", "got", "worked"):
        client.register(topic)
        left = sum(load.entries(share(load, entries)) for load in LOADS.values() if load.topic == topic)
        while left > 0:
            client.put_many(topic, [PAYLOAD] * min(500, left))
            left -= 500


def beside(nodes: LocalCluster, directory: Path, fsync: str, entries: int) -> Iterator[Table | str]:
    """Compare work queues and PUB with JetStream: by default, and where it syncs before it answers."""
    loads = {what: load for what, load in LOADS.items() if load.topic == "worked"}
    turn = entries // queue_peers.PAIRS
    needed = queue_peers.PAIRS * sum(load.entries(share(load, turn)) for load in loads.values())
    for peer in (Nats(durable=False), Nats(durable=True)):
        if reason := peer.missing():
            yield reason
            continue
        topic = f"beside-{'synced' if peer.durable else 'unsynced'}"
        with Client(nodes.addresses, timeout=30.0) as client:
            for name in (topic, f"{topic}-numbered"):
                client.register(name)
            for begin in range(0, needed, 500):
                client.put_many(topic, [PAYLOAD] * min(500, needed - begin))
        try:
            peer.start(directory / topic)
            queue_peers.fill(peer, needed)
            found = {what: beside_work(nodes, peer, topic, load, turn) for what, load in loads.items()}
            found["PUB, 100 in flight"] = beside_pub(nodes, peer, f"{topic}-numbered", turn)
        finally:
            peer.stop()
        yield queue_peers.table_of(peer, fsync, found)


def beside_work(
    nodes: LocalCluster, peer: Nats, topic: str, load: Workload, entries: int
) -> list[tuple[float, float]]:
    """Measure RECEIVE and ACK in turns."""
    rounds = load.rounds(share(load, entries))
    ours = [Wire(dial(port_of(segment_leader(nodes, topic, 1)))) for _ in range(load.connections)]
    theirs = queue_peers.consumers(peer, load.connections)

    def all_rounds(one: Callable[[], None]) -> None:
        for _ in range(rounds):
            one()

    with contextlib.ExitStack() as stack:
        for wire in ours:
            stack.enter_context(wire.connection)
        for other in theirs:
            stack.enter_context(other.socket)
        return queue_peers.in_turns(
            load.entries(share(load, entries)),
            partial(all_rounds, partial(work, ours, load.at_once, topic.encode())),
            partial(all_rounds, partial(queue_peers.work, theirs, load.at_once)),
        )


def beside_pub(nodes: LocalCluster, peer: Nats, topic: str, entries: int) -> list[tuple[float, float]]:
    """Measure PUB in turns, a hundred at a time."""
    rounds, line = max(1, entries // IN_FLIGHT), peer.line(ids=True)

    def theirs() -> None:
        for _ in range(rounds):
            queue_peers.publish(line, IN_FLIGHT)

    with dial(port_of(segment_leader(nodes, topic, 1))) as connection, line.socket:
        ours = partial(pub, Wire(connection), topic.encode(), itertools.count(), rounds)
        return queue_peers.in_turns(rounds * IN_FLIGHT, ours, theirs)


def alone(nodes: LocalCluster, entries: int) -> Iterator[Table]:
    """Measure everything that needs no peer, with its goals."""
    with Client(nodes.addresses) as client:
        fill(client, entries)
    found = measure(nodes, entries)
    ratio, (own, heard) = published(nodes, entries), waited(nodes)
    cost = waits(nodes, entries)
    table = Table("", "per second", "processor us")
    for what, (rate, micros) in found.items():
        table.add_row(what, f"{rate:,.0f}", f"{micros:,.0f}")
    goals = Table("", "found", "goal")
    for many in ("100 in flight", "8 x 100 in flight"):
        over = found[f"RECEIVE and ACK, {many}"][0] / found[f"GET, {many}"][0]
        goals.add_row(f"RECEIVE and ACK over GET, {many}", f"{over:.2f}", "at least 0.3")
    goals.add_row("PUB over PUT, 100 in flight", f"{ratio:.2f}", "at least 0.9")
    heard_in = f"{heard:.2f} ms, {heard / own:.2f} times that"
    goals.add_row(f"a RECEIVE that waits; a PUT's OK takes {own:.2f} ms", heard_in, "at most 1.3 times")
    waiters = f"{cost.waiting:,} consumers that wait, on three nodes"
    goals.add_row(waiters, f"{cost.megabytes:.1f} MB", "below 40 MB")
    goals.add_row("PUT beside them over PUT without them", f"{cost.put:.2f}", "1, but for the noise")
    yield from (table, goals)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.queues", description="RECEIVE and ACK beside GET")
    parser.add_argument("--entries", type=int, default=5_000, metavar="N", help="default: 5000")
    parser.add_argument("--fsync", choices=SCHEDULES, default="200")
    parser.add_argument("--only", choices=("alone", "peers"), help="one part only")
    options = parser.parse_args()
    raise_file_limit()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="walrus-queues-", dir=".") as name:
        directory = Path(name)
        flags = ["--fsync", options.fsync]
        nodes = LocalCluster(3, directory / "n", client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
        nodes.start()
        try:
            nodes.wait_ready()
            if options.only != "peers":
                console.print(*alone(nodes, options.entries))
            if options.only != "alone":
                console.print(*beside(nodes, directory, options.fsync, options.entries))
        finally:
            nodes.stop()
        probe = fsync_probe(directory)
    console.print(f"a sync of this disk: {probe:.2f} ms")


if __name__ == "__main__":
    main()
