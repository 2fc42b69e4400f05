"""One PUT at a time: where its time goes in each process, beside a chain that only replicates.

    python -m benchmarks.one_put                      10,000 PUTs with each schedule
    python -m benchmarks.one_put --puts 2000 --fsync each

Each schedule is measured in one run: the bare chain of three processes (`benchmarks/bare_chain.py`), a
cluster of three nodes as it is, and the same cluster with the stages of a node timed
(`benchmarks/one_put_probe.py`). There is one client with one connection to the leader of the segment and
100-byte payloads; it sends the next PUT when the last one is answered. Times are medians over all PUTs;
processor time is that of all nodes, from the kernel.

Compare rows of one run only: the cost of a wakeup differs by a factor of three between machines, and between
minutes on a shared one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cluster import (
    CLIENT_PORT,
    OK_FRAME,
    PAYLOAD,
    RAFT_PORT,
    SCHEDULES,
    dial,
    frame,
    port_of,
    segment_leader,
)
from benchmarks.one_put_probe import STAGES
from walrus.client import Client
from walrus.cluster import LocalCluster, pause

CHAIN_PORT = 19_070
WARM_UP = 300
TICKS = 100
"""Clock ticks per second in /proc (USER_HZ)."""


class Figures(NamedTuple):
    """One client's view: PUTs per second, latencies in microseconds; processor microseconds per PUT."""

    rate: float
    median: float
    p99: float
    processor: float


class Probed(LocalCluster):
    """Nodes that write down their stages when they stop."""

    def report(self, node_id: int) -> Path:
        """Return where a node writes its report."""
        return self.data_dir / f"stages_{node_id}.json"

    def program(self, node_id: int) -> list[str]:
        """Run the node inside the probe."""
        return ["-m", "benchmarks.one_put_probe", str(self.report(node_id))]


def processor_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def put_one_by_one(address: tuple[str, int], puts: int, pids: Sequence[int]) -> Figures:
    """Send `puts` PUTs, each after the answer to the previous one."""
    request, latencies = frame(b"PUT t " + PAYLOAD), []
    with dial(address) as connection:
        for number in range(-WARM_UP, puts):
            if number == 0:
                start, before = time.perf_counter(), processor_seconds(pids)
            begin = time.perf_counter()
            connection.sendall(request)
            reply = connection.recv(100)
            assert reply == OK_FRAME, reply
            latencies.append(time.perf_counter() - begin)
        elapsed, used = time.perf_counter() - start, processor_seconds(pids) - before
    counted = sorted(latencies[WARM_UP:])
    return Figures(
        puts / elapsed,
        statistics.median(counted) * 1e6,
        counted[int(len(counted) * 0.99)] * 1e6,
        used / puts * 1e6,
    )


@contextlib.contextmanager
def chain_of(program: Sequence[str], directory: Path, schedule: str) -> Iterator[list[int]]:
    """Run the bare chain and yield the pids of its three processes; `program` runs one of them."""
    sync = ["--sync"] if schedule == "each" else []
    followers = [str(CHAIN_PORT + 1), str(CHAIN_PORT + 2)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for role, port, others in (
            ("follower", followers[0], []),
            ("follower", followers[1], []),
            ("leader", str(CHAIN_PORT), followers),
        ):
            path = str(directory / f"chain_{port}")
            command = [sys.executable, *program, role, port, path, *others, *sync]
            processes.append(subprocess.Popen(command))
            _wait_for(int(port))
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            dial(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            pause(0.02)


def measure_nodes(nodes: LocalCluster, puts: int) -> tuple[Figures, int]:
    """Measure one client against a cluster; return the figures, and the node that leads the segment."""
    nodes.start()
    try:
        nodes.wait_ready()
        with Client(nodes.addresses) as client:
            client.register("t")
        leader = segment_leader(nodes, "t", 1)
        pids = [process.pid for process in nodes.processes.values()]
        return put_one_by_one(port_of(leader), puts, pids), leader
    finally:
        nodes.stop()


def measure(directory: Path, schedule: str, puts: int) -> tuple[dict[str, Figures], dict[str, Any]]:
    """Return all figures of one schedule, and the stages of the leader and of a follower."""
    figures = {}
    with chain_of(["-m", "benchmarks.bare_chain"], directory, schedule) as pids:
        figures["bare chain"] = put_one_by_one(("127.0.0.1", CHAIN_PORT), puts, pids)
    ports: dict[str, Any] = {"client_port": CLIENT_PORT, "raft_port": RAFT_PORT}
    flags = ["--fsync", schedule]
    figures["Walrus"], _ = measure_nodes(LocalCluster(3, directory / "plain", **ports, flags=flags), puts)
    probed = Probed(3, directory / "probed", **ports, flags=flags)
    figures["Walrus, timed"], leader = measure_nodes(probed, puts)
    stages = {
        role: json.loads(probed.report(node).read_text())["stages"]
        for role, node in (("leader", leader), ("follower", leader % 3 + 1))
    }
    return figures, stages


def show(console: Console, schedule: str, figures: dict[str, Figures], stages: dict[str, Any]) -> None:
    """Print two tables: rates and stages."""
    bare = figures["bare chain"]
    table = Table(title=f"one PUT at a time, --fsync {schedule}", box=box.SIMPLE)
    for heading in ("", "PUT/s", "of bare", "median us", "p99 us", "processor us"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, found in figures.items():
        numbers = (found.median, found.p99, found.processor)
        table.add_row(
            name, f"{found.rate:,.0f}", f"{found.rate / bare.rate:.2f}", *(f"{n:,.0f}" for n in numbers)
        )
    console.print(table)
    table = Table(title="a node's stages: median us (calls) per PUT", box=box.SIMPLE)
    for heading in ("stage", "leader", "follower", "what it is"):
        table.add_column(heading, justify="right" if heading in stages else "left")
    for name, what in STAGES:
        cells = [f"{time_:,.1f} ({calls:.1f})" for time_, calls in (stages[role][name] for role in stages)]
        table.add_row(name, *cells, what)
    console.print(table)


def main() -> None:
    """`python -m benchmarks.one_put`."""
    parser = argparse.ArgumentParser(prog="benchmarks.one_put", description="one PUT at a time, by stage")
    parser.add_argument("--puts", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument("--fsync", choices=SCHEDULES, action="append", help="default: both")
    options = parser.parse_args()
    console = Console(width=100)
    for schedule in options.fsync or SCHEDULES:
        with tempfile.TemporaryDirectory(prefix="walrus-one-put-", dir=".") as directory:
            show(console, schedule, *measure(Path(directory), schedule, options.puts))


if __name__ == "__main__":
    main()
