"""A local cluster in one command: `python -m walrus.cluster --nodes 3`.

In the foreground it shows a live table of the nodes, and stops all of them cleanly on Ctrl-C. With
`--detach` the nodes continue in the background until `--down` (`make cluster-bootstrap`, `make
cluster-down`).

    node   client port   raft port   data
    1      9091          6001        data/node_1/     founds the cluster
    2      9092          6002        data/node_2/     joins through node 1
    3      9093          6003        data/node_3/     joins through node 1

Flags that this command does not know are passed to every node: `python -m walrus.cluster --fsync 200`.

A file (`--config`) may have a section `[cluster]` for this command, and `[node]` for all nodes.

The command stores nothing about running processes. It relies on the lock that a process holds in its data
directory, which names the holder by pid, start time and boot (`storage/processes.py`). `--down` signals only
that process: in another container, or after a restart of the machine, the same pid may belong to another
process. `--detach` starts the nodes that do not run, so the same command restarts one that died.

With `--tls` nodes have certificates and require them of clients. Missing certificates are made below the
data directory (`certs/`), and the command prints the variables that a client needs. `--token-file`
identifies this command to nodes with an `--auth-file`: it asks for METRICS, which needs the role `read`.

`--restart NODE` stops one node and starts it again, with the flags in `cluster.json` below the data
directory. `--console` runs a console (`walrus/console`) as long as the nodes run; it may kill and start
them. `--play` does so, too; it also streams messages and records the nodes (`--trace`), so that the console
can count lost messages and show the last half minute. Both end with this command, so neither can be used
with `--detach`.

Left out: restarting nodes that die. The command is meant for watching what happens in that case.
"""

from __future__ import annotations

if __name__ == "__main__":
    from walrus.cli.interrupts import end_quietly

    end_quietly()

import argparse
import errno
import os
import shlex
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

from walrus.cli.command_line import VARIABLES, Console, Parser, add_credentials, command, use_credentials
from walrus.client import Client
from walrus.client.errors import Forbidden, Unauthenticated, WalrusError
from walrus.config import FIRST_CLIENT_PORT, FIRST_RAFT_PORT
from walrus.shell.arguments import FlagError, address, directory, whole
from walrus.shell.flags import look, settings_of
from walrus.shell.layers import Layered, add_config_flags, layered
from walrus.storage.processes import Holder, lock_holder, signal_holder
from walrus.tls import TlsError

CONSOLE = "127.0.0.1:9090"
"""The default address of `--console`."""

STOP_PATIENCE = 15.0
"""Seconds that a node may take to stop before it is killed."""


CERTIFICATES = "certs"
"""The directory of the certificates of `--tls`, below the data directory."""
TLS_VARIABLES = tuple(variable for variable in VARIABLES.values() if "_TLS_" in variable)

VERBS = ("detach", "down", "restart", "play")
"""Flags that say what to do now, which a file cannot set."""

REMEMBERED = "cluster.json"
"""The file, below the data directory, with the command line of the nodes."""


class _CommandLine(msgspec.Struct, frozen=True):
    """The part of the command line with which nodes are started."""

    nodes: int
    client_port: int
    raft_port: int
    flags: list[str]
    traces: bool = False
    tls: bool = False


class ClusterError(Exception):
    """The cluster cannot be started or stopped; the message is one line."""


