"""What a cluster of three nodes does on this machine, beside the limit that this machine sets.

    python -m benchmarks.cluster                 about ten minutes
    python -m benchmarks.cluster --quick         two minutes
    python -m benchmarks.cluster --only peers    the nodes beside NATS, Redis and etcd, seven minutes
    python -m benchmarks.cluster --json          the figures as JSON

100-byte payloads, three nodes, replication factor 3, and the client, all on one machine. The limit is
measured in the same run: a bare asyncio server that parses the same frames and answers `OK`, and does
nothing else. Every row runs with `--fsync 200` and with `--fsync each`, and is shown as a rate and as its
ratio to the bare server under the same load. Compare ratios, not rates, between machines.

The client is a blocking socket that counts replies by their bytes (all replies of a row have one length), so
that it costs as little as possible of the two cores that all processes share.

Failover is the time from SIGKILL of the segment's leader, under load, to the first `OK` that a client of a
surviving node receives. Idle cost is CPU time and memory of the nodes while no request arrives.

Peers (`benchmarks/cluster_peers.py`) are measured round by round beside nodes and the bare server under the
same loads, by one client for all (`benchmarks/beside.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import selectors
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import beside
from benchmarks.cluster_peers import peers
from benchmarks.cluster_subjects import PATIENCE, Marked, PeerError, Subject
from benchmarks.cluster_subjects import PAYLOAD as PAYLOAD
from benchmarks.cluster_subjects import dial as dial
from walrus.client import Client
from walrus.client.errors import WalrusError
from walrus.cluster import LocalCluster, pause

WINDOW = 100
OK_FRAME = b"\x02\x00\x00\x00OK"
CLIENT_PORT, RAFT_PORT = 19_091, 16_001
BARE_PORT = 19_080
SCHEDULES = ("200", "each")
PARTS = ("load", "failover", "idle", "soak", "peers")


class Row(NamedTuple):
    """One kind of load, and the goal with each schedule (per second)."""

    key: str
    what: str
    aims: tuple[int, int]


ROWS = (
    Row("leader", "leader, 100 in flight", (450_000, 200_000)),
    Row("other", "another, 100 in flight", (60_000, 30_000)),
    Row("single", "one PUT at a time", (6_000, 2_500)),
    Row("single other", "one at a time, another", (4_500, 2_000)),
    Row("eight", "8 clients, one at a time", (28_000, 10_000)),
    Row("get", "GET, 100 in flight", (50_000, 50_000)),
    Row("fetch", "FETCH, 100 in flight", (50_000, 50_000)),
)


def frame(body: bytes) -> bytes:
    """Return the body with its length in front."""
    return struct.pack("<I", len(body)) + body


# --- the bare server -----------------------------------------------------------------------------


class Bare(asyncio.Protocol):
    """Parses frames and answers each with OK: the least that a server can do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connects."""
        self.transport = cast(asyncio.Transport, transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Count the whole frames, and answer them in one write."""
        data = self.rest + data
        position, end, count = 0, len(data), 0
        unpack = struct.Struct("<I").unpack_from
        while end - position >= 4:
            stop = position + 4 + unpack(data, position)[0]
            if stop > end:
                break
            position = stop
            count += 1
        self.rest = data[position:]
        self.transport.write(OK_FRAME * count)


async def serve_bare(port: int) -> None:
    """Run the bare server until killed."""
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
    await server.serve_forever()


