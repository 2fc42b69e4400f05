"""Real node processes on loopback, and what a test needs to hurt them and to wait for them.

    with Launcher(tmp_path) as launch:
        cluster = launch(nodes=3, flags=["--fsync", "none"])
        cluster[1].kill()                      # SIGKILL; also pause(), resume(), terminate(), start()
        cluster.wire(2).ask(b"PUT t hello")    # one frame there, one back

`Wire` is a client of thirty lines that shares no code with `walrus.client`, so that the two cannot be wrong
in the same way. Waiting is always for a condition, with a deadline far beyond what is needed; nothing here
asserts how long anything takes.

A node that runs the code of today is forked from a process that has imported it (`nursery.py`).

Every node listens for its peers on an address of its own, 127.0.0.N. With `proxied=True` it tells them
another one, 127.0.1.N, where `PartitionProxy` listens and forwards. Nodes dial from their own address, so
the proxy knows who calls whom and can hold back the bytes of any ordered pair. Held, not dropped: TCP would
retransmit them, and so they arrive late when the cut heals, which is what a fence has to withstand.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from tests.node.nursery import Born, Nursery

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Deadline of every wait, in seconds: not an expectation, only the moment when a test gives up."""
CALM = [
    *("--heartbeat-ms", "100", "--election-timeout-ms", "4000"),
    *("--lease-ttl-ms", "5000", "--failure-timeout-ms", "8000"),
]
"""Timeouts that do not expire on a busy machine: a leader that lives leads on. A killed node is noticed all
the same, at once, since its port refuses connections."""
BRISK = [
    *("--heartbeat-ms", "100", "--election-timeout-ms", "1500"),
    *("--lease-ttl-ms", "2000", "--failure-timeout-ms", "3000"),
]
"""Timeouts for tests that wait for them to expire, since a node that is frozen or cut off is only silent."""
QUICK = [
    *("--heartbeat-ms", "50", "--election-timeout-ms", "400"),
    *("--lease-ttl-ms", "600", "--failure-timeout-ms", "900"),
]
"""Timeouts that expire by themselves on a busy machine: for random faults, where one more is welcome."""
FAULTS_TOLD = {"PYTHONFAULTHANDLER": "1"}
RUN = "import sys; from walrus.node import main; sys.exit(main(sys.argv[1:]))"