class LocalCluster:
    """Nodes 1 to n on this machine, at consecutive ports, below one data directory."""

    def __init__(
        self,
        nodes: int,
        data_dir: Path,
        *,
        client_port: int = FIRST_CLIENT_PORT,
        raft_port: int = FIRST_RAFT_PORT,
        flags: Sequence[str] = (),
        traces: bool = False,
        tls: bool = False,
    ) -> None:
        """`traces`: whether each node records its steps (`--trace`); `tls`: whether nodes use TLS."""
        self.ids = list(range(1, nodes + 1))
        self.data_dir = data_dir
        self._client_port, self._raft_port = client_port, raft_port
        self._flags, self.traces, self._tls = list(flags), traces, tls
        self.environ: dict[str, str] = {}
        """Variables of the nodes, in addition to the environment of this process."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @classmethod
    def remembered(cls, data_dir: Path) -> LocalCluster:
        """Return the cluster that was started below `data_dir`, with the same flags. Raises ClusterError."""
        path = data_dir / REMEMBERED
        try:
            told = msgspec.json.decode(path.read_bytes(), type=_CommandLine)
        except (OSError, msgspec.MsgspecError) as error:
            raise ClusterError(f"{path}: not as walrus.cluster writes it: {error}") from error
        return cls(data_dir=data_dir, **msgspec.structs.asdict(told))

    def _remember(self) -> None:
        """Store how nodes are started, so that one can be restarted without the command line."""
        told = _CommandLine(
            len(self.ids), self._client_port, self._raft_port, self._flags, self.traces, self._tls
        )
        (self.data_dir / REMEMBERED).write_bytes(msgspec.json.encode(told) + b"\n")

    def address(self, node_id: int) -> str:
        """Return the client address of a node."""
        return f"127.0.0.1:{self._client_port + node_id - 1}"

    @property
    def addresses(self) -> list[str]:
        """The client addresses of all nodes."""
        return [self.address(node_id) for node_id in self.ids]

    def log_path(self, node_id: int) -> Path:
        """Return a node's log file."""
        return self.data_dir / f"node_{node_id}.log"

    def running(self) -> dict[int, Holder]:
        """Return the processes of the nodes that run, by id."""
        return {node: found for node, found in running_nodes(self.data_dir).items() if node in self.ids}

    def start(self, *node_ids: int) -> None:
        """Start these nodes, or all. Raises ClusterError if one runs already, or a port is in use."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        running = self.running()
        self._certify(running)
        self._remember()
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
                    [sys.executable, *self.program(node_id), *self.arguments(node_id)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environ},
                    start_new_session=True,
                )

    def _certify(self, running: Collection[int]) -> None:
        """Make missing certificates. Raises ClusterError, also if the nodes that run differ about TLS."""
        known = (self.data_dir / REMEMBERED).exists()
        if running and known and self.remembered(self.data_dir)._tls != self._tls:
            raise ClusterError(
                f"{numbered(running)} of this cluster: started with{'out' if self._tls else ''} --tls, and "
                f"all nodes change together: give the same flags, or stop it first with --down"
            )
        if self._tls:
            from walrus.certs import Authority  # it needs cryptography, which nodes do not depend on

            try:
                Authority.ensure(self.data_dir / CERTIFICATES, self.ids)
            except TlsError as error:
                raise ClusterError(str(error)) from error

    def _files(self, name: str) -> dict[str, Path]:
        """Return the certificate files of a node or a client, under the names of the flags."""
        there = (self.data_dir / CERTIFICATES).absolute()
        return {
            "tls_ca": there / "ca.pem",
            "tls_cert": there / f"{name}.pem",
            "tls_key": there / f"{name}.key",
        }

    def needed(self) -> dict[str, str]:
        """Return the environment variables that a client needs."""
        files = self._files("client") if self._tls else {}
        return {VARIABLES[name]: str(path) for name, path in files.items()}

    def trust(self, token_file: Path | None = None) -> None:
        """Let clients of this process and its children use TLS if and only if the nodes do.

        TLS variables in the environment, which may be those of another cluster, are ignored unless the
        nodes' own flags ask for TLS. Raises ClusterError, or FlagError for an invalid token.
        """
        self._certify(self.running())
        if self._tls or look(self.arguments(self.ids[-1]), os.environ).options.tls_ca is None:
            for variable in TLS_VARIABLES:
                os.environ.pop(variable, None)
        os.environ.update(self.needed())
        use_credentials(argparse.Namespace(token_file=token_file))

    def program(self, node_id: int) -> list[str]:
        """Return Python's arguments that run a node; benchmarks override it to measure another program."""
        return ["-m", "walrus.node"]

    def arguments(self, node_id: int) -> list[str]:
        """Return a node's command line."""
        arguments = ["--node-id", str(node_id), "--data-dir", str(self.data_dir)]
        arguments += ["--client-port", str(self._client_port + node_id - 1)]
        arguments += ["--raft-port", str(self._raft_port + node_id - 1)]
        if node_id != 1:
            arguments += ["--join", f"127.0.0.1:{self._raft_port}"]
        if self._tls:
            arguments.append("--tls-client-auth")
            for name, path in self._files(f"node-{node_id}").items():
                arguments += ["--" + name.replace("_", "-"), str(path)]
        if self.traces:
            arguments += ["--trace", str(self.data_dir / f"trace-{node_id}.jsonl")]
        return arguments + self._flags

    def _check_ports(self, node_id: int) -> None:
        """Raise ClusterError for ports in use, since another cluster would answer in place of this one."""
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
        """Wait until every node is ready; return the seconds that it took.

        Returns early once `stopped`. Raises ClusterError after `patience` seconds, or if a node exits.
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
        """Return the last line of a node's log."""
        return " ".join(self.log_path(node_id).read_text(errors="replace").strip().splitlines()[-1:])

    def metrics(self, node_id: int) -> dict[str, Any] | None:
        """Return a node's METRICS; None if it does not answer. Raises ClusterError if it refuses."""
        try:
            with Client([self.address(node_id)], timeout=1.0) as client:
                return client.metrics()
        except (Unauthenticated, Forbidden) as error:
            raise ClusterError(
                f"node {node_id} does not tell this command how it is: {error}; --token-file names a token "
                f"with the role read"
            ) from error
        except (WalrusError, OSError):
            return None

    def kill(self, node_id: int) -> None:
        """End a node with SIGKILL."""
        self.processes[node_id].kill()
        self.processes[node_id].wait()

    def stop(self) -> dict[int, int]:
        """Send SIGTERM to all, and SIGKILL to those that do not end in time; return their exit statuses."""
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
    """Wait some seconds between two checks of a condition that cannot be waited for."""
    threading.Event().wait(seconds)