@contextlib.contextmanager
def bare_server() -> Iterator[tuple[str, int]]:
    """Run the bare server in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.cluster", "--serve-bare", str(BARE_PORT)])
    try:
        address = ("127.0.0.1", BARE_PORT)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(address).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                pause(0.02)
        yield address
    finally:
        process.kill()
        process.wait()


# --- the load ------------------------------------------------------------------------------------


def pipelined(
    address: tuple[str, int],
    requests: Callable[[int, int], bytes],
    reply_bytes: int,
    seconds: float,
    most: int = sys.maxsize,
    dial: Callable[[tuple[str, int]], socket.socket] = dial,
) -> float:
    """Return replies per second with `WINDOW` requests in flight; `requests(first, count)` builds frames.

    Ends early after `most` requests, since a topic that has been read to its end answers EMPTY.
    """
    with dial(address) as connection:
        sent, done, pending, elapsed = WINDOW, 0, 0, 0.0
        connection.sendall(requests(0, WINDOW))
        start = time.perf_counter()
        while elapsed < seconds and done < most:
            data = connection.recv(1 << 16)
            assert data, "the node closed the connection"
            if done == 0 and pending == 0:
                assert data[4:6] == b"OK", data[:200]
            count, pending = divmod(pending + len(data), reply_bytes)
            done += count
            if more := min(count, most - sent):
                connection.sendall(requests(sent, more))
                sent += more
            elapsed = time.perf_counter() - start
        return done / elapsed


def one_at_a_time(
    address: tuple[str, int], request: bytes, connections: int, seconds: float
) -> tuple[float, float]:
    """Return replies per second, and the 99th percentile of the latency in seconds."""
    latencies: list[float] = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        asked: dict[socket.socket, float] = {}
        for _ in range(connections):
            connection = stack.enter_context(dial(address))
            selector.register(connection, selectors.EVENT_READ)
            asked[connection] = time.perf_counter()
            connection.sendall(request)
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            for key, _ in selector.select(1.0):
                connection = cast(socket.socket, key.fileobj)
                reply = connection.recv(1 << 16)
                assert reply == OK_FRAME, reply[:200]
                now = time.perf_counter()
                latencies.append(now - asked[connection])
                asked[connection] = now
                connection.sendall(request)
    latencies.sort()
    return len(latencies) / seconds, latencies[int(len(latencies) * 0.99)]


def repeated(request: bytes) -> Callable[[int, int], bytes]:
    """Return a builder of equal requests."""
    return lambda first, count: request * count


def fetches(topic: str, entries: int) -> Callable[[int, int], bytes]:
    """Return a builder of FETCHes of one entry after another, at offsets of six digits, repeated."""
    blocks = [
        b"".join(frame(f"FETCH {topic} 1 {offset}".encode()) for offset in range(start, start + WINDOW))
        for start in range(100_000, entries - WINDOW, WINDOW)
    ]
    size = len(frame(f"FETCH {topic} 1 {100_000}".encode()))

    def build(first: int, count: int) -> bytes:
        block, skip = divmod(first, WINDOW)
        data = blocks[block % len(blocks)][skip * size :]
        while len(data) < count * size:
            block += 1
            data += blocks[block % len(blocks)]
        return data[: count * size]

    return build


def measure_row(
    row: Row, leader: tuple[str, int], other: tuple[str, int], seconds: float, entries: int
) -> dict[str, float]:
    """Measure one row against one server."""
    put = frame(b"PUT t " + PAYLOAD)
    if row.key == "leader":
        return {"rate": pipelined(leader, repeated(put), 6, seconds)}
    if row.key == "other":
        return {"rate": pipelined(other, repeated(put), 6, seconds)}
    if row.key in ("single", "single other", "eight"):
        asked = other if row.key == "single other" else leader
        rate, p99 = one_at_a_time(asked, put, 8 if row.key == "eight" else 1, seconds)
        return {"rate": rate, "p99_ms": p99 * 1000}
    if entries == 0:  # the bare server
        return {"rate": pipelined(leader, repeated(frame(b"GET t")), 6, seconds)}
    if row.key == "get":
        get = repeated(frame(b"GET t"))
        return {"rate": pipelined(leader, get, 4 + 3 + len(PAYLOAD), seconds, most=entries)}
    reply = 4 + len("OK 100001 ") + len(PAYLOAD)  # six-digit offsets, so that all replies have one length
    return {"rate": pipelined(leader, fetches("t", min(entries, 900_000)), reply, seconds)}


# --- the cluster ---------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(
    directory: Path,
    *flags: str,
    client_port: int = CLIENT_PORT,
    raft_port: int = RAFT_PORT,
    tls: bool = False,
) -> Iterator[LocalCluster]:
    """Run three nodes on an empty data directory, stopped at the end; clients trust them (`trust`)."""
    shutil.rmtree(directory, ignore_errors=True)
    nodes = LocalCluster(3, directory, client_port=client_port, raft_port=raft_port, flags=flags, tls=tls)
    nodes.trust()
    nodes.start()
    try:
        nodes.wait_ready()
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(directory, ignore_errors=True)


def port_of(node_id: int) -> tuple[str, int]:
    """Return a node's client address."""
    return "127.0.0.1", CLIENT_PORT + node_id - 1


