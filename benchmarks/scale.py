"""How the costs of a cluster grow with its number of topics: time, memory, longest pause, at three sizes.

    python -m benchmarks.scale                            1,000, 3,000 and 9,000 topics
    python -m benchmarks.scale --topics 300 1000 3000     the same in two or three minutes
    python -m benchmarks.scale --topics 10000 30000 100000 --until memory
    python -m benchmarks.scale --connections 5000         so many clients of one node instead

Three nodes are started anew for each size. A row is measured at each size, and `growth` is the exponent that
fits the three figures: 1.0 is linear, 2.0 quadratic, 0 independent of the number. A pause is the processor
time of the longest pass of any node's event loop (`benchmarks/pause_probe.py`), so it is the program's own.

    register     REGISTER of so many topics, 200 in flight on one connection
    memory       resident memory of the largest node, beyond that of one without topics
    entry        a PUT to each of them
    restart      all nodes are stopped and started: until each is ready
    failover     one node is killed: until a PUT to each topic is answered by another
    repair       a node joins and the dead one leaves: until each sealed segment has its three replicas again

`--until ROW` ends with that row. A row that takes longer than `--patience` seconds is given up, along with
all rows behind it, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cluster import CLIENT_PORT, OK_FRAME, RAFT_PORT, dial, frame, port_of
from benchmarks.queues import Wire
from walrus.client import Client, OutcomeUnknown
from walrus.client.errors import UnknownNode
from walrus.cluster import LocalCluster, pause
from walrus.shell.descriptors import raise_file_limit

SIZES = (1_000, 3_000, 9_000)
IN_FLIGHT = 200
TELL_EVERY = 10.0
"""Seconds between two reports of progress."""
PATIENCE = 120.0
STEPS = ("register", "memory", "entry", "restart", "failover", "repair")
ROWS = (*STEPS, "pause, register", "pause, restart")
LINEAR = 1.1
"""The goal for an exponent: 1, plus the scatter of three measurements."""
NO_PAUSE_ABOVE = 100.0
"""The goal, in milliseconds."""


class TooSlow(Exception):
    """A row took longer than the patience allows."""


class Probed(LocalCluster):
    """Nodes that report their longest passes when they stop; `phase` names the files."""

    phase = "0"

    def report(self, node_id: int) -> Path:
        """Return where a node writes its report."""
        return self.data_dir / f"passes_{self.phase}_{node_id}.json"

    def program(self, node_id: int) -> list[str]:
        """Run the node inside the probe."""
        return ["-m", "benchmarks.pause_probe", str(self.report(node_id))]

    def longest(self) -> tuple[float, dict[str, float]]:
        """Return the longest pass of any node in this phase, and its parts, in milliseconds."""
        found = [json.loads(self.report(node).read_text())["longest"][0] for node in self.processes]
        worst = max(found, key=lambda row: row["ms"])
        return worst["ms"], worst["parts"]

    def pauses(self) -> dict[str, tuple[int, float]]:
        """Return what the nodes did in pauses of this phase -> how many, and the longest, in ms."""
        found: dict[str, tuple[int, float]] = {}
        for node in self.processes:
            for what, (count, worst) in json.loads(self.report(node).read_text())["pauses"].items():
                before, longest = found.get(what, (0, 0.0))
                found[what] = before + count, max(longest, worst)
        return found


def tell(what: str) -> None:
    """Report progress on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def verdict(met: bool) -> str:
    """Return the verdict that stands beside a goal."""
    return "met" if met else "missed"


def show_pauses(
    console: Console,
    longest: tuple[float, dict[str, float]],
    pauses: dict[str, tuple[int, float]],
    goal: float,
) -> None:
    """Print the longest pass and its parts, beside the goal in ms; and the kinds of pauses."""
    milliseconds, parts = longest
    most = sorted(parts.items(), key=lambda part: -part[1])[:5]
    what = ", ".join(f"{name} {cost:.0f}" for name, cost in most) or "nothing that is timed"
    console.print(
        f"longest pass of a node's event loop: {milliseconds:.0f} ms of processor time; "
        f"goal: at most {goal:.0f}, {verdict(milliseconds <= goal)}. In it: {what}",
        soft_wrap=True,
    )
    show_kinds(console, pauses)
    if not pauses:
        console.print("passes of more than 20 ms: none")


