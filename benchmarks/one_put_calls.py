"""How many calls a node makes for one PUT: three whole nodes in one process, on a clock that stands still.

    python -m benchmarks.one_put_calls                           --fsync 200 and each
    python -m benchmarks.one_put_calls --fsync 200 --functions   which functions, too
    python -m benchmarks.one_put_calls --histograms              what the histograms of appends cost

A count is the same on a busy machine and on a quiet one, so it is the figure to compare between two versions
of the code when times cannot be trusted. Three nodes with their real sockets, engines and event loops take
turns in one thread. A pass of a node's loop runs when there is an event for it, and the leader's after each
of a follower's, so that replies arrive one by one, which is the most expensive case. No time passes
meanwhile, so no tick falls between two PUTs. The output is the median over all PUTs of what `sys.setprofile`
sees.
"""

from __future__ import annotations

import argparse
import asyncio
import select
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import Context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cluster import OK_FRAME, PAYLOAD, SCHEDULES, frame
from walrus import node
from walrus.demo import free_ports
from walrus.replicas.latency import Turns
from walrus.shell import turn
from walrus.shell.event_loop import BatchedEventLoop
from walrus.shell.flags import Settings, look, settings_of
from walrus.shell.identity import DataDirectory
from walrus.shell.joining import enter_cluster
from walrus.shell.peer_connections import NO_TRUST
from walrus.storage.processes import boot_id

NODES = 3
WARM_UP = 50
"""PUTs before counting begins."""
STEP = 0.002
"""Seconds by which the clock advances while nothing else happens, until all nodes are ready."""
ROUND, ROUNDS = 50, 60
"""PUTs per round, and pairs of rounds that are compared."""
PATIENCE = 60.0
"""Real seconds for the nodes to get ready, and for each PUT."""