def segment_leader(nodes: LocalCluster, topic: str, ask: int) -> int:
    """Return the node that leads the topic's open segment."""
    with Client([nodes.address(ask)]) as client:
        return client.state(topic)["leader_node"]


def loads(directory: Path, schedule: str, seconds: float) -> dict[str, dict[str, float]]:
    """Measure all rows with one schedule."""
    figures = {}
    with cluster(directory, "--fsync", schedule) as nodes:
        with Client(nodes.addresses) as client:
            client.register("t")
        leader = segment_leader(nodes, "t", 1)
        other = leader % 3 + 1
        metrics = nodes.metrics(leader)
        assert metrics is not None
        _fill(port_of(leader))
        for row in ROWS:
            entries = (nodes.metrics(leader) or metrics)["entries"]
            figures[row.key] = measure_row(row, port_of(leader), port_of(other), seconds, entries)
        after = nodes.metrics(leader)
        assert after is not None and after["current_term"] == metrics["current_term"], (
            "an election under load"
        )
    return figures


def _fill(address: tuple[str, int]) -> None:
    """Write enough entries for the reading rows: FETCH starts at offset 100,000."""
    put = frame(b"PUT t " + PAYLOAD) * 1000
    with dial(address) as connection:
        for _ in range(250):
            connection.sendall(put)
            left = 6 * 1000
            while left:
                left -= len(connection.recv(left))