def show_kinds(console: Console, pauses: dict[str, tuple[int, float]]) -> None:
    """Print a line for each kind of pause, longest first."""
    for name, (count, worst) in sorted(pauses.items(), key=lambda entry: -entry[1][1]):
        console.print(f"passes of more than 20 ms: {count} of {name}, the longest {worst:.0f} ms")


def each(port: tuple[str, int], requests: list[bytes], good: bytes, patience: float = PATIENCE) -> float:
    """Return the seconds until all requests are answered with `good`; any other answer is asked again.

    Raises TooSlow.
    """
    begin = heard = time.perf_counter()
    count = len(requests)
    with dial(port) as connection:
        connection.settimeout(patience)
        wire = Wire(connection)
        while requests:
            again: list[bytes] = []
            for start in range(0, len(requests), IN_FLIGHT):
                now = time.perf_counter()
                if now - begin > patience:
                    left = len(requests) - start + len(again)
                    raise TooSlow(f"{left:,} of {count:,} requests are not answered after {patience:.0f} s")
                if now - heard > TELL_EVERY:
                    heard = now
                    tell(f"  {start:,} of {len(requests):,} asked, {len(again):,} to be asked again")
                some = requests[start : start + IN_FLIGHT]
                again += [
                    request
                    for request, reply in zip(some, wire.exchange(some), strict=True)
                    if not reply.startswith(good)
                ]
            requests = again
            if again:
                pause(0.05)
    return time.perf_counter() - begin


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4096 / (1 << 20)


def largest(nodes: LocalCluster) -> float:
    """Return the resident memory of the largest node in MiB."""
    return max(resident(process.pid) for process in nodes.processes.values())


def repaired(nodes: LocalCluster, patience: float) -> float:
    """Replace node 3 by node 4; return the seconds until each sealed segment has three replicas again.

    Raises TooSlow.
    """
    nodes.ids.append(4)
    nodes.start(4)
    nodes.ids.remove(3)
    nodes.wait_ready(patience)
    begin = time.perf_counter()
    with Client([nodes.address(1)], timeout=patience) as client:
        while time.perf_counter() - begin < patience:
            try:
                client.leave(3, force=True)  # answered when the node is no longer needed
            except OutcomeUnknown:
                continue
            except UnknownNode:  # removed since the last request
                pass
            return time.perf_counter() - begin
    raise TooSlow(f"node 3 is not gone after {patience:.0f} s")


class Size:
    """One size: a cluster, and its figures."""

    def __init__(self, directory: Path, topics: int, patience: float) -> None:
        flags = ["--fsync", "200"]
        self.nodes = Probed(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
        self.names, self.patience = [b"t%d" % number for number in range(topics)], patience
        self.found: dict[str, float] = {}
        self.parts: dict[str, dict[str, float]] = {}
        self.pauses: dict[str, dict[str, tuple[int, float]]] = {}
        self.failed = ""

    def measure(self, until: str) -> None:
        """Measure every row up to `until`, as far as patience allows."""
        nodes = self.nodes
        try:
            nodes.start()
            nodes.wait_ready()
            self.before = largest(nodes)
            for step in STEPS[: STEPS.index(until) + 1]:
                self.found[step] = getattr(self, step)()
                tell(f"{len(self.names):,} topics: {step} {self.found[step]:,.2f} {unit_of(step)}")
        except TooSlow as error:
            self.failed = f"{step} of {len(self.names):,} topics is given up: {error}"
            tell(self.failed)
        finally:
            nodes.stop()
        if "failover" in self.found:
            self._passes("restart")
        elif "pause, register" not in self.found:
            self._passes("register")

    def _passes(self, phase: str) -> None:
        try:
            self.found[f"pause, {phase}"], self.parts[phase] = self.nodes.longest()
            self.pauses[phase] = self.nodes.pauses()
        except FileNotFoundError:  # a node that does not stop in time is killed, and writes no report
            self.failed = self.failed or f"a node of {len(self.names):,} topics did not stop in time"
            tell(self.failed)

    def _each(self, verb: bytes, rest: bytes) -> float:
        return each(port_of(1), [verb + name + rest for name in self.names], b"OK", self.patience)

    def register(self) -> float:
        return self._each(b"REGISTER ", b"")

    def memory(self) -> float:
        return largest(self.nodes) - self.before

    def entry(self) -> float:
        return self._each(b"PUT ", b" x")

    def restart(self) -> float:
        self.nodes.stop()
        self._passes("register")
        self.nodes.phase = "1"
        begin = time.perf_counter()
        self.nodes.start()
        self.nodes.wait_ready(self.patience)
        return time.perf_counter() - begin

    def failover(self) -> float:
        each(port_of(1), [b"PUT " + self.names[0] + b" y"], b"OK", self.patience)
        self.nodes.kill(3)
        took = self._each(b"PUT ", b" z")
        self.nodes.processes.pop(3, None)
        return took

    def repair(self) -> float:
        return repaired(self.nodes, self.patience)


def connected(port: tuple[str, int], count: int, pid: int) -> tuple[float, float]:
    """Return the seconds until `count` connections have a PUT answered, and the node's MiB then."""
    raise_file_limit()
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(dial(port)) for _ in range(count)]
        for connection in connections:
            connection.sendall(frame(b"PUT t0 x"))
        for connection in connections:
            reply = connection.recv(100)
            assert reply == OK_FRAME, reply
        return time.perf_counter() - begin, resident(pid)