class Clock:
    """A clock that stands still unless it is advanced."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


class SteppedLoop(BatchedEventLoop):
    """An event loop that runs one pass on request."""

    def __init__(self, clock: Clock) -> None:
        self._stopped_clock = clock
        self.owes_pass = False
        super().__init__()

    def time(self) -> float:
        """Return the time of all nodes."""
        return self._stopped_clock.now

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Do nothing: a process has one handler for three nodes."""

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule something for the next pass."""
        self.owes_pass = True
        return super().call_soon(callback, *args, context=context)

    def step(self) -> None:
        """Run one pass: handle what is there now, and wait for nothing."""
        self.owes_pass = False
        self.stop()
        self.run_forever()


class CallCounter:
    """Counts the calls of one node, for each PUT."""

    OWN = frozenset(
        own.__code__ for own in (SteppedLoop.time, SteppedLoop.call_soon, SteppedLoop.step, Clock.__call__)
    )

    def __init__(self) -> None:
        self.rows: list[tuple[Counter[CodeType], Counter[str]]] = []
        """For each PUT the calls of each function, in Python and in C."""
        self._row: tuple[Counter[CodeType], Counter[str]] = (Counter(), Counter())

    def end_row(self) -> None:
        """Begin the next PUT."""
        self.rows.append(self._row)
        self._row = (Counter(), Counter())

    def watch(self, action: Callable[[], None]) -> None:
        """Run an action whose calls count."""
        sys.setprofile(self._count)
        try:
            action()
        finally:
            sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code not in self.OWN:
            self._row[0][frame.f_code] += 1
        elif event == "c_call" and arg is not sys.setprofile:
            self._row[1][arg.__qualname__] += 1

    def totals(self) -> tuple[float, float]:
        """Return the medians: calls of Python functions, and of functions in C."""
        python, c = zip(*((python.total(), c.total()) for python, c in self.rows), strict=True)
        return statistics.median(python), statistics.median(c)

    def by_function(self) -> dict[str, float]:
        """Return the medians by function."""
        codes = {code: None for python, _ in self.rows for code in python}
        names = {name: None for _, c in self.rows for name in c}
        found = {_name(code): statistics.median(python[code] for python, _ in self.rows) for code in codes}
        return found | {name: statistics.median(c[name] for _, c in self.rows) for name in names}


def _name(code: CodeType) -> str:
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno} {code.co_qualname}"


class Stage:
    """Three nodes, a client, and the clock."""

    def __init__(self, directory: Path, schedule: str, flags: Sequence[str] = ()) -> None:
        self.clock = turn.monotonic = node.monotonic = Clock()
        self.loops = [SteppedLoop(self.clock) for _ in range(NODES)]
        self.nodes: list[node.Node] = []
        self.counters = [CallCounter() for _ in range(NODES)]
        self.counting = False
        """Whether the calls of passes are counted."""
        self._client_port = free_ports(2 * NODES)
        raft = self._client_port + NODES
        for number in range(NODES):
            ports = f"--client-port {self._client_port + number} --raft-port {raft + number}"
            told = f"--node-id {number + 1} {ports} --fsync {schedule}"
            joins = ["--join", f"127.0.0.1:{raft}"] if number else []
            told_all = [*told.split(), "--data-dir", str(directory), *joins, *flags]
            self.loops[number].create_task(self._serve(settings_of(look(told_all, {}))))
            self.until(self._is_ready)

    async def _serve(self, settings: Settings) -> None:
        """Run one of the nodes, as `walrus.node` does."""
        directory = DataDirectory(settings.data_dir, settings.node_id)
        directory.begin(settings.fsync_name, boot_id().hex())
        await enter_cluster(settings, directory, NO_TRUST)
        one = node.Node(settings, directory, NO_TRUST, None)
        self.nodes.append(one)
        await one.run()
        directory.close()

    def _is_ready(self) -> bool:
        started = sum(bool(asyncio.all_tasks(loop)) for loop in self.loops)
        return len(self.nodes) == started and all(one.controller.ready for one in self.nodes)

    def until(self, done: Callable[[], bool]) -> None:
        """Run nodes and time until `done()`; time advances only while the nodes have nothing else to do.

        Otherwise a sync of a second would take seconds of the nodes' time, and delay a leader.
        """
        end = time.perf_counter() + PATIENCE
        while not done():
            assert time.perf_counter() < end, "the nodes came to nothing"
            if not self._busy():
                self.clock.now += STEP
            for loop in self.loops:
                loop.step()
            select.select([loop.batches for loop in self.loops], [], [], 0.001)

    def close(self) -> None:
        """Stop the nodes."""
        for one in self.nodes:
            one.stop()
        self.until(lambda: all(not asyncio.all_tasks(loop) for loop in self.loops))
        for loop in self.loops:
            loop.close()
        turn.monotonic = node.monotonic = time.monotonic

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, puts: int, warm_up: int = WARM_UP) -> tuple[int, int]:
        """Send `puts` PUTs, each after the previous answer; return the leader and one of the followers."""
        with self.dial(0) as connection:
            connection.sendall(frame(b"REGISTER t"))
            self.until(lambda: all("t" in one.controller.metadata.topics for one in self.nodes))
            self.until(lambda: any("t" in one.controller.writers for one in self.nodes))
        leader = next(n for n, one in enumerate(self.nodes) if "t" in one.controller.writers)
        followers = [n for n in range(NODES) if n != leader]
        with self.dial(leader) as connection:
            self.until(lambda: bool(self.nodes[leader].clients.connections))
            for number in range(-warm_up, puts):
                self.counting = number >= 0
                connection.sendall(frame(b"PUT t " + PAYLOAD))
                order = leader, followers[0], leader, followers[1]
                self.carry(order, connection, lambda: bool(select.select([connection], [], [], 0)[0]))
                assert connection.recv(100) == OK_FRAME
                for counter in self.counters if self.counting else ():
                    counter.end_row()
        return leader, followers[0]

    def _busy(self) -> bool:
        """Return whether there is an event, or one that comes without time passing."""
        loops = self.loops
        readable, _, _ = select.select([loop.batches for loop in loops], [], [], 0)
        return bool(readable) or any(loop.owes_pass for loop in loops) or self._syncing()

    def _syncing(self) -> bool:
        return any(commit.under_way for one in self.nodes for commit in one.commits.values())

    def carry(self, order: Sequence[int], client: socket.socket, replied: Callable[[], bool]) -> None:
        """Run passes in this order, repeatedly, until the client is answered and nothing is left to do."""
        loops = [loop.batches.fileno() for loop in self.loops]
        while True:
            busy = False
            for number in order:
                loop = self.loops[number]
                if loop.owes_pass or select.select([loop.batches], [], [], 0)[0]:
                    busy = True
                    if self.counting:
                        self.counters[number].watch(loop.step)
                    else:
                        loop.step()
            if busy:
                continue
            if replied() and not self._syncing():
                return
            readable, _, _ = select.select([*loops, client.fileno()], [], [], PATIENCE)
            assert readable, "no answer"

    def dial(self, number: int) -> socket.socket:
        """Connect to that node."""
        connection = socket.create_connection(("127.0.0.1", self._client_port + number))
        connection.settimeout(PATIENCE)
        return connection


def show(console: Console, schedule: str, stage: Stage, roles: tuple[int, int], functions: bool) -> None:
    """Print a table of totals, and with `functions` one of functions."""
    table = Table(title=f"calls for one PUT, --fsync {schedule}", box=box.SIMPLE)
    for heading in ("", "Python", "C", "passes", "sends", "receives"):
        table.add_column(heading, justify="right" if heading else "left")
    found = {role: stage.counters[n] for role, n in zip(("leader", "follower"), roles, strict=True)}
    for role, counter in found.items():
        by_function = counter.by_function()
        system = [by_function.get(name, 0) for name in ("epoll.poll", "socket.send", "socket.recv_into")]
        table.add_row(role, *(f"{calls:.0f}" for calls in (*counter.totals(), *system)))
    console.print(table)
    for role, counter in found.items() if functions else ():
        console.print(f"{role}:")
        print_functions(console, counter)


def print_functions(console: Console, counter: CallCounter) -> None:
    """Print the functions that were called, the most frequent first."""
    for name, calls in sorted(counter.by_function().items(), key=lambda entry: -entry[1]):
        if calls:
            console.print(f"    {calls:6.0f}  {name}", highlight=False)


@contextmanager
def without_histograms() -> Iterator[None]:
    """Run the `with` without timing the writers' appends (`replicas/latency.py`)."""
    names = ("appended", "durable", "acknowledged")
    before = {name: getattr(Turns, name) for name in names}
    for name in names:
        setattr(Turns, name, lambda *_: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Turns, name, method)