def running_nodes(data_dir: Path) -> dict[int, Holder]:
    """Return the processes of the nodes that run below `data_dir`, by id."""
    found = {}
    for lock in data_dir.glob("node_*/lock"):
        number = lock.parent.name.removeprefix("node_")
        if number.isdecimal() and (holder := lock_holder(lock)) is not None:
            found[int(number)] = holder
    return dict(sorted(found.items()))


def take_down(data_dir: Path, patience: float = STOP_PATIENCE) -> list[int]:
    """Stop all nodes that run below `data_dir`; return their ids.

    Each gets SIGTERM, and SIGKILL if it has not ended after `patience` seconds. Raises ClusterError at the
    end if there are nodes that this process cannot signal, such as those in another container.
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


def start_console(cluster: LocalCluster, http: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """Start a console for the cluster at the address `http`. It prints the address on `stderr`, and ends on
    SIGTERM."""
    command = [sys.executable, "-m", "walrus.console", "--http", http, "--allow-changes"]
    command += ["--data-dir", str(cluster.data_dir)]
    if cluster.traces:
        command.append("--play")
    for where in cluster.addresses:
        command += ["--addr", where]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env={**os.environ, **cluster.environ},
        start_new_session=True,
    )


def _say_ready(cluster: LocalCluster, seconds: float) -> None:
    """Print the client addresses, and the variables that clients need."""
    sys.stderr.write(f"ready after {seconds:.1f} s; clients: {', '.join(cluster.addresses)}\n")
    if needed := cluster.needed():
        said = " ".join(f"{name}={shlex.quote(value)}" for name, value in needed.items())
        sys.stderr.write(f"clients need: export {said}\n")


def _foreground(cluster: LocalCluster, http: str | None = None) -> int:
    """Run until Ctrl-C or SIGTERM, then stop all nodes; `http`: the address of a console, if any."""
    console = None
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        if cluster.traces and not cluster.running():
            for old in cluster.data_dir.glob("trace-*.jsonl"):
                old.unlink()  # it may be from another boot, whose monotonic clock is not comparable
        cluster.start()
        seconds = cluster.wait_ready(stopped=ended.is_set)
        if not ended.is_set():
            _say_ready(cluster, seconds)
            console = start_console(cluster, http) if http else None
            watch(cluster, ended.is_set)
    finally:
        if console is not None:
            console.terminate()
            console.wait()
        wake(cluster)
        statuses = cluster.stop()
        take_down(cluster.data_dir)  # nodes that a console has started are not children of this process
    sys.stderr.write("stopped\n")
    # A node that was still starting has no handler for SIGTERM yet, and loses nothing by it.
    fine = {0, -signal.SIGTERM} | ({-signal.SIGKILL} if console is not None else set())  # its kill button
    return int(any(status not in fine for status in statuses.values()))


def _background(cluster: LocalCluster) -> int:
    """Start the nodes that do not run, wait until all are ready, and leave them running."""
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
    _say_ready(cluster, seconds)
    sys.stderr.write(f"stop it with: python -m walrus.cluster --down --data-dir {cluster.data_dir}\n")
    return 0


def wake(cluster: LocalCluster) -> None:
    """Send SIGCONT to all nodes: a process that is paused does not handle SIGTERM."""
    for holder in cluster.running().values():
        signal_holder(holder, signal.SIGCONT)


def restart(data_dir: Path, node_id: int, token_file: Path | None = None) -> int:
    """Stop one node if it runs, and start it with the same flags. Raises ClusterError or FlagError."""
    cluster = LocalCluster.remembered(data_dir)
    if node_id not in cluster.ids:
        raise ClusterError(f"--restart: there is no node {node_id} below {data_dir}")
    cluster.trust(token_file)
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
    """Stop the nodes that run below the data directory. Raises ClusterError."""
    stopped = take_down(data_dir)
    sys.stderr.write(f"stopped {numbered(stopped)}\n" if stopped else f"no node runs below {data_dir}\n")
    return 0


def numbered(node_ids: Collection[int]) -> str:
    """Name nodes by their ids.

    >>> numbered([2]), numbered([1, 3])
    ('node 2', 'nodes 1, 3')
    """
    return f"node{'s' if len(node_ids) > 1 else ''} {', '.join(map(str, node_ids))}"


def _parser() -> Parser:
    parser = Parser(
        prog="walrus-cluster",
        description="Run a Walrus cluster on this machine. Other flags are handed to every node.",
        allow_abbrev=False,
    )
    add_config_flags(parser)
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
    parser.add_argument("--tls", action="store_true", help="certificates for all, made below --data-dir")
    add_credentials(parser, ["--token-file"])
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
    parser.add_argument(
        "--play", action="store_true", help="--console, with messages that stream; each node records itself"
    )
    return parser


def _check_ends_here(options: argparse.Namespace) -> None:
    """Refuse `--console` and `--play`, which end with this command, with `--detach`. Raises FlagError."""
    if options.detach and (options.play or options.console):
        flag = "--play" if options.play else "--console"
        raise FlagError(
            f"{flag}: not with --detach, which leaves at once; `python -m walrus.console` shows nodes "
            "that run in the background"
        )


def _check_flags(options: argparse.Namespace, flags: Sequence[str], last: Sequence[str]) -> Layered:
    """Check the last node's command line before the first node is started. Raises FlagError."""
    if abs(options.client_port - options.raft_port) < options.nodes:
        raise FlagError(f"--client-port: must be {options.nodes} or more away from --raft-port")
    if options.tls and any(word.startswith("--tls-") for word in flags):
        raise FlagError("--tls: gives each node files of its own; leave out the flags that name some")
    try:
        told = look(last, os.environ)
        settings = settings_of(told)
    except FlagError as error:  # the flag was given to this command, not to walrus-node
        raise FlagError(str(error)) from None
    if settings.node_id != options.nodes:
        raise FlagError("--node-id: this command numbers its nodes itself")
    return told


