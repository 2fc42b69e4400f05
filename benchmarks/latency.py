"""Latency under load: PUT, GET and RECEIVE at half and at four fifths of the rate that the cluster can take.

    python -m benchmarks.latency [--seconds 5] [--fsync 200] [--svg docs/figures/latency.svg]

First the highest rate is measured: eight connections with 100 in flight each. Then an open loop: requests
are due at regular intervals, whether or not earlier ones are answered, and a latency counts from when its
request was *due*. (A closed loop asks less of a server that pauses, and so measures one slow request where a
hundred users would have waited: coordinated omission.) RECEIVE is followed by its ACK, which is not part of
its latency; but a RECEIVE waits while a thousand entries of its group are out.

The longest pass of each node's event loop, in processor time, says whether a pause was the program's own:
the rest is the disk, the scheduler, and other programs. Passes of more than 20 ms are counted by what the
node did in them (`pause_probe.py`).
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
from benchmarks.latency_picture import picture
from benchmarks.scale import Probed, show_pauses, tell
from walrus.client import Client

CONNECTIONS = 8
IN_FLIGHT = 100
SHARES = (0.5, 0.8)
GUESSED = {"PUT": 0, "GET": 200_000, "RECEIVE": 50_000}
"""Readable entries per second that are prepared before the highest rate is known."""
NO_PAUSE_ABOVE = 20.0
"""The goal, in milliseconds."""
MOST_WAITING = 50_000
"""Unanswered requests at which the loop reads before it sends more; a latency still counts from `due`."""
QUANTILES = (0.5, 0.99, 0.999)
VERBS = {"PUT": b"PUT put " + PAYLOAD, "GET": b"GET get", "RECEIVE": b"RECEIVE work g 20000"}
"""A RECEIVE waits while 1,000 entries are out; without its waiting time it would be answered EMPTY."""


class Line:
    """One connection: its requests and when each was due, in the order of the answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket: socket.socket = dial(address)
        self.due: deque[float] = deque()  # negative: an ACK, whose latency is not measured
        self.buffer = bytearray()

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self.due.append(due)
        self.socket.sendall(request)

    def answers(self) -> Iterator[tuple[float, bytes]]:
        """Yield what has arrived: when the request was due, and the reply."""
        self.buffer += self.socket.recv(1 << 20)
        start, unpack = 0, struct.Struct("<I").unpack_from
        while len(self.buffer) - start >= 4:
            end = start + 4 + unpack(self.buffer, start)[0]
            if end > len(self.buffer):
                break
            yield self.due.popleft(), bytes(self.buffer[start + 4 : end])
            start = end
        del self.buffer[:start]


class LoadResult(NamedTuple):
    """The result of one load."""

    rate: float  # answers per second
    latencies: list[float]  # seconds, sorted
    refused: dict[str, int]  # answers that are not OK, counted by their first words
    client: float  # processor time of the client, as a share of the elapsed time

    def told(self) -> str:
        """Describe the result in a line."""
        p50, p99, p999 = (f"{quantile(self.latencies, share):,.1f}" for share in QUANTILES)
        refused = "".join(f"; {count:,} x {word}" for word, count in self.refused.items())
        return f"{self.rate:,.0f}/s, p50 {p50}, p99 {p99}, p99.9 {p999} ms{refused}"


class Loop:
    """Requests of one kind on eight connections, and their latencies."""

    def __init__(self, address: tuple[str, int], verb: str) -> None:
        self.verb, self.request = verb, frame(VERBS[verb])
        self.lines = [Line(address) for _ in range(CONNECTIONS)]
        self.poll = selectors.SelectSelector()  # its timeouts are microseconds, epoll's are milliseconds
        for line in self.lines:
            self.poll.register(line.socket, selectors.EVENT_READ, line)
        self.latencies: list[float] = []
        self.refused: dict[str, int] = {}

    def ask(self, sent: int, begin: float, rate: float, now: float) -> int:
        """Send what is due by now, in one piece per connection; return how many are sent in all."""
        upto = int((now - begin) * rate) + 1
        for number, line in enumerate(self.lines):
            mine = range(sent + (number - sent) % CONNECTIONS, upto, CONNECTIONS)
            if mine:
                line.due.extend(begin + each / rate for each in mine)
                line.socket.sendall(self.request * len(mine))
        return upto

    def take(self, timeout: float, again: bool) -> None:
        """Take the answers; with `again` follow each one by the next request."""
        for key, _ in self.poll.select(timeout):
            line, after = key.data, list[bytes]()
            for due, reply in line.answers():
                if due < 0:
                    continue
                now = time.perf_counter()
                self.latencies.append(now - due)
                if not reply.startswith(b"OK"):
                    word = reply[:40].split(b":")[0].decode(errors="replace")
                    self.refused[word] = self.refused.get(word, 0) + 1
                elif self.verb == "RECEIVE":
                    after.append(frame(b"ACK work g " + reply.split(b" ", 2)[1]))
                    line.due.append(-1.0)
                if again:
                    after.append(self.request)
                    line.due.append(now)
            if after:
                line.socket.sendall(b"".join(after))

    def waiting(self) -> int:
        """Return how many requests have no answer."""
        return sum(len(line.due) for line in self.lines)