def measure_connections(directory: Path, count: int, console: Console) -> None:
    """Connect `count` clients to one node: seconds, KiB of the node for each, and the node's pauses."""
    nodes = Probed(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=["--fsync", "200"])
    try:
        nodes.start()
        nodes.wait_ready()
        each(port_of(1), [b"REGISTER t0"], b"OK")
        before = resident(nodes.processes[1].pid)
        seconds, grown = connected(port_of(1), count, nodes.processes[1].pid)
    finally:
        nodes.stop()
    each_one = (grown - before) * 1024 / count
    console.print(f"{count:,} connections, a PUT on each: {seconds:.2f} s, {each_one:.1f} KiB each")
    show_pauses(console, nodes.longest(), nodes.pauses(), NO_PAUSE_ABOVE)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of the line through the points on a double logarithmic scale."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-6)) for value in values]
    return statistics.linear_regression(x, y).slope


def unit_of(row: str) -> str:
    """Return the unit of a row: MiB, ms or s."""
    return "MiB" if row == "memory" else "ms" if row.startswith("pause") else "s"


def show(console: Console, results: dict[int, Size]) -> None:
    """Print the table, with a verdict beside each goal."""
    table = Table("", *(f"{topics:,}" for topics in results), "growth", "goal", "")
    for row in ROWS:
        found = {topics: one.found[row] for topics, one in results.items() if row in one.found}
        if not found:
            continue
        cells = [f"{found[topics]:,.2f} {unit_of(row)}" if topics in found else "-" for topics in results]
        growth = exponent(list(found), list(found.values())) if len(found) > 1 else None
        shown = "" if growth is None else f"{growth:.2f}"
        if row.startswith("pause"):
            met = len(found) == len(results) and max(found.values()) <= NO_PAUSE_ABOVE
            table.add_row(row, *cells, shown, f"at most {NO_PAUSE_ABOVE:.0f} ms", verdict(met))
        elif growth is None:
            table.add_row(row, *cells)
        else:
            met = len(found) == len(results) and growth <= LINEAR
            table.add_row(row, *cells, shown, f"at most {LINEAR}", verdict(met))
    console.print(table)
    for one in results.values():
        if one.failed:
            console.print(one.failed)
    largest = list(results.values())[-1]
    for phase, costs in largest.parts.items():
        longest = sorted(costs.items(), key=lambda cost: -cost[1])[:6]
        what = ", ".join(f"{name} {cost:.0f}" for name, cost in longest)
        console.print(f"longest pass of {phase}, largest size, ms: {what}", soft_wrap=True)
        show_kinds(console, largest.pauses[phase])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description="growth with the number of topics")
    parser.add_argument("--topics", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last row; default: all")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS",
                        help="for a row; default: 120")  # fmt: skip
    parser.add_argument("--connections", type=int, metavar="N", help="measure so many connections instead")
    options = parser.parse_args()
    console, results = Console(width=110), dict[int, Size]()
    for topics in [] if options.connections else options.topics:
        with tempfile.TemporaryDirectory(prefix="walrus-scale-", dir=".") as directory:
            results[topics] = Size(Path(directory) / "n", topics, options.patience)
            results[topics].measure(options.until)
    if options.connections:
        with tempfile.TemporaryDirectory(prefix="walrus-scale-", dir=".") as directory:
            measure_connections(Path(directory) / "n", options.connections, console)
    else:
        show(console, results)


if __name__ == "__main__":
    main()