@command("walrus-cluster")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 after a clean stop, 2 for an invalid flag, 1 for any other failure."""
    found = layered(
        _parser(), "cluster", arguments, os.environ, others=True, variables=VARIABLES, verbs=VERBS
    )
    options, flags = found.options, found.rest
    if options.config:
        flags = ["--config", str(options.config.absolute()), *flags]
    try:
        if options.down:
            return _down(options.data_dir)
        if options.restart:
            return restart(options.data_dir, options.restart, options.token_file)
        return _run(found, flags)
    except ClusterError as error:
        sys.stderr.write(f"walrus-cluster: {error}\n")
        return 1


def _run(found: Layered, flags: Sequence[str]) -> int:
    """Run the nodes that the command line asks for. Raises ClusterError or FlagError."""
    options = found.options
    _check_ends_here(options)
    cluster = LocalCluster(
        options.nodes,
        options.data_dir,
        client_port=options.client_port,
        raft_port=options.raft_port,
        flags=flags,
        traces=options.play,
        tls=options.tls,
    )
    told = _check_flags(options, flags, cluster.arguments(options.nodes))
    if options.check_config:
        sys.stdout.write(f"{found.shown()}\n# node {options.nodes}, as the last one\n{told.shown()}")
        return 0
    cluster.trust(options.token_file)
    if options.detach:
        return _background(cluster)
    return _foreground(cluster, options.console or (CONSOLE if options.play else None))


if __name__ == "__main__":
    sys.exit(main())
