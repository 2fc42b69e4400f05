"""What the assertions cost: the same loops under `python` and under `python -O`, which drops them.

    python -m benchmarks.assertions               9 rounds, a minute and a half on a quiet machine
    python -m benchmarks.assertions --rounds 3

Assertions run in production, because a node that finds its own state impossible must stop before it
acknowledges anything. So their cost is measured where it matters most, on the path of an entry from the
client's node to the disks:

    engine, one append             `Walrus.append` of 100 B: the hot loop, which holds no assertion
    engine, a batch of 1,000       one record of 1,000 entries of 100 B
    PUT of one entry               a forward through a writer, two replicas and back, with stores of lists
    PUT of 100 entries             the same, 100 to a forward
    Raft, one command              propose, persist, commit, on a server alone

Each round runs every loop in a process of its own, once with assertions and once without, in alternating
order. The figure is the processor time per entry (per command), the minimum of all rounds: other programs
can only add to it, by evicting caches and by sharing a core.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import process_time

from rich.console import Console
from rich.table import Table

from walrus import FsyncSchedule, Walrus
from walrus.config import NodeConfig
from walrus.consensus.messages import MEMBERSHIP, Entry, HardState, Membership, RaftConfig, Restored
from walrus.leases import LeaseTable
from walrus.raft import Raft
from walrus.replicas.copies import Copies
from walrus.replicas.durability import Durable
from walrus.replicas.replica import Replica
from walrus.replicas.replication import SegmentWriter
from walrus.segments import Announce, Metadata, RegisterTopic, Segment
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Batch
from walrus.wire.effects import Outbox, Send
from walrus.wire.messages import Append, AppendReply, Forward

PAYLOAD = b"x" * 100
NODES = (1, 2, 3)
NOW = 1.0


def one_append(entries: int) -> None:
    """Append entries one at a time, without a sync."""
    with tempfile.TemporaryDirectory() as directory, Walrus(directory, fsync=FsyncSchedule.no_fsync()) as wal:
        append = wal.append
        for _ in range(entries):
            append("t", PAYLOAD)


def batches(entries: int) -> None:
    """Append entries in batches of 1,000, without a sync."""
    some = [PAYLOAD] * 1_000
    with tempfile.TemporaryDirectory() as directory, Walrus(directory, fsync=FsyncSchedule.no_fsync()) as wal:
        for _ in range(entries // 1_000):
            wal.append_batch("t", some)


class Trio:
    """A segment's writer and its two replicas, with stores that are durable at once."""

    def __init__(self) -> None:
        metadata = Metadata()
        for node in NODES:
            for incarnation in (0, 1):  # a member first, then started
                command = Announce(
                    node_id=node, directory_id=f"d{node}", incarnation=incarnation, raft_address="",
                    client_address="",
                )  # fmt: skip
                metadata.apply(command)
        metadata.apply(RegisterTopic(topic="t", leader=1, replicas=NODES))
        leases = LeaseTable(1, 1, ttl=1e9)
        leases.reconcile(metadata)
        leases.heard(NOW)
        self.outbox = {node: Outbox(node) for node in NODES}
        self.data = {node: Durable(MemoryEngine()) for node in NODES}
        copies = {node: Copies(self.data[node], Durable(MemoryEngine())) for node in NODES}
        segment = metadata.segment("t", 1) or Segment(leader=1, incarnation=1, replicas=NODES)
        config = NodeConfig(
            node_id=1, raft_address="", client_address="", max_segment_entries=1 << 40,
            max_segment_bytes=None,
        )  # fmt: skip
        self.writer = SegmentWriter(
            "t", 1, segment, config=config, copies=copies[1], leases=leases, outbox=self.outbox[1],
            connected=NODES[1:], now=NOW,
        )  # fmt: skip
        self.replicas = {
            node: Replica(node_id=node, copies=copies[node], metadata=metadata, outbox=self.outbox[node])
            for node in NODES[1:]
        }

    def put(self, request: int, batch: Batch) -> int:
        """Carry a forward through writer and replicas; return how many entries are acknowledged then."""
        self.writer.on_forward(9, Forward(request=request, topic="t", segment=1, batch=batch), NOW)
        self.writer.flush(NOW)
        self.data[1].on_durable(self.data[1].written)
        for effect in self.outbox[1].take():
            if isinstance(effect, Send) and isinstance(effect.message, Append):
                self.replicas[effect.to].on_append(1, effect.message)
        for node in self.replicas:
            self.data[node].on_durable(self.data[node].written)
            for effect in self.outbox[node].take():
                if isinstance(effect, Send) and isinstance(effect.message, AppendReply):
                    self.writer.on_reply(node, effect.message, NOW)
        return self.writer.commit_index


def puts(per_forward: int, entries: int) -> None:
    """PUT `entries` entries, `per_forward` to a forward."""
    trio, batch = Trio(), Batch.of([PAYLOAD] * per_forward)
    acknowledged = [trio.put(number, batch) for number in range(1, entries // per_forward + 1)]
    if acknowledged[-1] != entries:
        raise RuntimeError(f"{acknowledged[-1]} of {entries} entries were acknowledged")


def commands(entries: int) -> None:
    """Commit commands on a Raft server that is alone."""
    founded = Entry(1, 1, MEMBERSHIP, Membership((1,)).encode())
    restored = Restored(hard_state=HardState(1), entries=(founded,))
    raft = Raft(node_id=1, config=RaftConfig(), restored=restored, rng=random.Random(1), now=0.0)
    raft.tick(0.0)
    for _ in range(entries):
        raft.propose(PAYLOAD, 0.0)
        while raft.has_ready():
            raft.persisted(raft.ready(), 0.0)


LOOPS: dict[str, tuple[Callable[[int], None], int]] = {
    "engine, one append": (one_append, 100_000),
    "engine, a batch of 1,000": (batches, 1_000_000),
    "PUT of one entry": (partial(puts, 1), 6_000),
    "PUT of 100 entries": (partial(puts, 100), 120_000),
    "Raft, one command": (commands, 6_000),
}
"""What is measured, and with how many entries: about a third of a second each."""


def timed(name: str) -> float:
    """Return nanoseconds of processor time per entry, in this process."""
    loop, entries = LOOPS[name]
    loop(entries // 10)  # warm up: imports, caches, the first block
    started = process_time()
    loop(entries)
    return (process_time() - started) / entries * 1e9


def in_a_process(name: str, *options: str) -> float:
    """Return the same, from a process of its own."""
    command = [sys.executable, *options, "-m", "benchmarks.assertions", "--loop", name]
    root = Path(__file__).resolve().parents[1]
    return float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)


def measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return (with, without) assertions for every loop, one pair for each round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    for number in range(rounds):
        for name, pairs in found.items():
            kinds = ((), ("-O",)) if number % 2 else (("-O",), ())
            times = {options: in_a_process(name, *options) for options in kinds}
            pairs.append((times[()], times[("-O",)]))
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> Table:
    """Return the table of the minima of all rounds."""
    shown = Table("", "with, ns", "without, ns", "ratio", title="processor time per entry")
    for name, pairs in found.items():
        checked, bare = map(min, zip(*pairs, strict=True))
        shown.add_row(name, f"{checked:,.0f}", f"{bare:,.0f}", f"{checked / bare:.2f}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.assertions", description="with and without assertions")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of runs of each loop (9)")
    parser.add_argument("--loop", choices=sorted(LOOPS), help="only this one, in this process: prints ns")
    options = parser.parse_args(arguments)
    if options.loop:
        print(timed(options.loop))
    else:
        Console().print(table(measure(options.rounds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