def run(address: tuple[str, int], verb: str, seconds: float, rate: float | None) -> LoadResult:
    """Run an open loop of `rate` requests per second (None: a closed loop, 100 in flight each)."""
    loop, used = Loop(address, verb), time.process_time()
    begin = time.perf_counter()
    end, sent = begin + seconds, 0
    if rate is None:
        for line in loop.lines:
            line.due.extend([begin] * IN_FLIGHT)
            line.socket.sendall(loop.request * IN_FLIGHT)
    while (now := time.perf_counter()) < end or loop.waiting():
        if rate is not None and now < end and loop.waiting() < MOST_WAITING:
            sent = loop.ask(sent, begin, rate, now)
        pause = 1.0 if rate is None or now >= end else max(0.0, begin + sent / rate - now)
        loop.take(pause, again=rate is None and now < end)
    elapsed, used = time.perf_counter() - begin, time.process_time() - used
    for line in loop.lines:
        line.socket.close()
    return LoadResult(len(loop.latencies) / elapsed, sorted(loop.latencies), loop.refused, used / elapsed)


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of sorted seconds, in milliseconds."""
    return values[min(len(values) - 1, int(len(values) * share))] * 1e3


def fill(nodes: Probed, topic: str, entries: float) -> None:
    """Write entries to read."""
    with Client(nodes.addresses) as client:
        client.register(topic)
        for _ in range(0, int(entries), 1_000):
            client.put_many(topic, [PAYLOAD] * 1_000)


def measure(
    directory: Path, schedule: str, seconds: float
) -> tuple[dict[tuple[str, str], LoadResult], tuple[float, dict[str, float]], dict[str, tuple[int, float]]]:
    """Return every verb at every load, the longest pass of any node's event loop, and its pauses, in ms."""
    found: dict[tuple[str, str], LoadResult] = {}
    flags = ["--fsync", schedule]
    nodes = Probed(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
    try:
        nodes.start()
        nodes.wait_ready()
        for verb, topic in (("PUT", "put"), ("GET", "get"), ("RECEIVE", "work")):
            most, first = 0.0, min(2.0, seconds)
            for load, share in (("all it can", None), *((f"{share:.0%}", share) for share in SHARES)):
                asked = GUESSED[verb] * first if share is None else most * share * seconds
                fill(nodes, topic, 1.2 * asked if verb != "PUT" else 0)
                address = port_of(segment_leader(nodes, topic, 1))
                one = run(address, verb, *((first, None) if share is None else (seconds, most * share)))
                found[verb, load] = one
                most = most or one.rate
                tell(f"{verb}, {load}: {one.told()}")
    finally:
        nodes.stop()
    return found, nodes.longest(), nodes.pauses()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description="latency under load, open loop")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load; default: 5")
    parser.add_argument("--fsync", choices=SCHEDULES, default="200")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a picture, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walrus-latency-", dir=".") as directory:
        found, longest, pauses = measure(Path(directory) / "n", options.fsync, options.seconds)
    table = Table("", "load", "per second", "p50 ms", "p99 ms", "p99.9 ms", "most ms", "no OK", "client")
    for (verb, load), one in found.items():
        cells = [f"{quantile(one.latencies, share):,.1f}" for share in (*QUANTILES, 1.0)]
        table.add_row(
            verb, load, f"{one.rate:,.0f}", *cells, f"{sum(one.refused.values()):,}", f"{one.client:.0%}"
        )
    console = Console(width=100)
    console.print(table)
    console.print("client: of a core; above 90 % the client is what is measured")
    show_pauses(console, longest, pauses, NO_PAUSE_ABOVE)
    if options.svg is not None:
        panels: dict[str, dict[str, list[float]]] = {}
        for (verb, load), result in found.items():
            panels.setdefault(verb, {})[load] = [latency * 1e3 for latency in result.latencies]
        title = f"Latency of requests in an open loop, {CONNECTIONS} connections, --fsync {options.fsync}"
        options.svg.write_text(picture(panels, title))
        console.print(f"drawn: {options.svg}")


if __name__ == "__main__":
    main()