def wait_for(condition: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """What `condition` returns once it is true; an AssertionError naming `what` if it never is."""
    end = time.monotonic() + patience
    while True:
        if result := condition():
            return result
        assert time.monotonic() < end, f"waited {patience:g} s for {what}"
        nap(0.02)


class Closed(Exception):
    """The node closed the connection (or was killed)."""


class Wire:
    """A client connection: frames out, frames in, each wait with a deadline."""

    def __init__(self, address: tuple[str, int], patience: float = PATIENCE) -> None:
        self._socket = socket.create_connection(address, timeout=patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, *requests: bytes) -> None:
        """Send these requests in one go, without waiting."""
        try:
            self._socket.sendall(b"".join(struct.pack("<I", len(request)) + request for request in requests))
        except OSError as error:
            raise Closed(str(error)) from error

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def unsent(self) -> int:
        """Bytes that the node's side has not taken yet."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("end of stream")
            self._buffer += data
        head, self._buffer = self._buffer[:count], self._buffer[count:]
        return head

    def receive(self) -> bytes:
        """The next reply."""
        return self._exactly(struct.unpack("<I", self._exactly(4))[0])

    def ask(self, request: bytes) -> bytes:
        """One request, one reply."""
        self.send(request)
        return self.receive()

    def json(self, request: bytes) -> Any:
        """One request whose reply is JSON."""
        return json.loads(self.ask(request))


@cache
def nursery() -> Nursery:
    """The one of this process, which ends with it."""
    return Nursery()


class NodeProcess:
    """One `python -m walrus.node`."""

    def __init__(
        self, cluster: Cluster, node_id: int, arguments: Sequence[str], environ: dict[str, str]
    ) -> None:
        self.node_id = node_id
        self.cluster = cluster
        self.arguments = list(arguments)
        self.environ = environ
        self.patch = ""
        """Python that the process runs first: how a test makes a disk fail or a handler raise."""
        self.tree = ROOT
        """Whose code it runs: see `trees.py`."""
        self.forked = sys.platform == "linux"
        """Whether a start forks a process that has imported the node (`nursery.py`), if that is the same."""
        self.process: subprocess.Popen[bytes] | Born | None = None
        self.log_path = cluster.path / f"node_{node_id}.log"
        self._begins_at = 0
        """Where the log of the last start begins."""

    @property
    def raft(self) -> tuple[str, int]:
        """Where it listens for its peers."""
        return self.cluster.raft_host(self.node_id), self.cluster.raft_ports[self.node_id]

    @property
    def client(self) -> tuple[str, int]:
        """Where it listens for clients."""
        return "127.0.0.1", self.cluster.client_ports[self.node_id]

    def start(self, *extra: str) -> Self:
        """Start the process (again)."""
        assert self.process is None or self.process.poll() is not None, "it still runs"
        if self.forked and self._needs_nothing_else():
            self._begins_at = self.log_path.stat().st_size if self.log_path.exists() else 0
            self.process = nursery().start([*self.arguments, *extra], self.environ, self.log_path)
            return self
        program = ["-c", f"{self.patch}\n{RUN}"] if self.patch else ["-m", "walrus.node"]
        command = [sys.executable, *program, *self.arguments, *extra]
        with self.log_path.open("ab") as log:
            self._begins_at = log.tell()
            self.process = subprocess.Popen(command, cwd=self.tree, env=self.environ, stdout=log, stderr=log)
        return self

    def _needs_nothing_else(self) -> bool:
        """Whether it runs the code of today, and Python is told nothing of its own."""
        usual = {**os.environ, **FAULTS_TOLD}
        other = {name for name in {*usual, *self.environ} if usual.get(name) != self.environ.get(name)}
        return not self.patch and self.tree == ROOT and all(name.startswith("WALRUS_") for name in other)

    @property
    def has_joined(self) -> bool:
        """Whether its last start came to serve: it found, founded or joined its cluster."""
        return b"peers on" in self.log_path.read_bytes()[self._begins_at :]

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal if there is a process."""
        if self.running:
            assert self.process is not None
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and be sure that it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, silent for all others."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        status = self.wait()
        assert "CRITICAL" not in self.log(), self.log()[-3000:]
        return status

    def wait(self) -> int:
        """The exit status, once it ends."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """What it wrote to its log."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wire(self) -> Wire:
        """A client connection."""
        return Wire(self.client)

    def metrics(self) -> dict[str, Any]:
        """METRICS."""
        with self.wire() as wire:
            answer = wire.json(b"METRICS")
        assert isinstance(answer, dict)
        return answer


class Cluster:
    """Some nodes that belong together."""

    def __init__(
        self,
        path: Path,
        *,
        nodes: int = 3,
        flags: Sequence[str] = CALM,
        env: dict[str, str] | None = None,
        proxied: bool = False,
    ) -> None:
        self.path = path
        self.flags = list(flags)
        self.env = env or {}
        self.raft_ports: dict[int, int] = {}
        self.client_ports: dict[int, int] = {}
        self.nodes: dict[int, NodeProcess] = {}
        if proxied and sys.platform != "linux":
            pytest.skip("only Linux has the whole of 127.0.0.0/8 on its loopback")
        self.proxy = PartitionProxy() if proxied else None
        path.mkdir(parents=True, exist_ok=True)
        for node_id in range(1, nodes + 1):
            self.add(node_id)

    def raft_host(self, node_id: int) -> str:
        """The address that a node listens on for its peers, and dials from."""
        return f"127.0.0.{node_id}" if sys.platform == "linux" else "127.0.0.1"

    def add(self, node_id: int, *extra: str, data_dir: Path | None = None) -> NodeProcess:
        """One more node, not started yet."""
        arguments = [*self._place(node_id, data_dir or self.path), *extra]
        environ = {**os.environ, **FAULTS_TOLD, "WALRUS_LOG": "info", **self.env}
        node = NodeProcess(self, node_id, arguments, environ)
        self.nodes[node_id] = node
        return node

    def _place(self, node_id: int, data_dir: Path) -> list[str]:
        """Arguments of a node, with ports that are free."""
        host = self.raft_host(node_id)
        self.raft_ports[node_id] = free_port(host)
        self.client_ports[node_id] = free_port("127.0.0.1")
        arguments = ["--node-id", str(node_id), "--data-dir", str(data_dir)]
        arguments += ["--raft-host", host, "--raft-port", str(self.raft_ports[node_id])]
        arguments += ["--client-port", str(self.client_ports[node_id]), *self.flags]
        if self.proxy is not None:
            arguments += ["--raft-advertise-host", f"127.0.1.{node_id}"]
            self.proxy.serve(node_id, self.raft_ports[node_id])
        if node_id != 1:
            arguments += ["--join", f"{self.raft_host(1)}:{self.raft_ports[1]}"]
        return arguments

    def move(self) -> None:
        """Give every node, none of which may run, new ports; those but the first are told the first one's."""
        for node_id, node in self.nodes.items():
            assert not node.running
            node.arguments = self._place(node_id, self.path)

    def __getitem__(self, node_id: int) -> NodeProcess:
        return self.nodes[node_id]

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self.nodes.values())

    def start(self) -> Self:
        """Start all, and wait until they serve."""
        for node in self:
            node.start()
        self.wait_ready()
        return self

    def wait_ready(self, *node_ids: int) -> None:
        """Until these nodes (all of them) are voters that know one leader."""
        wanted = sorted(node_ids or self.nodes)

        def ready() -> bool:
            return all(self._ready(node_id, wanted) for node_id in wanted)

        try:
            wait_for(ready, f"nodes {wanted} to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _ready(self, node_id: int, wanted: list[int]) -> bool:
        node = self[node_id]
        assert node.running, f"node {node_id} ended: {node.log()[-3000:]}"
        try:
            metrics = node.metrics()
        except (OSError, Closed):
            return False
        voters = metrics["membership_config"]["membership"]["configs"][-1]
        return metrics["current_leader"] is not None and set(wanted) <= set(voters)

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        return "\n".join(f"--- node {node.node_id}\n{node.log()[-2500:]}" for node in self)

    def wire(self, node_id: int) -> Wire:
        """A client connection to one node."""
        return self[node_id].wire()

    def running(self) -> list[int]:
        """The ids of the nodes that have a process."""
        return [node.node_id for node in self if node.running]

    def raft_leader(self) -> int:
        """Who leads Raft, once the running nodes agree."""

        def agreed() -> int | None:
            views = {self[node_id].metrics()["current_leader"] for node_id in self.running()}
            leader = views.pop()
            return leader if not views and leader in self.running() else None

        return wait_for(agreed, "a Raft leader")

    def state(self, topic: str, node_id: int | None = None) -> dict[str, Any]:
        """STATE of a topic."""
        with self.wire(node_id or self.running()[0]) as wire:
            answer = wire.json(b"STATE " + topic.encode())
        assert isinstance(answer, dict)
        return answer

    def segment_leader(self, topic: str, node_id: int | None = None) -> int:
        """Who leads the topic's open segment."""
        leader = self.state(topic, node_id)["leader_node"]
        assert isinstance(leader, int)
        return leader

    def register(self, topic: str, node_id: int | None = None) -> None:
        """REGISTER a topic."""
        with self.wire(node_id or self.running()[0]) as wire:
            reply = wire.ask(b"REGISTER " + topic.encode())
        assert reply == b"OK", reply

    def stop(self) -> list[int]:
        """SIGTERM all; the exit statuses."""
        for node in self:
            node.signal(signal.SIGTERM)
        return [node.wait() for node in self]

    def close(self) -> None:
        """Kill what is left."""
        for node in self:
            node.signal(signal.SIGKILL)
        for node in self:
            if node.process is not None:
                node.wait()
        if self.proxy is not None:
            self.proxy.close()


class Launcher:
    """Starts clusters, each in a directory of its own, and cleans up after all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clusters: list[Cluster] = []

    def __call__(self, **options: Any) -> Cluster:
        return self.prepare(**options).start()

    def prepare(self, **options: Any) -> Cluster:
        """A cluster that is not started yet."""
        cluster = Cluster(self.path / f"cluster{len(self.clusters)}", **options)
        self.clusters.append(cluster)
        return cluster

    def close(self) -> None:
        """Kill what is left."""
        for cluster in self.clusters:
            cluster.close()


PORTS = range(10_000, 20_000)
"""Below those that the kernel gives to connections, which could take the port of a node that is down."""
BLOCK = 10
"""Neighbouring ports that are given to one worker of pytest-xdist."""


def _own_blocks() -> Iterator[int]:
    """The first ports of this worker's blocks: what it draws and binds later, no other worker draws."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = list(PORTS[::BLOCK][worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))])
    first = random.randrange(len(mine))
    return itertools.cycle(mine[first:] + mine[:first])


_next_blocks = _own_blocks()
_next_ports = itertools.chain.from_iterable(range(first, first + BLOCK) for first in _next_blocks)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str) -> int:
    """A port that is free now on `host`, and that was not given for a long time."""
    for port in itertools.islice(_next_ports, len(PORTS)):
        if _is_free(host, port):
            return port
    raise AssertionError(f"no port of {PORTS} is free on {host}")


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that are free on 127.0.0.1."""
    assert count <= BLOCK
    for first in itertools.islice(_next_blocks, len(PORTS) // BLOCK):
        if all(_is_free("127.0.0.1", port) for port in range(first, first + count)):
            return first
    raise AssertionError(f"no {count} neighbours of {PORTS} are free")


def nap(seconds: float) -> None:
    """Between two looks at a condition; tests do not call this, they wait for something."""
    threading.Event().wait(seconds)


async def _after(seconds: float) -> None:
    """What `nap` is to threads: how a link is slow."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


