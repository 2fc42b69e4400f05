"""Broken and hostile clients cost bounded memory, never take a node down, and never starve other clients."""

from __future__ import annotations

import contextlib
import fcntl
import random
import resource
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import CALM, PATIENCE, Closed, Cluster, Launcher, NodeProcess, wait_for
from walrus.broker.handshake import VERSION
from walrus.protocol import PeerCodec
from walrus.wire.messages import Hello, PeerMessage

pytestmark = pytest.mark.process

MEMORY = 300 << 20
"""Far above what a node uses, far below what it would use if one of these attacks worked. In bytes."""


def resident(node: NodeProcess) -> int:
    """Memory that a process occupies, in bytes."""
    pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.fixture
def node(launch: Launcher) -> Iterator[NodeProcess]:
    """One node with a topic `t`; whatever happens to it, afterwards it serves and is not bloated."""
    cluster = launch(nodes=1)
    cluster.register("t")
    yield cluster[1]
    serves(cluster)
    if Path("/proc/self/statm").exists():
        assert resident(cluster[1]) < MEMORY


def serves(cluster: Cluster) -> None:
    """The node takes and gives."""
    with cluster.wire(1) as wire:
        assert wire.ask(b"PUT t x") == b"OK"
        assert wire.ask(b"GET t").startswith(b"OK ")


def test_random_bytes_on_both_ports(node: NodeProcess) -> None:
    rng = random.Random(1)
    for address in (node.client, node.raft):
        for _ in range(60):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(address, timeout=PATIENCE) as attacker,
            ):
                attacker.sendall(rng.randbytes(rng.randrange(1, 5000)))
                attacker.shutdown(socket.SHUT_WR)
                while attacker.recv(1 << 16):
                    pass


def test_frames_of_random_bytes_are_each_answered(node: NodeProcess) -> None:
    rng = random.Random(2)
    words = [b"PUT", b"GET t", b"FETCH t", b"STATE", b"LEAVE", b"RECOVER t 1", b"FETCH t -1 0", b"GET t a b"]
    with node.wire() as wire:
        bodies = [
            rng.choice(words) + rng.choice([b"", b" "]) + rng.randbytes(rng.randrange(20)) for _ in range(500)
        ]
        wire.send(*bodies)
        replies = [wire.receive() for _ in bodies]
    assert len(replies) == 500


@pytest.mark.parametrize("claims", ["nowhere", "the node itself", "no node"])
def test_a_caller_that_claims_another_cluster_stops_no_fresh_node(node: NodeProcess, claims: str) -> None:
    """Only a member of that cluster, at the address that the caller gives, is believed."""
    codec = PeerCodec[PeerMessage](PeerMessage)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = {"nowhere": 1, "the node itself": node.raft[1], "no node": silent.getsockname()[1]}[claims]
        hello = Hello(
            version=VERSION,
            cluster_id="another",
            node_id=2,
            directory_id="d2",
            incarnation=1,
            target=1,
            member_at=0,
            raft_address=f"127.0.0.1:{port}",
        )
        for _ in range(20):
            with socket.create_connection(node.raft, timeout=PATIENCE) as caller:
                caller.sendall(codec.encode(hello))
                assert b"another cluster" in caller.recv(1 << 16)
    assert node.process.poll() is None


def test_many_connections_with_half_a_frame_each(node: NodeProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 500)
    attackers = []
    try:
        for number in range(count):
            attacker = socket.create_connection(node.client, timeout=PATIENCE)
            attackers.append(attacker)
            if number % 2:
                attacker.sendall(struct.pack("<I", 60_000) + b"PUT t " + b"x" * 1000)
        with node.wire() as wire:
            for _ in range(20):
                assert wire.ask(b"PUT t x") == b"OK"
        assert resident(node) < MEMORY if Path("/proc/self/statm").exists() else True
    finally:
        for attacker in attackers:
            attacker.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))"


