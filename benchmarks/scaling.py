"""What a cluster of many nodes costs its nodes: messages and processor time, counted in the simulator.

    python -m benchmarks.scaling [--nodes 3 10 30]

The real controllers run in the simulated world with a node's default intervals: one topic per node, one
producer and one consumer per topic, placed at random. The messages that the nodes send are counted, and the
work of the Raft leader's core and host on them is timed; sockets, encoding and disks are not included.
In the simulated world each message has a turn of its own, where a busy node takes many in one, so these are
costs without batching.

From these the last table computes what `docs/scaling.md` says of clusters that no single machine can run.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from rich.console import Console
from rich.table import Table

from walrus.broker.raft_host import RaftHost
from walrus.config import NodeConfig
from walrus.raft import Raft
from walrus.sim.stage import Stage

SECONDS = 2.0
DEFAULTS = NodeConfig(node_id=1, raft_address="127.0.0.1:1", client_address="")
SETTINGS = ("heartbeat_interval", "election_timeout", "failure_timeout", "lease_ttl", "cursor_interval")
RAFT = ("AppendEntriesRequest", "AppendEntriesResponse")
DATA = ("Append", "AppendReply", "Forward", "ForwardReply")
SIZES = (3, 10, 30, 100, 300)

CURSORS = 0.2
"""Share of a core that the commits of all nodes' cursors may take."""


@dataclass(frozen=True, slots=True)
class Found:
    """The figures of one size. Rates are per second of the world."""

    nodes: int
    acknowledged: int
    raft: float
    """Raft messages per second."""
    commits: float
    """Metadata commands per second."""
    data: float
    """Messages of the data plane per acknowledged entry."""
    leader_us: float
    """Processor time of the Raft leader per message that it receives, in microseconds."""

    @property
    def each(self) -> float:
        """Return Raft messages per command and follower, heartbeats included."""
        return self.raft / (self.commits * (self.nodes - 1))


class Stopwatch:
    """Measures the processor time of one node's Raft and of its host."""

    def __init__(self, host: RaftHost) -> None:
        self._of = (host, host.raft)
        self.seconds = 0.0

    def wrap(self, owner: type, name: str) -> Callable[[], None]:
        """Time this method; return a function that undoes this."""
        method = getattr(owner, name)

        @wraps(method)
        def timed(one: object, *args: Any) -> Any:
            if not any(one is each for each in self._of):
                return method(one, *args)
            begin = time.thread_time()
            try:
                return method(one, *args)
            finally:
                self.seconds += time.thread_time() - begin

        setattr(owner, name, timed)
        return lambda: setattr(owner, name, method)


def measure(nodes: int) -> Found:
    """Measure a cluster of this size at work."""
    stage = Stage(
        1,
        nodes=nodes,
        topics=nodes,
        producers=nodes,
        consumers=nodes,
        fetchers=0,
        sampled=True,
        think=0.2,
        window=10,
        settings={name: getattr(DEFAULTS, name) for name in SETTINGS},
    )
    stage.until(lambda: len(stage.judge.metadata.topics) >= nodes and bool(stage.raft_leader()), "a cluster")
    leader, sent = stage.controller(stage.raft_leader()), Counter[str]()
    at_leader = 0

    def look(sender: int, to: int, message: Any) -> bool:
        nonlocal at_leader
        sent[type(message).__name__] += 1
        at_leader += to == stage.raft_leader() and type(message).__name__ in RAFT
        return False

    watch = Stopwatch(leader.raft_host)
    parts = ((Raft, "step"), (RaftHost, "flush"), (RaftHost, "on_durable"))
    undo = [watch.wrap(owner, name) for owner, name in parts]
    stage.world.rules.append(look)
    before, applied = stage.acknowledged(), leader.applied
    stage.run(SECONDS)
    for each in undo:
        each()
    acknowledged = stage.acknowledged() - before
    raft = sum(sent[name] for name in RAFT)
    return Found(
        nodes=nodes,
        acknowledged=acknowledged,
        raft=raft / SECONDS,
        commits=(leader.applied - applied) / SECONDS,
        data=sum(sent[name] for name in DATA) / acknowledged,
        leader_us=watch.seconds / max(at_leader, 1) * 1e6,
    )


def counted(rows: Sequence[Found]) -> Table:
    """Return a table of the counts."""
    table = Table(title="counted in the simulator, per second")
    for head in (
        "nodes",
        "entries",
        "commands",
        "Raft messages",
        "of a command and follower",
        "data, an entry",
        "leader, us",
    ):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            str(row.nodes),
            f"{row.acknowledged / SECONDS:,.0f}",
            f"{row.commits:,.0f}",
            f"{row.raft:,.0f}",
            f"{row.each:.1f}",
            f"{row.data:.1f}",
            f"{row.leader_us:,.0f}",
        )
    return table


def computed(row: Found) -> Table:
    """Return the load of the Raft leader, by the costs of the largest cluster that was run."""
    rounds = row.each / 2  # per command
    table = Table(title="computed: the Raft leader")
    for head in (
        "nodes",
        "heartbeats, cores",
        "commands/s in half a core",
        "cursor interval for 0.2 cores, s",
    ):
        table.add_column(head, justify="right")
    for nodes in SIZES:
        one = (nodes - 1) * row.leader_us / 1e6  # seconds for all followers' answers to one round
        beats = one / DEFAULTS.heartbeat_interval
        command = one * rounds
        interval = nodes * command / CURSORS
        table.add_row(str(nodes), f"{beats:.3f}", f"{0.5 / command:,.0f}", f"{interval:,.1f}")
    return table


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.scaling", description="costs of a cluster of many nodes"
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 10, 30], metavar="N")
    console, rows = Console(), []
    for nodes in parser.parse_args().nodes:
        rows.append(measure(nodes))
        console.print(f"{nodes} nodes: {rows[-1].acknowledged} entries acknowledged")
    console.print(counted(rows))
    console.print(computed(rows[-1]))


if __name__ == "__main__":
    main()