def compare(console: Console, schedule: str, stage: Stage) -> None:
    """Compare the processor time of a PUT with and without the histograms, in turns on the same nodes."""
    costs: dict[bool, list[float]] = {True: [], False: []}
    stage.run(0, ROUND)
    for number in range(2 * ROUNDS):
        timed = number % 2 == 0
        with nullcontext() if timed else without_histograms():
            began = time.process_time()
            stage.run(0, ROUND)
            costs[timed].append((time.process_time() - began) / ROUND * 1e6)
    on, off = (statistics.median(costs[timed]) for timed in (True, False))
    console.print(f"--fsync {schedule}: processor time of one PUT, three nodes and the client together,")
    console.print(f"{on:.0f} us with the histograms, {off:.0f} us without, ratio {on / off:.3f} (medians)")


def main() -> None:
    """`python -m benchmarks.one_put_calls`."""
    parser = argparse.ArgumentParser(prog="benchmarks.one_put_calls", description="calls for one PUT")
    parser.add_argument("--puts", type=int, default=300, metavar="N", help="default: 300")
    parser.add_argument("--fsync", choices=SCHEDULES, action="append", help="default: both")
    parser.add_argument("--functions", action="store_true", help="print which functions are called")
    parser.add_argument(
        "--histograms", action="store_true", help="compare with nodes that do not time appends"
    )
    options = parser.parse_args()
    console = Console(width=140)
    for schedule in options.fsync or SCHEDULES:
        with (
            tempfile.TemporaryDirectory(prefix="walrus-calls-", dir=".") as directory,
            Stage(Path(directory), schedule) as stage,
        ):
            show(console, schedule, stage, stage.run(options.puts), options.functions)
            if options.histograms:
                compare(console, schedule, stage)
        if options.histograms:
            with (
                without_histograms(),
                tempfile.TemporaryDirectory(prefix="walrus-calls-", dir=".") as directory,
                Stage(Path(directory), schedule) as stage,
            ):
                show(console, f"{schedule}, without them", stage, stage.run(options.puts), options.functions)


if __name__ == "__main__":
    main()
