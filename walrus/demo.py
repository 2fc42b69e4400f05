"""`make demo`: from nothing to a running cluster that loses a node and no message.

    python -m walrus.demo [--tls] [FILE]

1. Three nodes start on this machine, on free ports and with empty directories.
2. The lines of a real log file are streamed in, a third of them through each node. The file is that of a
   Debian package manager (in `walrus/examples/`), or FILE. Each line gets its number, so that it is unique.
3. Meanwhile the leader of the open segment is paused (SIGSTOP) until every producer waits for answers, and
   is then killed with SIGKILL. The producers continue with another leader, and send lines of unknown outcome
   again.
4. The topic is read back through the survivors and compared with the file. A table shows how many lines were
   acknowledged, read back, lost (0) and duplicated (0), and how long each step took.

Some of the lines that are sent again may have been stored before the node died. Each producer numbers its
lines (PUB), so the new leader recognises them, and does not append them again. The exit status is 0 only if
no line was lost and none duplicated. With `--tls` all connections use TLS, with certificates made for this
run. Credentials in the environment, which may be for another cluster, are ignored.

    python -m walrus.demo queue

Ten worker processes take tasks from a work queue on five nodes. Three of the workers and two of the nodes
are killed with SIGKILL meanwhile. The tasks that a dead worker had in hand are handed out again, so a task
may be done twice, but none may be lost.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from walrus.cli.command_line import VARIABLES, Console, Parser, command
from walrus.client import Client
from walrus.client.errors import WalrusError
from walrus.cluster import ClusterError, LocalCluster, pause

EXAMPLE = Path(__file__).parent / "examples" / "dpkg.log"
TOPIC = "log"
CHUNK = 25
"""How many lines a producer sends before it waits for their acknowledgements."""
BREATH = 0.005
"""Seconds between two chunks: without them the stream would end before the leader is dead."""
FEWEST = 1000
"""The least lines of a file: the stream of a shorter one would end before the leader is dead."""
SILENCE = 0.05
"""Seconds for which all producers must have waited before the paused leader is killed."""
KILL_AT = 0.4
"""The acknowledged share of the file at which the leader is paused and killed."""
PORTS = range(20_000, 32_500, 50)
"""The first ports to try, below the range from which the kernel takes ports for outgoing connections."""


class Failover(NamedTuple):
    """The failover that the kill caused. Times in seconds since the stream began."""

    victim: int
    segment: int
    killed_at: float
    resumed_at: float


class Stream:
    """Streams the lines in, with one producer for each node."""

    def __init__(self, addresses: Sequence[str], lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._produce, args=(turn, addresses), daemon=True)
            for turn in range(len(addresses))
        ]
        self.acknowledged = 0
        self.unanswered = 0
        self._waiting = 0  # producers
        self.sent_again = 0
        self.last_acknowledged = 0.0
        self.failure: WalrusError | None = None
        for thread in self._threads:
            thread.start()

    def clock(self) -> float:
        """Return the seconds since the stream began."""
        return time.monotonic() - self._started

    def _produce(self, turn: int, addresses: Sequence[str]) -> None:
        """Run one producer: send its share of the lines, through its own node first."""
        mine = list(self._lines[turn :: len(addresses)])
        with Client([*addresses[turn:], *addresses[:turn]], timeout=15.0) as client:
            producer = client.producer(TOPIC)
            while mine and self.failure is None:
                chunk, mine = mine[:CHUNK], mine[CHUNK:]
                again = producer.sent_again
                self._ask(len(chunk))
                try:
                    producer.put_many(chunk)
                except WalrusError as error:
                    self.failure = error
                    return
                self._note(len(chunk), producer.sent_again - again)
                pause(BREATH)

    def _ask(self, lines: int) -> None:
        with self._lock:
            self._waiting += 1
            self.unanswered += lines

    def _note(self, acknowledged: int, again: int) -> None:
        with self._lock:
            self._waiting -= 1
            self.unanswered -= acknowledged
            self.acknowledged += acknowledged
            self.sent_again += again
            self.last_acknowledged = self.clock()

    def silent(self) -> bool:
        """Return whether all producers wait for answers, and none has come for `SILENCE` seconds."""
        alive = sum(thread.is_alive() for thread in self._threads)
        return self._waiting == alive and self.clock() - self.last_acknowledged > SILENCE

    def wait(self, condition: Callable[[], bool], patience: float = 60.0) -> None:
        """Wait for a condition, or the end of the stream. Raises ClusterError after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not condition() and any(thread.is_alive() for thread in self._threads):
            if time.monotonic() > deadline:
                raise ClusterError("the stream does not get on")
            pause(0.001)

    def finish(self) -> float:
        """Wait for all producers; return the seconds that it took. Raises WalrusError if one failed."""
        for thread in self._threads:
            thread.join(120)
        if self.failure is not None:
            raise self.failure
        return self.last_acknowledged


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive ports that are free on loopback.

    Another program could take them before the nodes do. So each process begins its search at another port.
    """
    first = os.getpid() * 37 % len(PORTS)
    for base in chain(PORTS[first:], PORTS[:first]):
        sockets = []
        try:
            for port in range(base, base + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for probe in sockets:
                probe.close()
    raise ClusterError("no free ports on 127.0.0.1")


def numbered(file: Path) -> list[bytes]:
    """Return the lines of a file, each preceded by its number. Raises ClusterError if there are too few."""
    lines = file.read_bytes().splitlines()
    if len(lines) < FEWEST:
        raise ClusterError(
            f"{file} has {len(lines):,} lines: it takes {FEWEST:,} to kill a node in the middle"
        )
    return [b"%06d %b" % (number, line[:60_000]) for number, line in enumerate(lines, 1)]


def kill_leader(cluster: LocalCluster, stream: Stream, say: Callable[[str], None]) -> Failover:
    """Kill the leader of the open segment with SIGKILL, and wait until another node has taken over.

    Between two chunks a producer waits for no answer; if the leader died then, no line would have an unknown
    outcome. So the leader is paused first, until every producer waits for an answer.
    """
    with Client(cluster.addresses) as client:
        state = client.state(TOPIC)
        victim, segment = state["leader_node"], state["current_segment"]
        cluster.processes[victim].send_signal(signal.SIGSTOP)
        stream.wait(stream.silent)
        killed_at, unanswered = stream.clock(), stream.unanswered
        cluster.kill(victim)
        say(
            f"{killed_at:6.3f} s  kill -9 of node {victim}, the leader of segment {segment}, "
            f"with {unanswered} lines unanswered"
        )
        stream.wait(lambda: client.state(TOPIC)["current_segment"] > segment)
        state, before = client.state(TOPIC), stream.acknowledged
        if state["current_segment"] == segment:
            raise ClusterError("every line was acknowledged before the node was dead: try again")
        stream.wait(lambda: stream.acknowledged > before)
        resumed_at = stream.last_acknowledged
        count, heir = state["sealed_segments"][str(segment)], state["segment_leaders"][str(segment + 1)]
        say(f"{resumed_at:6.3f} s  segment {segment} is sealed with {count} entries, node {heir} goes on")
    return Failover(victim, segment, killed_at, resumed_at)


def report(
    lines: Sequence[bytes], found: Sequence[bytes], stream: Stream, took: dict[str, float]
) -> tuple[Table, int, int]:
    """Return the final table, and how many lines are lost and duplicated."""
    counted = Counter(found)
    lost = sum(line not in counted for line in lines)
    duplicated = sum(count - 1 for count in counted.values())
    table = Table(title="What became of the file", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("lines", f"{len(lines):,}")
    table.add_row("acknowledged", f"{stream.acknowledged:,}")
    table.add_row("sent again, outcome unknown", f"{stream.sent_again:,}")
    table.add_row("read back", f"{len(found):,}")
    table.add_row("lost", Text(str(lost), "red" if lost else "green"))
    table.add_row("duplicated", Text(str(duplicated), "red" if duplicated else "green"))
    for what, seconds in took.items():
        table.add_row(what, f"{seconds:.3f} s")
    return table, lost, duplicated


def play(console: Console, lines: Sequence[bytes], directory: Path, *, tls: bool = False) -> int:
    """Run the demonstration; return the number of lines that are lost or duplicated."""
    base = free_ports(6)
    flags = ["--log-level", "warning"]
    cluster = LocalCluster(3, directory, client_port=base, raft_port=base + 3, flags=flags, tls=tls)
    cluster.environ["WALRUS_MAX_SEGMENT_ENTRIES"] = str(max(100, len(lines) // 3))
    try:
        cluster.trust()
        cluster.start()
        took = {"three nodes ready after": cluster.wait_ready()}
        console.print(f"three nodes are up{' with TLS' * tls}: {', '.join(cluster.addresses)}")
        with Client(cluster.addresses) as client:
            client.register(TOPIC)
        stream = Stream(cluster.addresses, lines)
        console.print(" 0.000 s  streaming, a third of the lines through each node")
        stream.wait(lambda: stream.acknowledged >= KILL_AT * len(lines))
        failover = kill_leader(cluster, stream, console.print)
        took["from the kill to the next acknowledgement"] = failover.resumed_at - failover.killed_at
        took["streaming in"] = stream.finish()
        console.print(f"{took['streaming in']:6.3f} s  the last line is acknowledged")
        survivors = [cluster.address(node) for node in cluster.ids if node != failover.victim]
        start = time.monotonic()
        with Client(survivors, timeout=15.0) as client:
            found = list(client.entries(TOPIC))
        took["reading back"] = time.monotonic() - start
        table, lost, duplicated = report(lines, found, stream, took)
        console.print(table)
        return lost + duplicated
    finally:
        cluster.stop()


# --- the work queue ---

TASKS = 600
WORKERS = 10
QUEUE = "tasks"


class Crew:
    """Worker processes, each of which writes finished tasks to its own file before it acknowledges them."""

    def __init__(self, addresses: Sequence[str], directory: Path) -> None:
        self._files = [directory / f"worker-{number}" for number in range(WORKERS)]
        self._processes = []
        for number, path in enumerate(self._files):
            turned = [*addresses[number % len(addresses) :], *addresses[: number % len(addresses)]]
            named = [word for address in turned for word in ("--addr", address)]
            line = [sys.executable, "-m", "walrus.cli", *named, "consume", QUEUE, "crew"]
            with path.open("wb") as out:
                self._processes.append(subprocess.Popen(line, stdout=out, stderr=subprocess.DEVNULL))

    def done(self) -> Counter[bytes]:
        """Return the tasks that were done, and how often each was."""
        return Counter(line for path in self._files for line in path.read_bytes().splitlines())

    def wait_for(self, tasks: int, patience: float = 120.0) -> None:
        """Wait until so many tasks are done. Raises ClusterError after `patience` seconds."""
        deadline = time.monotonic() + patience
        while len(self.done()) < tasks:
            if time.monotonic() > deadline:
                raise ClusterError(f"only {len(self.done())} of {TASKS} tasks are done")
            pause(0.05)

    def kill(self, number: int) -> None:
        """Kill one worker with SIGKILL."""
        self._processes[number].kill()

    def stop(self) -> None:
        """Kill all workers."""
        for process in self._processes:
            process.kill()
            process.wait()


def play_queue(console: Console, directory: Path, *, tls: bool = False) -> int:
    """Run the demonstration of the queue; return the number of tasks that are lost."""
    base = free_ports(10)
    flags = ["--log-level", "warning", "--replication-factor", "5"]
    cluster = LocalCluster(5, directory, client_port=base, raft_port=base + 5, flags=flags, tls=tls)
    crew = None
    try:
        cluster.trust()
        cluster.start()
        cluster.wait_ready()
        tasks = [b"task %04d" % number for number in range(TASKS)]
        with Client(cluster.addresses, timeout=30.0) as client:
            client.register(QUEUE, {"visibility_ms": 3_000})
            crew = Crew(cluster.addresses, directory)
            console.print(f"five nodes and {WORKERS} workers are up; {TASKS} tasks go in")
            for start in range(0, TASKS, 20):
                client.producer(QUEUE).put_many(tasks[start : start + 20])
                if start in (100, 200, 300):
                    crew.kill(start // 100)
                    console.print(f"  kill -9 of worker {start // 100}")
                if start in (160, 400):
                    victim = client.state(QUEUE)["leader_node"]
                    cluster.kill(victim)
                    console.print(f"  kill -9 of node {victim}, which hands the tasks out")
        crew.wait_for(TASKS)
        done = crew.done()
        lost, twice = len(set(tasks) - done.keys()), sum(count > 1 for count in done.values())
        console.print(f"{len(done)} of {TASKS} tasks are done, {twice} of them more than once, {lost} lost")
        return lost
    finally:
        if crew is not None:
            crew.stop()
        cluster.stop()


@command("walrus-demo")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(prog="walrus-demo", description="Stream a file in, kill a leader, count.")
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=EXAMPLE,
        help="a log file (default: the one of a Debian system that comes with this package), or `queue`",
    )
    parser.add_argument("--tls", action="store_true", help="with TLS, and certificates made for it")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    for variable in VARIABLES.values():
        os.environ.pop(variable, None)  # it may be for another cluster
    try:
        if str(options.file) == "queue":
            with tempfile.TemporaryDirectory(prefix="walrus-demo-") as directory:
                return 1 if play_queue(console, Path(directory), tls=options.tls) else 0
        lines = numbered(options.file)
        console.print(f"{options.file.name}: {len(lines):,} lines")
        with tempfile.TemporaryDirectory(prefix="walrus-demo-") as directory:
            return 1 if play(console, lines, Path(directory), tls=options.tls) else 0
    except (ClusterError, WalrusError) as error:
        sys.stderr.write(f"walrus-demo: the demo broke off: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