def idle(directory: Path, seconds: float) -> dict[str, float]:
    """Return CPU (percent of a core) and resident MiB of the most expensive of three idle nodes."""
    with cluster(directory) as nodes:
        pids = [process.pid for process in nodes.processes.values()]
        before, start = [_cpu_seconds(pid) for pid in pids], time.perf_counter()
        pause(seconds)
        elapsed = time.perf_counter() - start
        used = [_cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
        memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return {
        "cpu_percent": 100 * max(used) / elapsed,
        "rss_mib": max(memory) * resource.getpagesize() / (1 << 20),
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def failover(directory: Path, also_raft_leader: bool) -> float:
    """Return the seconds from SIGKILL of a loaded segment leader to the next OK through a surviving node."""
    with cluster(directory) as nodes:
        raft_leader = next(m["current_leader"] for m in map(nodes.metrics, nodes.ids) if m is not None)
        topic, victim = _topic_led(nodes, lambda leader: (leader == raft_leader) is also_raft_leader)
        survivor = next(node_id for node_id in nodes.ids if node_id not in (victim, raft_leader))
        put = frame(b"PUT " + topic.encode() + b" " + PAYLOAD)
        with dial(port_of(survivor)) as connection:
            connection.settimeout(60)
            for _ in range(300):
                connection.sendall(put)
                assert connection.recv(100) == OK_FRAME
            nodes.processes[victim].kill()
            start = time.perf_counter()
            while True:
                connection.sendall(put)
                if connection.recv(300) == OK_FRAME and not _before(start):
                    return time.perf_counter() - start


def _before(start: float) -> bool:
    """Return whether an OK came so early that it may have been sent before the kill took effect."""
    return time.perf_counter() - start < 0.002


def _topic_led(nodes: LocalCluster, wanted: Callable[[int], bool]) -> tuple[str, int]:
    """Return a topic whose leader is as wanted, and that leader."""
    with Client(nodes.addresses) as client:
        for number in range(100):
            client.register(f"t{number}")
            leader = client.state(f"t{number}")["leader_node"]
            if wanted(leader):
                return f"t{number}", leader
    raise AssertionError("no topic is led by such a node")


def soak(directory: Path, seconds: float) -> dict[str, Any]:
    """Apply a saturating load; return the elections and failovers that it alone caused."""
    with cluster(directory) as nodes:
        with Client(nodes.addresses) as client:
            client.register("t")
        before = nodes.metrics(1)
        rate = pipelined(
            port_of(segment_leader(nodes, "t", 1)), repeated(frame(b"PUT t " + PAYLOAD)), 6, seconds
        )
        after = nodes.metrics(1)
        assert before is not None and after is not None
    return {
        "seconds": seconds,
        "rate": rate,
        "elections": after["current_term"] - before["current_term"],
        "failovers": after["failovers"],
    }


# --- beside peers --------------------------------------------------------------------------------


class Frames(Marked):
    """A connection that sends PUTs and counts OKs."""

    mark, trouble = OK_FRAME, b"ERR"
    put = frame(b"PUT t " + PAYLOAD)

    def requests(self, count: int) -> bytes:
        """Return `count` equal requests."""
        return self.put * count


class BareServer(Subject):
    """The bare server: the most that a server in Python can do."""

    def __init__(self) -> None:
        super().__init__("a bare asyncio server", "none", "never", durable=False)
        self._running, self._address = contextlib.ExitStack(), ("", 0)

    def start(self, directory: Path) -> None:
        """Start the server; it stores nothing."""
        self._address = self._running.enter_context(bare_server())

    def line(self) -> Frames:
        """Connect to it."""
        return Frames(dial(self._address))

    def stored(self) -> None:
        """Return None: it stores nothing."""

    def stop(self) -> None:
        """Stop the server."""
        self._running.close()


class Nodes(Subject):
    """Three Walrus nodes; the leader of the topic's segment answers when two have the entry."""

    def __init__(self, schedule: str) -> None:
        durable = schedule == "each"
        synced = "before" if durable else f"within {schedule} ms"
        super().__init__(f"Walrus, --fsync {schedule}", "2 of 3", synced, durable=durable)
        self._schedule, self._running, self._leader = schedule, contextlib.ExitStack(), 0

    def start(self, directory: Path) -> None:
        """Start three nodes, and register a topic."""
        self._nodes = self._running.enter_context(cluster(directory, "--fsync", self._schedule))
        with Client(self._nodes.addresses, timeout=PATIENCE) as client:
            client.register("t")
        self._leader = segment_leader(self._nodes, "t", 1)

    def line(self) -> Frames:
        """Connect to the leader."""
        return Frames(dial(port_of(self._leader)))

    def stored(self) -> int:
        """Return how many entries the leader reports."""
        return int(self.wait_for(lambda: self._nodes.metrics(self._leader))["entries"])

    def stop(self) -> None:
        """Stop the nodes."""
        self._running.close()


def beside_peers(
    directory: Path, rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all subjects under the same loads."""
    subjects = (BareServer(), *map(Nodes, SCHEDULES), *peers())
    return beside.measure(subjects, directory, rounds, seconds, progress)


# --- the report ----------------------------------------------------------------------------------


def run(
    directory: Path, quick: bool, rounds: int, only: Sequence[str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure everything (or `only` some parts); return the figures."""
    seconds = 1.0 if quick else 4.0
    figures: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    if "load" in only:
        progress("bare server")
        with bare_server() as address:
            figures["bare"] = {row.key: measure_row(row, address, address, seconds, 0) for row in ROWS}
        for schedule in SCHEDULES:
            progress(f"three nodes, --fsync {schedule}")
            figures[schedule] = loads(directory, schedule, seconds)
    if "failover" in only:
        for key, also in (("failover_s", False), ("failover_raft_leader_s", True)):
            progress(f"kill -9 of the segment leader{', also Raft leader' if also else ''}")
            times = [failover(directory, also) for _ in range(1 if quick else 5)]
            figures[key] = {"median": statistics.median(times), "all": times}
    if "idle" in only and Path("/proc/self/stat").exists():
        progress("idle nodes")
        figures["idle"] = idle(directory, 3.0 if quick else 10.0)
    if "soak" in only:
        progress("saturating load")
        figures["soak"] = soak(directory, 5.0 if quick else 60.0)
    if "peers" in only:
        figures["peers"] = beside_peers(directory, rounds, 0.5 if quick else 1.5, progress)
    return figures


def _thousands(rate: float) -> str:
    """Format a rate with as many digits as it deserves."""
    return f"{rate / 1000:,.0f}" if rate >= 100_000 else f"{rate / 1000:.1f}"


def _cells(row: Row, figures: dict[str, Any]) -> list[str]:
    """Return one line of the table of rates."""
    bare = figures["bare"][row.key]["rate"]
    cells = [row.what, _thousands(bare)]
    for schedule, aim in zip(SCHEDULES, row.aims, strict=True):
        rate = figures[schedule][row.key]["rate"]
        style = "green" if rate >= aim else "yellow"
        cells += [f"[{style}]{_thousands(rate)}[/]", f"1/{bare / rate:.1f}", f"{aim / 1000:g}"]
    return cells


def tables(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Yield the tables of the figures."""
    if "bare" in figures:
        table = Table(
            title="Thousand requests/s of 100 bytes: bare server, --fsync 200, --fsync each",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("load", no_wrap=True)
        for column in ("bare", "200 ms", "of bare", "aim", "each", "of bare", "aim"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in ROWS:
            table.add_row(*_cells(row, figures))
        yield table
    table = Table(title="Beside the rates")
    for column in ("what", "measured", "aim"):
        table.add_column(column)
    for schedule in SCHEDULES if "bare" in figures else ():
        shown = f"{figures[schedule]['eight']['p99_ms']:.1f} ms"
        aim = "10 ms" if schedule != "each" else ""
        table.add_row(f"p99 of a PUT, 8 connections, --fsync {schedule}", shown, aim)
    for key, what in (
        ("failover_s", "segment leader"),
        ("failover_raft_leader_s", "segment and Raft leader"),
    ):
        if key in figures:
            shown = f"{figures[key]['median']:.3f} s (median of {len(figures[key]['all'])})"
            table.add_row(f"kill -9 of the {what}, to the next OK", shown, "0.6 s")
    if "idle" in figures:
        table.add_row("CPU of an idle node", f"{figures['idle']['cpu_percent']:.1f} % of a core", "3 %")
        table.add_row("memory of an idle node", f"{figures['idle']['rss_mib']:.0f} MiB", "60 MB")
    if "soak" in figures:
        found = figures["soak"]
        shown = f"{found['elections']} elections, {found['failovers']} failovers"
        table.add_row(f"{found['seconds']:.0f} s of saturating load alone", shown, "none")
    if table.row_count:
        yield table
    if "peers" in figures:
        yield from beside.tables(figures["peers"])


def main() -> int:
    """`python -m benchmarks.cluster`."""
    parser = argparse.ArgumentParser(prog="benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, and less exact")
    parser.add_argument("--json", action="store_true", help="figures on stdout as JSON")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="some parts only")
    parser.add_argument("--rounds", type=int, metavar="N", help="of peers; default: 5, with --quick 1")
    parser.add_argument("--data-dir", type=Path, default=Path("build/bench"), help="emptied and removed")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        asyncio.run(serve_bare(options.serve_bare))
    console = Console(stderr=options.json)
    only, rounds = options.only or PARTS, options.rounds or (1 if options.quick else 5)
    try:
        with console.status("starting") as status:
            figures = run(options.data_dir, options.quick, rounds, only, status.update)
    except (WalrusError, PeerError, OSError) as error:
        console.print(f"the benchmark broke off: {error}")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        for table in tables(figures):
            console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