class Link:
    """One direction between two nodes, as the proxy has it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay = 0.0
        """Seconds that each piece of up to 64 KiB takes."""
        self.ended = False
        """Whether the receiver was told that nothing more comes, while the other direction goes on."""


class PartitionProxy:
    """Forwards every peer connection, and holds back the bytes of the ordered pairs that are cut.

    It can also delay them, lose those that are on their way (with their connections), and end one direction
    of a connection.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: dict[tuple[int, int], Link] = {}
        self._forwards: dict[asyncio.Task[None], tuple[int, int]] = {}
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="partition proxy", daemon=True)
        self._thread.start()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def serve(self, node_id: int, port: int) -> None:
        """Forward 127.0.1.N to 127.0.0.N, at the same port."""

        async def listen() -> None:
            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._forward(node_id, port, reader, writer)

            self._servers.append(await asyncio.start_server(accept, f"127.0.1.{node_id}", port))

        self._call(listen())

    def _link(self, source: int, target: int) -> Link:
        return self._links.setdefault((source, target), Link())

    def _soon(self, change: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(change)

    def cut(self, source: int, target: int) -> None:
        """Nothing from `source` reaches `target` any more, until `heal` or `mend`."""
        self._soon(lambda: self._link(source, target).open.clear())

    def mend(self, source: int, target: int) -> None:
        """What `source` sends reaches `target` again, what was held back first."""
        self._soon(lambda: self._link(source, target).open.set())

    def isolate(self, node_id: int, others: Sequence[int]) -> None:
        """Cut both directions between a node and the others."""
        for other in others:
            self.cut(node_id, other)
            self.cut(other, node_id)

    def slow(self, source: int, target: int, delay: float) -> None:
        """What `source` sends to `target` takes so many seconds for every 64 KiB, until `heal`."""
        self._soon(lambda: setattr(self._link(source, target), "delay", delay))

    def hang_up(self, source: int, target: int) -> None:
        """End the connections that `source` made to `target`, and lose what is on its way."""
        self._soon(lambda: self._hang_up((source, target)))

    def _hang_up(self, pair: tuple[int, int]) -> None:
        for task, ends in self._forwards.items():
            if ends == pair:
                task.cancel()

    def half_close(self, source: int, target: int) -> None:
        """Tell `target` that nothing more comes from `source`, which it can still send to, until `heal`."""
        self._soon(lambda: setattr(self._link(source, target), "ended", True))

    def heal(self) -> None:
        """Everything flows again, what was held back first; what is half closed ends."""

        def heal() -> None:
            for pair, link in self._links.items():
                if link.ended:
                    self._hang_up(pair)
                    self._hang_up(pair[::-1])
                link.delay, link.ended = 0.0, False
                link.open.set()

        self._soon(heal)

    async def _forward(
        self, target: int, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        source = int(writer.get_extra_info("peername")[0].rpartition(".")[2])
        task = asyncio.current_task()
        assert task is not None
        self._forwards[task] = source, target
        try:
            await self._link(source, target).open.wait()
            there, back = await asyncio.open_connection(
                f"127.0.0.{target}", port, local_addr=("127.0.0.1", 0)
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._link(source, target), reader, back))
                group.create_task(self._pump(self._link(target, source), there, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._forwards[task]
            writer.close()

    @staticmethod
    async def _pump(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy bytes while the link is open; the end of one direction is the end of the connection."""
        try:
            while data := await reader.read(1 << 16):
                if link.delay:
                    await _after(link.delay)
                await link.open.wait()
                if not link.ended:
                    writer.write(data)
                    await writer.drain()
                elif not writer.is_closing() and writer.can_write_eof():
                    writer.write_eof()
        finally:
            writer.close()
        raise ConnectionResetError

    def close(self) -> None:
        """End all."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in list(self._forwards):
                task.cancel()

        with contextlib.suppress(TimeoutError):
            self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
