"""Which event loop to use: asyncio with an end to each batch of events, asyncio itself, and uvloop.

    pip install uvloop && python -m benchmarks.loops

uvloop is measured if it is installed. For each loop, round by round: the bare chain of three processes
(`bare_chain.py`), and three nodes; one PUT at a time, 100 bytes. Processor time is that of all three
processes, from the kernel; it is the figure to compare on a busy machine. Election timeouts are long, so
that a busy machine causes no elections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import bare_chain
from benchmarks.cluster import CLIENT_PORT, RAFT_PORT, SCHEDULES
from benchmarks.one_put import CHAIN_PORT, Figures, chain_of, measure_nodes, put_one_by_one
from walrus import node
from walrus.cluster import LocalCluster
from walrus.shell.event_loop import BatchedEventLoop

Factory = Callable[[], asyncio.AbstractEventLoop]

PATIENT = (
    *("--heartbeat-ms", "1000", "--election-timeout-ms", "20000"),
    *("--lease-ttl-ms", "25000", "--failure-timeout-ms", "30000"),
)


def factories() -> dict[str, Factory]:
    """Return the loops to compare, by name; nodes run on `batched`."""
    found: dict[str, Factory] = {"batched": BatchedEventLoop, "asyncio": asyncio.SelectorEventLoop}
    with contextlib.suppress(ImportError):
        found["uvloop"] = importlib.import_module("uvloop").new_event_loop
    return found


class OnLoop(LocalCluster):
    """Nodes on one of the loops."""

    kind = "batched"

    def program(self, node_id: int) -> list[str]:
        """Run this module as a node."""
        return ["-m", "benchmarks.loops", "node", self.kind]


def measure(directory: Path, kind: str, schedule: str, puts: int) -> dict[str, Figures]:
    """Measure the chain and the nodes on one loop."""
    found = {}
    if kind != "batched":  # the chain has no turns to end
        program = ["-m", "benchmarks.loops", "chain", kind]
        with chain_of(program, directory, schedule) as pids:
            found["chain"] = put_one_by_one(("127.0.0.1", CHAIN_PORT), puts, pids)
    flags = ["--fsync", schedule, *PATIENT]
    nodes = OnLoop(3, directory / "nodes", client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
    nodes.kind = kind
    found["Walrus"], _ = measure_nodes(nodes, puts)
    return found


def show(console: Console, schedule: str, results: dict[tuple[str, str], list[Figures]]) -> None:
    """Print the medians of all rounds."""
    table = Table(title=f"one PUT at a time, --fsync {schedule}", box=box.SIMPLE)
    for heading in ("", "loop", "PUT/s", "median us", "processor us", "of asyncio"):
        table.add_column(heading, justify="left" if heading in ("", "loop") else "right")
    for (what, kind), rounds in sorted(results.items()):
        rate, median, used = (
            statistics.median(getattr(one, name) for one in rounds)
            for name in ("rate", "median", "processor")
        )
        other = statistics.median(one.processor for one in results[what, "asyncio"])
        table.add_row(what, kind, f"{rate:,.0f}", f"{median:,.0f}", f"{used:,.0f}", f"{used / other:.2f}")
    console.print(table)


def main() -> int:
    """Run `python -m benchmarks.loops`; with `node` or `chain` run one of its processes."""
    if sys.argv[1:2] == ["node"]:
        setattr(node, "BatchedEventLoop", factories()[sys.argv[2]])  # noqa: B010 - a class in mypy's eyes
        return node.main(sys.argv[3:])
    if sys.argv[1:2] == ["chain"]:
        factory = factories()[sys.argv[2]]
        return bare_chain.main(sys.argv[3:], factory)
    parser = argparse.ArgumentParser(prog="benchmarks.loops", description="event loops, one beside the other")
    parser.add_argument("--puts", type=int, default=5_000, metavar="N", help="default: 5000")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--fsync", choices=SCHEDULES, action="append", help="default: both")
    options = parser.parse_args()
    kinds = list(factories())
    for schedule in options.fsync or SCHEDULES:
        results: dict[tuple[str, str], list[Figures]] = {}
        for number in range(options.rounds):
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                with tempfile.TemporaryDirectory(prefix="walrus-loops-", dir=".") as directory:
                    for what, found in measure(Path(directory), kind, schedule, options.puts).items():
                        results.setdefault((what, kind), []).append(found)
        show(Console(width=100), schedule, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
