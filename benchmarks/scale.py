"""How what a cluster does grows with its number of topics: time, memory, the longest pause, over three sizes.

    python -m benchmarks.scale                     1,000, 3,000 and 9,000 topics
    python -m benchmarks.scale --topics 10000 30000 100000

Three nodes for each size, which are started anew. A row is measured at each size, and `growth` is the
exponent that fits the three: 1.0 is linear, 2.0 quadratic, 0 does not depend on the number. A pause is the
processor time of the longest pass of any node's event loop (`benchmarks/pause_probe.py`), so it is the
program's own.

    register     REGISTER of so many topics, 200 in flight on one connection
    entry        a PUT to each of them
    restart      all nodes are killed (SIGKILL) and started: until each is ready
    failover     one node is killed: until a PUT to each topic is answered by another
    memory       resident memory of the largest node, beyond that of one without topics
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cluster import CLIENT_PORT, RAFT_PORT, dial, port_of
from benchmarks.queues import Wire
from walrus.cluster import LocalCluster, pause

SIZES = (1_000, 3_000, 9_000)
IN_FLIGHT = 200
PATIENCE = 120.0
ROWS = ("register", "entry", "restart", "failover", "memory", "pause, register", "pause, restart")


class Probed(LocalCluster):
    """Nodes that report their longest passes when they stop; `phase` names the files."""

    phase = "0"

    def report(self, node_id: int) -> Path:
        """Where a node writes."""
        return self.data_dir / f"passes_{self.phase}_{node_id}.json"

    def program(self, node_id: int) -> list[str]:
        """The node, inside the probe."""
        return ["-m", "benchmarks.pause_probe", str(self.report(node_id))]

    def longest(self) -> tuple[float, dict[str, float]]:
        """Milliseconds of the longest pass of any node in this phase, and of its parts."""
        found = [json.loads(self.report(node).read_text())["longest"][0] for node in self.processes]
        worst = max(found, key=lambda row: row["ms"])
        return worst["ms"], worst["parts"]


def each(port: tuple[str, int], requests: list[bytes], good: bytes, patience: float = PATIENCE) -> float:
    """Seconds until all of these are answered as they should be; what is not is asked again."""
    begin = time.perf_counter()
    with dial(port) as connection:
        connection.settimeout(patience)
        wire = Wire(connection)
        while requests:
            again = []
            for start in range(0, len(requests), IN_FLIGHT):
                some = requests[start : start + IN_FLIGHT]
                again += [
                    request
                    for request, reply in zip(some, wire.exchange(some), strict=True)
                    if not reply.startswith(good)
                ]
            requests = again
            if time.perf_counter() - begin > patience:
                raise SystemExit(f"{len(requests)} requests are not answered after {patience:.0f} s")
            if again:
                pause(0.05)
    return time.perf_counter() - begin


def resident(pid: int) -> float:
    """MiB."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4096 / (1 << 20)


def largest(nodes: LocalCluster) -> float:
    """Of all nodes."""
    return max(resident(process.pid) for process in nodes.processes.values())


def measure(directory: Path, topics: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Every row at one size; and the parts of the longest passes."""
    found: dict[str, float] = {}
    parts: dict[str, dict[str, float]] = {}
    nodes = Probed(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=["--fsync", "200"])
    names = [b"t%d" % number for number in range(topics)]
    try:
        nodes.start()
        nodes.wait_ready()
        before = largest(nodes)
        found["register"] = each(port_of(1), [b"REGISTER " + name for name in names], b"OK")
        found["memory"] = largest(nodes) - before
        found["entry"] = each(port_of(1), [b"PUT " + name + b" x" for name in names], b"OK")
        nodes.stop()
        found["pause, register"], parts["register"] = nodes.longest()
        nodes.phase = "1"
        begin = time.perf_counter()
        nodes.start()
        nodes.wait_ready(PATIENCE)
        found["restart"] = time.perf_counter() - begin
        each(port_of(1), [b"PUT " + names[0] + b" y"], b"OK")
        nodes.kill(3)
        found["failover"] = each(port_of(1), [b"PUT " + name + b" z" for name in names], b"OK")
        nodes.processes.pop(3, None)
        nodes.stop()
        found["pause, restart"], parts["restart"] = nodes.longest()
    finally:
        nodes.stop()
    return found, parts


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope through the points on paper with two logarithmic scales."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-6)) for value in values]
    return statistics.linear_regression(x, y).slope


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description="growth with the number of topics")
    parser.add_argument("--topics", type=int, nargs="+", default=list(SIZES), metavar="N")
    options = parser.parse_args()
    results: list[dict[str, float]] = []
    parts: dict[str, dict[str, float]] = {}
    for topics in options.topics:
        with tempfile.TemporaryDirectory(prefix="walrus-scale-", dir=".") as directory:
            found, parts = measure(Path(directory) / "n", topics)
            results.append(found)
    table = Table("", *(f"{topics:,}" for topics in options.topics), "growth")
    for row in ROWS:
        values = [found[row] for found in results]
        unit = "MiB" if row == "memory" else "ms" if row.startswith("pause") else "s"
        cells = [f"{value:,.2f} {unit}" for value in values]
        table.add_row(row, *cells, f"{exponent(options.topics, values):.2f}" if len(values) > 1 else "")
    console = Console(width=110)
    console.print(table)
    for phase, costs in parts.items():
        longest = sorted(costs.items(), key=lambda cost: -cost[1])[:6]
        what = ", ".join(f"{name} {cost:.0f}" for name, cost in longest)
        console.print(f"longest pass of {phase}, largest size, ms: {what}")


if __name__ == "__main__":
    main()
