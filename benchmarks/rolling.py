"""Topics that roll over without end: what three nodes keep of 100,000 segments when all but a few are gone.

    python -m benchmarks.rolling                      100,000 segments of ten entries, in twenty topics
    python -m benchmarks.rolling --segments 3000      the same in some seconds
    python -m benchmarks.rolling --topics 1           one topic: each roll waits for the last one

Each topic retains `--retain` entries, so the number of its segments stays constant. PUTs are sent by the
hundred for each topic, through node 1; the PUTs that meet a rollover go on to the next leader. The nodes are
examined after each third; each figure is the largest of all nodes:

    segments    in the metadata, sealed and open
    log         entries of Raft's log behind the last snapshot
    snapshot    its bytes
    notes       on copies, beside Raft's log: fences, and what a power loss may have shortened
    memory      resident
    disk        blocks that the directory uses
    files       open descriptors, and files in the directory
    rolls       in a second, of this third

`growth` is the exponent that fits the three figures, over segments that have rolled: 0 is flat, 1 is linear.
At the end the nodes are stopped and started: a start, too, must read only what is left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cluster import CLIENT_PORT, RAFT_PORT, dial, port_of
from benchmarks.queues import Wire
from benchmarks.scale import each, exponent, resident, tell, verdict
from walrus.broker.takeover import restore
from walrus.cluster import LocalCluster, pause
from walrus.consensus.journal import RaftJournal
from walrus.consensus.messages import COMMAND
from walrus.replicas.copies import NOTES
from walrus.segments import Metadata, decode_command
from walrus.storage.errors import StorageError
from walrus.wal import Walrus

THIRDS = 3
FLAT = 0.1
"""The goal for an exponent: 0, plus the scatter of three measurements."""
SETTLED = 3.0
"""Seconds without a PUT before the nodes are examined, so that the last trim has taken effect."""
ROWS = {
    "segments": "",
    "log": "",
    "snapshot": "KiB",
    "notes": "",
    "memory": "MiB",
    "disk": "MiB",
    "descriptors": "",
    "files": "",
    "rolls": "/s",
}


def kept(directory: Path) -> dict[str, float]:
    """Return what the Raft engine of a running node holds, read from a copy, as after a crash."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as place:
        for _ in range(10):
            copied = Path(shutil.copytree(directory, Path(place) / "copy"))
            try:
                with Walrus(copied) as engine:
                    restored = RaftJournal(engine).load()
                    first, end = engine.bounds(NOTES)
                break
            except StorageError:  # the engine wrote while it was copied
                shutil.rmtree(copied)
        else:
            raise AssertionError(f"{directory} changes faster than it can be copied")
    metadata, data = Metadata(), restored.snapshot.data if restored.snapshot else b""
    if data:
        restore(metadata, data)
    for entry in restored.entries:
        if entry.kind is COMMAND:
            metadata.apply(decode_command(entry.data))
    return {
        "segments": metadata.segments,
        "log": len(restored.entries),
        "snapshot": len(data) / 1024,
        "notes": end - first,
    }


def used(directory: Path) -> dict[str, float]:
    """Return MiB of blocks and number of files below a directory, which may change meanwhile."""
    blocks = files = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                blocks += (Path(path) / name).stat().st_blocks
            except FileNotFoundError:
                continue
            files += 1
    return {"disk": blocks * 512 / (1 << 20), "files": files}


class Rolling:
    """A cluster whose topics roll over."""

    def __init__(self, directory: Path, topics: int, entries: int, retain: int) -> None:
        flags = ["--fsync", "200"]
        self.nodes = LocalCluster(3, directory, client_port=CLIENT_PORT, raft_port=RAFT_PORT, flags=flags)
        self.names = [b"t%d" % number for number in range(topics)]
        self.entries, self.retain = entries, retain
        self.rolled = 0

    def begin(self) -> None:
        """Start the nodes, and register the topics."""
        self.nodes.start()
        self.nodes.wait_ready()
        settings = b" segment_entries=%d retain_entries=%d" % (self.entries, self.retain)
        each(port_of(1), [b"REGISTER " + name + settings for name in self.names], b"OK")

    def roll(self, segments: int) -> float:
        """PUT until `segments` more have rolled over; return segments per second."""
        begin = heard = time.perf_counter()
        at_once = [b"PUT " + name + b" x" for name in self.names for _ in range(10 * self.entries)]
        done = 0
        with dial(port_of(1)) as connection:
            wire = Wire(connection)
            while done < segments:
                replies = wire.exchange(at_once)
                done += sum(reply.startswith(b"OK") for reply in replies) // self.entries
                if (now := time.perf_counter()) - heard > 10:
                    heard = now
                    tell(f"  {self.rolled + done:,} segments, {done / (now - begin):,.0f} a second")
        self.rolled += done
        return done / (time.perf_counter() - begin)

    def look(self) -> dict[str, float]:
        """Return every figure's maximum over all nodes."""
        pause(SETTLED)
        return {
            name: max(figures[name] for figures in map(self._node, self.nodes.processes))
            for name in ROWS
            if name != "rolls"
        }

    def _node(self, node: int) -> dict[str, float]:
        directory, pid = self.nodes.data_dir / f"node_{node}", self.nodes.processes[node].pid
        return {
            **used(directory),
            **kept(directory / "raft_meta"),
            "memory": resident(pid),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        }

    def restart(self) -> float:
        """Restart all nodes; return the seconds until they are ready again."""
        self.nodes.stop()
        begin = time.perf_counter()
        self.nodes.start()
        self.nodes.wait_ready()
        return time.perf_counter() - begin


def show(console: Console, looks: dict[int, dict[str, float]]) -> None:
    """Print the table, with a verdict beside each goal."""
    table = Table("", *(f"{rolled:,}" for rolled in looks), "growth", "goal", "")
    for row, unit in ROWS.items():
        values = [look[row] for look in looks.values()]
        growth = exponent(list(looks), [value + 1 for value in values])
        cells = [f"{value:,.1f} {unit}" if unit else f"{value:,.0f}" for value in values]
        flat = growth <= FLAT if row != "rolls" else growth >= -FLAT
        table.add_row(row, *cells, f"{growth:.2f}", "flat", verdict(flat))
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.rolling", description="topics that roll for ever")
    parser.add_argument(
        "--segments", type=int, default=100_000, metavar="N", help="to roll; default: 100,000"
    )
    parser.add_argument("--topics", type=int, default=20, metavar="N", help="that share them; default: 20")
    parser.add_argument("--segment-entries", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument(
        "--retain", type=int, default=100, metavar="N", help="entries of a topic; default: 100"
    )
    options = parser.parse_args()
    console, looks = Console(width=110), dict[int, dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="walrus-rolling-", dir=".") as directory:
        rolling = Rolling(Path(directory) / "n", options.topics, options.segment_entries, options.retain)
        try:
            rolling.begin()
            for _ in range(THIRDS):
                rolls = rolling.roll(options.segments // THIRDS)
                looks[rolling.rolled] = {**rolling.look(), "rolls": rolls}
                tell(f"{rolling.rolled:,} segments: {looks[rolling.rolled]}")
            seconds = rolling.restart()
        finally:
            rolling.nodes.stop()
    show(console, looks)
    console.print(f"all nodes stopped, then started: ready after {seconds:.1f} s")


if __name__ == "__main__":
    main()
