"""A local cluster in one command: `python -m walrus.cluster --nodes 3`.

In the foreground it shows a live table of what each node says of itself and stops all of them cleanly on
Ctrl-C. With `--detach` the nodes go on in the background (`--down` stops them): `make cluster-bootstrap`.

    node   client port   raft port   data
    1      9091          6001        data/node_1/     founds the cluster
    2      9092          6002        data/node_2/     joins through node 1
    3      9093          6003        data/node_3/     joins through node 1

Flags that this command does not know are handed to every node: `python -m walrus.cluster --fsync 200`.

Nothing is remembered about running processes but what they hold themselves: the lock in each data directory,
which names its holder by pid, start time and boot (`storage/processes.py`). `--down` signals that process or
none: in another container, or after a restart of the machine, the same pid is a stranger. `--detach` starts
the nodes that do not run, so the same command brings back one that died.

`--restart NODE` stops one of them and starts it again, as `cluster.json` beside the data says. `--console`
opens a console (`walrus/console`) for as long as the nodes run: it may kill and start them.

Left out: restarting nodes that die by itself. Seeing what happens when one does is what this is for.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import argparse
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from walrus.cli.command_line import Console, Parser, command
from walrus.client import Client
from walrus.client.errors import WalrusError
from walrus.config import FIRST_CLIENT_PORT, FIRST_RAFT_PORT
from walrus.shell.flags import FlagError, address, directory, parse, whole
from walrus.storage.processes import Holder, lock_holder, signal_holder

CONSOLE = "127.0.0.1:9090"
"""Where `--console` serves."""

STOP_PATIENCE = 15.0
"""Seconds that a node may take to stop before it is killed."""


REMEMBERED = "cluster.json"
"""Below the data directory: how its nodes are started."""


class _CommandLine(msgspec.Struct, frozen=True):
    """What of the command line starts a node."""

    nodes: int
    client_port: int
    raft_port: int
    flags: list[str]


class ClusterError(Exception):
    """The cluster cannot be started or stopped; the message is one line."""


class LocalCluster:
    """Nodes 1 to n on this machine, at neighbouring ports, below one data directory."""

    def __init__(
        self,
        nodes: int,
        data_dir: Path,
        *,
        client_port: int = FIRST_CLIENT_PORT,
        raft_port: int = FIRST_RAFT_PORT,
        flags: Sequence[str] = (),
    ) -> None:
        self.ids = list(range(1, nodes + 1))
        self.data_dir = data_dir
        self._client_port, self._raft_port = client_port, raft_port
        self._flags = list(flags)
        self.environ = dict(os.environ)
        """Of the nodes."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @classmethod
    def remembered(cls, data_dir: Path) -> LocalCluster:
        """Return the cluster that was started below `data_dir`, as it was. Raises ClusterError."""
        path = data_dir / REMEMBERED
        try:
            told = msgspec.json.decode(path.read_bytes(), type=_CommandLine)
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError(f"{path}: not as walrus.cluster writes it: {error}") from error
        return cls(
            told.nodes, data_dir, client_port=told.client_port, raft_port=told.raft_port, flags=told.flags
        )

    def _remember(self) -> None:
        """Note how nodes are started, so that one can be started again without the command line at hand."""
        told = _CommandLine(len(self.ids), self._client_port, self._raft_port, self._flags)
        (self.data_dir / REMEMBERED).write_bytes(msgspec.json.encode(told) + b"\n")

    def address(self, node_id: int) -> str:
        """Where a node serves clients."""
        return f"127.0.0.1:{self._client_port + node_id - 1}"

    @property
    def addresses(self) -> list[str]:
        """Where all nodes serve clients."""
        return [self.address(node_id) for node_id in self.ids]

    def log_path(self, node_id: int) -> Path:
        """A node's log file."""
        return self.data_dir / f"node_{node_id}.log"

    def running(self) -> dict[int, Holder]:
        """Return which nodes have a process, and which one."""
        return {node: found for node, found in running_nodes(self.data_dir).items() if node in self.ids}

    def start(self, *node_ids: int) -> None:
        """Start these nodes (all of them). Raises ClusterError if one runs already, or a port is taken."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._remember()
        running = self.running()
        for node_id in node_ids or self.ids:
            if node_id in running:
                raise ClusterError(
                    f"node {node_id} runs already (process {running[node_id].pid}): stop it with "
                    f"python -m walrus.cluster --down --data-dir {self.data_dir}"
                )
            self._check_ports(node_id)
        for node_id in node_ids or self.ids:
            with self.log_path(node_id).open("ab") as log:
                self.processes[node_id] = subprocess.Popen(
                    [sys.executable, *self.program(node_id), *self._arguments(node_id)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environ,
                    start_new_session=True,
                )

    def program(self, node_id: int) -> list[str]:
        """Return the arguments of Python that run a node; a benchmark measures another program."""
        return ["-m", "walrus.node"]

    def _arguments(self, node_id: int) -> list[str]:
        arguments = ["--node-id", str(node_id), "--data-dir", str(self.data_dir)]
        arguments += ["--client-port", str(self._client_port + node_id - 1)]
        arguments += ["--raft-port", str(self._raft_port + node_id - 1)]
        if node_id != 1:
            arguments += ["--join", f"127.0.0.1:{self._raft_port}"]
        return arguments + self._flags

    def _check_ports(self, node_id: int) -> None:
        """Refuse ports in use: the other cluster would answer in place of this one."""
        ports = {"--client-port": self._client_port, "--raft-port": self._raft_port}
        for flag, first in ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port := first + node_id - 1))
                    probe.listen()
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise ClusterError(f"port {port} is in use: give another {flag}") from error
                    raise

    def wait_ready(self, patience: float = 30.0, stopped: Callable[[], bool] = lambda: False) -> float:
        """Wait until every node is a voter, knows a leader and serves; return the seconds that took.

        Returns early once `stopped`. Raises ClusterError after `patience` seconds.
        """
        start = time.monotonic()
        waiting = set(self.ids)
        while waiting and not stopped():
            for node_id in sorted(waiting):
                self._check_alive(node_id)
                metrics = self.metrics(node_id)
                if metrics is not None and metrics["ready"]:
                    waiting.discard(node_id)
            if time.monotonic() - start > patience:
                node_id = min(waiting)
                raise ClusterError(
                    f"node {node_id} is not ready after {patience:g} s, see {self.log_path(node_id)}: "
                    f"{self._last_words(node_id)}"
                )
            pause(0.02)
        return time.monotonic() - start

    def _check_alive(self, node_id: int) -> None:
        process = self.processes.get(node_id)
        if process is not None and process.poll() is not None:
            raise ClusterError(
                f"node {node_id} exited with status {process.returncode}: {self._last_words(node_id)}"
            )

    def _last_words(self, node_id: int) -> str:
        """The last line of a node's log."""
        return " ".join(self.log_path(node_id).read_text(errors="replace").strip().splitlines()[-1:])

    def metrics(self, node_id: int) -> dict[str, Any] | None:
        """Return what a node says of itself; None if it does not answer."""
        try:
            with Client([self.address(node_id)], timeout=1.0) as client:
                return client.metrics()
        except (WalrusError, OSError):
            return None

    def kill(self, node_id: int) -> None:
        """SIGKILL."""
        self.processes[node_id].kill()
        self.processes[node_id].wait()

    def stop(self) -> dict[int, int]:
        """SIGTERM to all at once, SIGKILL to those that do not end in time; return the exit statuses."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        statuses = {}
        try:
            for node_id, process in self.processes.items():
                try:
                    statuses[node_id] = process.wait(STOP_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    statuses[node_id] = process.wait()
        except KeyboardInterrupt:  # a second Ctrl-C: do not wait, but leave no process behind
            for process in self.processes.values():
                process.kill()
            raise
        return statuses


def pause(seconds: float) -> None:
    """Wait between two looks at something that cannot notify."""
    threading.Event().wait(seconds)


def running_nodes(data_dir: Path) -> dict[int, Holder]:
    """Return the nodes below `data_dir` that have a process, and which one."""
    found = {}
    for lock in data_dir.glob("node_*/lock"):
        number = lock.parent.name.removeprefix("node_")
        if number.isdecimal() and (holder := lock_holder(lock)) is not None:
            found[int(number)] = holder
    return dict(sorted(found.items()))


def take_down(data_dir: Path, patience: float = STOP_PATIENCE) -> list[int]:
    """Stop all nodes that run below `data_dir`; return their ids.

    Each gets SIGTERM, and SIGKILL if it has not ended after `patience` seconds. Raises ClusterError, after
    that, if there are some whose process cannot be named from here.
    """
    stopped, strangers = [], {}
    for node_id, holder in running_nodes(data_dir).items():
        if signal_holder(holder, signal.SIGTERM):
            stopped.append(node_id)
        else:
            strangers[node_id] = holder
    deadline = time.monotonic() + patience
    while left := [node_id for node_id in running_nodes(data_dir) if node_id in stopped]:
        if time.monotonic() > deadline:
            for node_id, holder in running_nodes(data_dir).items():
                if node_id in left:
                    signal_holder(holder, signal.SIGKILL)
        pause(0.05)
    if strangers:
        who = ", ".join(f"node {node_id} (process {held.pid})" for node_id, held in strangers.items())
        raise ClusterError(
            f"{who}: runs, but not as a process that can be named from here; stop it in its own container "
            f"or on its own machine"
        )
    return stopped


def watch(cluster: LocalCluster, stopped: Callable[[], bool]) -> None:
    """Show the live table until `stopped`."""
    from rich.live import Live

    from walrus.cli import status

    rates, caption = status.Rates(), f"logs: {cluster.data_dir}/node_*.log; Ctrl-C stops all nodes"
    with Live(console=Console(), refresh_per_second=4) as live:
        while not stopped():
            seen = status.look(cluster.addresses, timeout=1.0)
            now = time.monotonic()
            puts = {n.node_id: n.figures.puts_acknowledged for n in seen.nodes if n.figures is not None}
            live.update(status.shown(seen, {n: rates.rate(n, c, now) for n, c in puts.items()}, caption))
            pause(0.5)


def start_console(cluster: LocalCluster, http: str) -> subprocess.Popen[bytes]:
    """Start a console for the cluster; it prints its address, and ends with SIGTERM."""
    command = [sys.executable, "-m", "walrus.console", "--http", http, "--allow-changes"]
    command += ["--data-dir", str(cluster.data_dir)]
    for where in cluster.addresses:
        command += ["--addr", where]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=cluster.environ, start_new_session=True)


def _foreground(cluster: LocalCluster, http: str | None = None) -> int:
    """Run until Ctrl-C or SIGTERM, then stop all nodes; `http`: where a console serves meanwhile."""
    console = None
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        cluster.start()
        seconds = cluster.wait_ready(stopped=ended.is_set)
        if not ended.is_set():
            sys.stderr.write(f"ready after {seconds:.1f} s; clients: {', '.join(cluster.addresses)}\n")
            console = start_console(cluster, http) if http else None
            watch(cluster, ended.is_set)
    finally:
        if console is not None:
            console.terminate()
            console.wait()
        wake(cluster)
        statuses = cluster.stop()
        take_down(cluster.data_dir)  # what a console has started since is no child of this process
    sys.stderr.write("stopped\n")
    # A node that was still starting has no handler for SIGTERM yet, and nothing to lose.
    return int(any(status not in (0, -signal.SIGTERM) for status in statuses.values()))


def _background(cluster: LocalCluster) -> int:
    """Start the nodes that do not run, wait until all serve, leave them running."""
    running = cluster.running()
    missing = [node_id for node_id in cluster.ids if node_id not in running]
    if running and missing:
        sys.stderr.write(f"starting {numbered(missing)}; running already: {numbered(running)}\n")
    try:
        cluster.start(*missing)
        seconds = cluster.wait_ready()
    except BaseException:
        cluster.stop()
        raise
    sys.stderr.write(f"ready after {seconds:.1f} s; clients: {', '.join(cluster.addresses)}\n")
    sys.stderr.write(f"stop it with: python -m walrus.cluster --down --data-dir {cluster.data_dir}\n")
    return 0


def wake(cluster: LocalCluster) -> None:
    """Let paused nodes go on: a stopped process takes no SIGTERM."""
    for holder in cluster.running().values():
        signal_holder(holder, signal.SIGCONT)


def restart(data_dir: Path, node_id: int) -> int:
    """Stop one node if it runs, and start it as it was started. Raises ClusterError."""
    cluster = LocalCluster.remembered(data_dir)
    if node_id not in cluster.ids:
        raise ClusterError(f"--restart: there is no node {node_id} below {data_dir}")
    holder = cluster.running().get(node_id)
    if holder is not None and not signal_holder(holder, signal.SIGTERM):
        raise ClusterError(f"node {node_id} (process {holder.pid}) cannot be signalled from here")
    deadline = time.monotonic() + STOP_PATIENCE
    while (held := cluster.running().get(node_id)) is not None:
        if time.monotonic() > deadline:
            signal_holder(held, signal.SIGKILL)
        pause(0.05)
    cluster.start(node_id)
    seconds = cluster.wait_ready()
    sys.stderr.write(f"node {node_id} is back, all are ready after {seconds:.1f} s\n")
    return 0


def _down(data_dir: Path) -> int:
    """Stop what runs below the data directory."""
    try:
        stopped = take_down(data_dir)
    except ClusterError as error:
        sys.stderr.write(f"walrus-cluster: {error}\n")
        return 1
    sys.stderr.write(f"stopped {numbered(stopped)}\n" if stopped else f"no node runs below {data_dir}\n")
    return 0


def _restart(data_dir: Path, node_id: int) -> int:
    try:
        return restart(data_dir, node_id)
    except ClusterError as error:
        sys.stderr.write(f"walrus-cluster: {error}\n")
        return 1


def numbered(node_ids: Collection[int]) -> str:
    """Name some nodes.

    >>> numbered([2]), numbered([1, 3])
    ('node 2', 'nodes 1, 3')
    """
    return f"node{'s' if len(node_ids) > 1 else ''} {', '.join(map(str, node_ids))}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="walrus-cluster",
        description="Run a Walrus cluster on this machine. Other flags are handed to every node.",
        allow_abbrev=False,
    )
    port = whole(1, 65_535)
    parser.add_argument("--nodes", type=whole(1, 99), default=3, metavar="N", help="how many (default: 3)")
    parser.add_argument(
        "--data-dir", type=directory, default=Path("./data"), metavar="DIR", help="default: ./data"
    )
    parser.add_argument(
        "--client-port",
        type=port,
        default=FIRST_CLIENT_PORT,
        metavar="PORT",
        help="node 1's, the others follow (default: %(default)s)",
    )
    parser.add_argument(
        "--raft-port",
        type=port,
        default=FIRST_RAFT_PORT,
        metavar="PORT",
        help="node 1's, the others follow (default: %(default)s)",
    )
    parser.add_argument("--detach", action="store_true", help="start what does not run, in the background")
    parser.add_argument("--down", action="store_true", help="stop what runs below --data-dir")
    parser.add_argument(
        "--restart", type=whole(1, 99), metavar="NODE", help="one node of what --detach has started"
    )
    parser.add_argument(
        "--console",
        type=address,
        nargs="?",
        const=CONSOLE,
        metavar="HOST:PORT",
        help=f"show the cluster in the browser meanwhile (default: {CONSOLE})",
    )
    return parser


def _check_flags(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Check the last node's command line before the first node is started. Raises FlagError."""
    client_port, raft_port = options.client_port + options.nodes - 1, options.raft_port + options.nodes - 1
    last = ["--node-id", str(options.nodes), "--client-port", str(client_port), "--raft-port", str(raft_port)]
    if abs(client_port - raft_port) < options.nodes:
        raise FlagError(f"--client-port: must be {options.nodes} or more away from --raft-port")
    try:
        settings = parse([*last, *flags], os.environ)
    except FlagError as error:  # the flag was given to this command, not to walrus-node
        raise FlagError(str(error)) from None
    if settings.node_id != options.nodes:
        raise FlagError("--node-id: this command numbers its nodes itself")


@command("walrus-cluster")
def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m walrus.cluster`: 0 after a clean stop, 2 for a bad flag, 1 for anything else."""
    options, flags = _parser().parse_known_args(arguments)
    if options.down:
        return _down(options.data_dir)
    if options.restart:
        return _restart(options.data_dir, options.restart)
    _check_flags(options, flags)
    cluster = LocalCluster(
        options.nodes,
        options.data_dir,
        client_port=options.client_port,
        raft_port=options.raft_port,
        flags=flags,
    )
    try:
        return _background(cluster) if options.detach else _foreground(cluster, options.console)
    except ClusterError as error:
        sys.stderr.write(f"walrus-cluster: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