def test_a_crowd_on_either_port_leaves_the_engine_its_descriptors(launch: Launcher) -> None:
    """While the node is busy (stopped, here) a crowd connects, and then a PUT needs a new data file."""
    cluster = launch.prepare(nodes=1, flags=[*CALM, "--fsync", "none", "--max-frame-bytes", "16700000"])
    cluster[1].patch = FEW_FILES
    cluster.start()
    cluster.register("t")
    body = b"PUT t " + bytes(16_600_000)
    frame = struct.pack("<I", len(body)) + body
    with cluster.wire(1) as producer:
        # A client that has sent no whole request yet makes room for newcomers, and its last bytes may be
        # read after a part of the crowd has been accepted.
        assert producer.ask(b"PUT t first") == b"OK"
        for _ in range(9):  # two data files are filled
            producer.send_raw(frame[:-1])
            wait_for(lambda: producer.unsent() == 0, "the node to take what was sent")
            cluster[1].pause()
            crowd = []
            for address in [cluster[1].client] * 1_200 + [cluster[1].raft] * 300:
                one = socket.socket()
                crowd.append(one)
                one.setblocking(False)
                one.connect_ex(address)
            producer.send_raw(frame[-1:])
            cluster[1].resume()
            assert producer.receive() == b"OK"
            for one in crowd:
                one.close()
    assert cluster[1].running
    assert cluster[1].log().count("\n") < 100, "a crowd fills no log"
    serves(cluster)
    assert cluster.stop() == [0]


STUCK_LOG = """
import fcntl, os
reading, writing = os.pipe()
fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
os.dup2(writing, 2)
"""


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes of a chosen size are Linux's")
def test_a_log_that_takes_nothing_stops_no_node_however_much_strangers_give_it_to_say(
    launch: Launcher,
) -> None:
    cluster = launch.prepare(nodes=1)
    cluster[1].patch = STUCK_LOG
    cluster.start()
    cluster.register("t")
    for number in range(200):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(cluster[1].raft, timeout=PATIENCE) as stranger,
        ):
            stranger.sendall(b"GET /%d HTTP/1.1\r\n\r\n" % number)
            stranger.recv(10)
    serves(cluster)
    assert cluster.stop() == [0], "not even the end of the process waits for the log"


def test_a_client_that_reads_no_replies(node: NodeProcess) -> None:
    big = b"PUT t " + b"x" * 60_000
    with node.wire() as wire:
        wire.send(*[big] * 200)
        assert {wire.receive() for _ in range(200)} == {b"OK"}
    slow = [node.wire() for _ in range(5)]
    for number, wire in enumerate(slow):
        fetches = [b"FETCH t 1 %d" % offset for offset in range(200)] * 20
        data = b"".join(struct.pack("<I", len(body)) + body for body in fetches)
        wire._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            wire._socket.send(data)
        assert number < 5
    with node.wire() as wire:
        for _ in range(50):
            assert wire.ask(b"PUT t x") == b"OK"
    for wire in slow:
        wire.close()


def test_one_client_at_full_speed_does_not_starve_another(node: NodeProcess) -> None:
    greedy = node.wire()
    greedy._socket.setblocking(False)
    frame = struct.pack("<I", 5) + b"BOGUS"
    with node.wire() as wire:
        for _ in range(30):
            with contextlib.suppress(BlockingIOError):
                greedy._socket.send(frame * 100_000)
            assert wire.ask(b"PUT t x") == b"OK"
    greedy.close()


def test_a_client_that_vanishes_in_the_middle(node: NodeProcess) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError, Closed), node.wire() as wire:
            wire.send(*[b"PUT t x"] * 50)
            wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_full_disk_is_an_error_and_writing_resumes_when_there_is_room(launch: Launcher) -> None:  # (21)
    place = launch.path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        cluster = launch.prepare(nodes=0)
        cluster.add(1, data_dir=place)
        cluster.start()
        cluster.register("t")
        entry = b"PUT t " + b"x" * 60_000
        with cluster.wire(1) as wire:
            assert wire.ask(entry) == b"OK"
            with (place / "filler").open("wb") as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(b"0" * 65_536)
                    filler.flush()
            taken = 1
            while (reply := wire.ask(entry)) == b"OK":
                taken += 1
                assert taken < 5_000
            assert reply.startswith(b"ERR ") and cluster[1].running, reply
            wire.send(*[b"FETCH t 1 %d" % offset for offset in range(taken)])
            assert {len(wire.receive()) > 60_000 for _ in range(taken)} == {True}
            (place / "filler").unlink()
            wait_for(lambda: wire.ask(entry) == b"OK", "writing to resume")
        assert cluster.stop() == [0]
    finally:
        launch.close()
        subprocess.run(["umount", "-l", str(place)], check=False)
