"""Latency under load: PUT, GET and RECEIVE at half and at four fifths of the rate that the cluster can take.

    python -m benchmarks.latency [--seconds 5] [--fsync 200]

First the highest rate: eight connections with 100 in flight each. Then an open loop: requests are due at even
distances, whether or not earlier ones are answered, and a latency counts from when its request was *due*. (A
closed loop asks less of a server that pauses, and so measures one slow request where a hundred users would
have waited: coordinated omission.) RECEIVE is followed by its ACK, which is not part of its latency.

The longest pass of each node's event loop, in processor time, says whether a pause was the program's own: the
rest is the disk, the scheduler, and what else the machine does.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
from benchmarks.scale import Probed
from walrus.client import Client

CONNECTIONS = 8
IN_FLIGHT = 100
SHARES = (0.5, 0.8)
QUANTILES = (0.5, 0.99, 0.999)
VERBS = {"PUT": b"PUT put " + PAYLOAD, "GET": b"GET get", "RECEIVE": b"RECEIVE work g"}


class Line:
    """One connection: what was asked on it and when that was due, in the order of the answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket: socket.socket = dial(address)
        self.due: deque[float] = deque()  # negative: an ACK, whose answer nobody waits for
        self.buffer = bytearray()

    def ask(self, request: bytes, due: float) -> None:
        """Send it."""
        self.due.append(due)
        self.socket.sendall(request)

    def answers(self) -> Iterator[tuple[float, bytes]]:
        """What has arrived: when its request was due, and the reply."""
        self.buffer += self.socket.recv(1 << 20)
        start, unpack = 0, struct.Struct("<I").unpack_from
        while len(self.buffer) - start >= 4:
            end = start + 4 + unpack(self.buffer, start)[0]
            if end > len(self.buffer):
                break
            yield self.due.popleft(), bytes(self.buffer[start + 4 : end])
            start = end
        del self.buffer[:start]


class Load(NamedTuple):
    """What came of one load."""

    rate: float  # answered in a second
    latencies: list[float]  # seconds, sorted


def run(address: tuple[str, int], verb: str, seconds: float, rate: float | None) -> Load:
    """An open loop of so many requests a second; None: as many as the connections take with 100 in flight."""
    request, latencies = frame(VERBS[verb]), list[float]()
    lines, poll = [Line(address) for _ in range(CONNECTIONS)], selectors.DefaultSelector()
    for line in lines:
        poll.register(line.socket, selectors.EVENT_READ, line)
    begin = time.perf_counter()
    end, sent = begin + seconds, 0
    if rate is None:
        for line in lines:
            for _ in range(IN_FLIGHT):
                line.ask(request, begin)
    while (now := time.perf_counter()) < end or any(line.due for line in lines):
        while rate is not None and (due := begin + sent / rate) <= min(now, end):
            lines[sent % CONNECTIONS].ask(request, due)
            sent += 1
        for key, _ in poll.select(0.0002 if rate is not None and now < end else 1.0):
            after: list[bytes] = []
            for due, reply in key.data.answers():
                now = time.perf_counter()
                if due < 0:
                    continue
                latencies.append(now - due)
                if verb == "RECEIVE" and reply.startswith(b"OK"):
                    after.append(frame(b"ACK work g " + reply.split(b" ", 2)[1]))
                    key.data.due.append(-1.0)
                if rate is None and now < end:
                    after.append(request)
                    key.data.due.append(now)
            if after:
                key.data.socket.sendall(b"".join(after))
    elapsed = time.perf_counter() - begin
    for line in lines:
        line.socket.close()
    return Load(len(latencies) / elapsed, sorted(latencies))


def quantile(values: list[float], share: float) -> float:
    """Milliseconds."""
    return values[min(len(values) - 1, int(len(values) * share))] * 1e3


def fill(nodes: Probed, topic: str, entries: int) -> None:
    """Something to read."""
    with Client(nodes.addresses) as client:
        client.register(topic)
        for _ in range(0, entries, 1_000):
            client.put_many(topic, [PAYLOAD] * 1_000)


def measure(
    directory: Path, schedule: str, seconds: float
) -> tuple[dict[tuple[str, str], Load], tuple[float, dict[str, float]]]:
    """Every verb at every load, and the milliseconds of the longest pass of any node's event loop."""
    found: dict[tuple[str, str], Load] = {}
    flags = ["--fsync", schedule]
    nodes = Probed(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
    try:
        nodes.start()
        nodes.wait_ready()
        for verb, topic in (("PUT", "put"), ("GET", "get"), ("RECEIVE", "work")):
            fill(nodes, topic, 1_000 if verb == "PUT" else 300_000 if verb == "GET" else 100_000)
            address = port_of(segment_leader(nodes, topic, 1))
            most = found[verb, "all it can"] = run(address, verb, min(2.0, seconds), None)
            for share in SHARES:
                found[verb, f"{share:.0%}"] = run(address, verb, seconds, most.rate * share)
    finally:
        nodes.stop()
    return found, nodes.longest()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description="latency under load, open loop")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load; default: 5")
    parser.add_argument("--fsync", choices=SCHEDULES, default="200")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walrus-latency-", dir=".") as directory:
        found, longest = measure(Path(directory) / "n", options.fsync, options.seconds)
    table = Table("", "load", "per second", "p50 ms", "p99 ms", "p99.9 ms", "most ms")
    for (verb, load), (rate, values) in found.items():
        cells = [f"{quantile(values, share):,.1f}" for share in (*QUANTILES, 1.0)]
        table.add_row(verb, load, f"{rate:,.0f}", *cells)
    console = Console(width=100)
    console.print(table)
    milliseconds, parts = longest
    most = ", ".join(
        f"{name} {cost:.0f}" for name, cost in sorted(parts.items(), key=lambda part: -part[1])[:5]
    )
    console.print(f"longest pass of a node's event loop: {milliseconds:.0f} ms of processor time: {most}")


if __name__ == "__main__":
    main()
