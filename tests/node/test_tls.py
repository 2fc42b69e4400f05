"""A cluster of real processes with TLS on both ports: who is served, who is refused, and by which line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import PATIENCE, ROOT, Cluster, Launcher, wait_for
from walrus import AsyncClient, Client, WalrusError, certs
from walrus.protocol import PeerCodec
from walrus.tls import Files, client_context
from walrus.wire.messages import Join, JoinReply, PeerMessage

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that ask clients for certificates, too; theirs are in `path / "certs"`."""
    path = tmp_path_factory.mktemp("tls")
    assert certs.main(["init", str(path / "certs")]) == 0
    with contextlib.closing(Launcher(path)) as launch:
        cluster = launch.prepare(nodes=3)
        cluster.path.joinpath("certs").symlink_to(path / "certs")
        for node in cluster:
            node.arguments += tls_flags(path / "certs", f"node-{node.node_id}")
            node.start()
        wait_for(lambda: all("connected to node" in node.log() for node in cluster), "all nodes to serve")
        yield cluster


def tls_flags(path: Path, name: str) -> list[str]:
    files = [
        "--tls-ca",
        f"{path}/ca.pem",
        "--tls-cert",
        f"{path}/{name}.pem",
        "--tls-key",
        f"{path}/{name}.key",
    ]
    return [*files, "--tls-client-auth"]


@pytest.fixture
def identity(secured: Cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a client with a certificate; its files are in this directory."""
    path = secured.path / "certs"
    for name, file in (("CA", "ca.pem"), ("CERT", "client.pem"), ("KEY", "client.key")):
        monkeypatch.setenv(f"WALRUS_TLS_{name}", str(path / file))
    return path


def addresses(cluster: Cluster) -> list[str]:
    return [f"127.0.0.1:{cluster.client_ports[node.node_id]}" for node in cluster]


def test_both_clients_and_the_command_line_work(secured, identity):
    everywhere = addresses(secured)
    big = os.urandom(60_000)  # several records of TLS

    async def aside() -> bytes:
        async with AsyncClient(everywhere, timeout=PATIENCE) as client:
            await client.put("secured", big)
            entries = await asyncio.gather(client.get("secured"), client.get("secured"))
            return b"".join(entry for entry in entries if entry is not None)

    with Client(everywhere, timeout=PATIENCE) as client:
        client.register("secured")
        client.put("secured", b"first")
        assert len(asyncio.run(aside())) == len(big) + 5
        client.put("secured", big)
        assert client.get("secured") == big
    command = [sys.executable, "-m", "walrus.cli", "--addr", everywhere[0], "topics"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert shown.returncode == 0 and "secured" in shown.stdout, shown.stderr


def test_a_segment_leader_is_replaced_under_tls(secured, identity):
    with Client(addresses(secured), timeout=PATIENCE) as client:
        client.register("moved")
        client.put("moved", b"before")
        leader = client.state("moved")["leader_node"]
        secured[leader].kill()
        client.put("moved", b"after", retry=True)
        secured[leader].start()
        wait_for(lambda: f"connected to node {leader}" in secured[leader % 3 + 1].log(), "the node to return")
        assert [client.get("moved"), client.get("moved")] == [b"before", b"after"]


@pytest.mark.parametrize("left_out", ["CERT", "CA"])
def test_a_client_without_its_files_is_refused_in_a_line(secured, identity, monkeypatch, left_out):
    for name in ("CERT", "KEY", *([left_out] if left_out == "CA" else [])):
        monkeypatch.delenv(f"WALRUS_TLS_{name}")
    with Client(addresses(secured)[0], timeout=10) as client, pytest.raises(WalrusError) as refused:
        client.topics()
    said = "WALRUS_TLS_CERT" if left_out == "CERT" else "WALRUS_TLS_CA"
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_no_node_starts_with_a_clients_certificate(secured, identity, tmp_path):
    port = secured.client_ports[1]
    command = [sys.executable, "-m", "walrus.node", "--node-id", "9", "--data-dir", str(tmp_path)]
    command += ["--join", "127.0.0.1:6001", "--client-port", str(port), *tls_flags(identity, "client")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert "client.pem: its certificate is not that of a node" in ended.stderr


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("node-2", "its certificate is that of node 2, not of node 3"),
        ("client", "its certificate is not that of a node"),
    ],
)
def test_a_certificate_speaks_for_no_other_node(secured, identity, name, error):
    files = Files(identity / "ca.pem", identity / f"{name}.pem", identity / f"{name}.key")
    context = client_context(files)
    context.check_hostname = False
    codec = PeerCodec[PeerMessage](PeerMessage)
    join = Join(node_id=3, directory_id="d", raft_address="127.0.0.1:6009", client_address="127.0.0.1:6010")
    with (
        socket.create_connection(secured[1].raft, timeout=PATIENCE) as plain,
        context.wrap_socket(plain) as speaking,
    ):
        speaking.sendall(codec.encode(join))
        (reply,) = codec.parser().feed(speaking.recv(65536))
    assert isinstance(reply, JoinReply) and not reply.done
    assert reply.error == error


def test_neither_port_answers_without_tls_or_without_a_certificate(secured, identity):
    context = client_context(Files(identity / "ca.pem"))
    context.check_hostname = False
    for address in (secured[1].client, secured[1].raft):
        assert answer(address, None)[:1] in (b"", TLS_ALERT)
        assert answer(address, context) == b""


def test_a_flood_of_handshakes_that_never_end_keeps_no_client_out_and_is_over_soon(secured, identity):
    with contextlib.ExitStack() as stack:
        flood = []
        for number in range(300):
            address = secured[1].client if number % 3 else secured[1].raft
            flood.append(stack.enter_context(socket.create_connection(address, timeout=PATIENCE)))
            if number % 2:
                flood[-1].sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # half a ClientHello
        with Client(addresses(secured)[0], timeout=PATIENCE) as client:
            client.register("flooded")
            client.put("flooded", b"while they wait")
        for connection in flood:  # each is given up, by its end or by a reset
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 12):
                    pass
    with Client(addresses(secured)[0], timeout=PATIENCE) as client:
        assert client.get("flooded") == b"while they wait"


TLS_ALERT = b"\x15"


def answer(address: tuple[str, int], context: ssl.SSLContext | None) -> bytes:
    """What comes back after METRICS; nothing, if the connection is ended."""
    with socket.create_connection(address, timeout=PATIENCE) as connected:
        try:
            speaking = connected if context is None else context.wrap_socket(connected)
            speaking.sendall(b"\x00\x00\x00\x07METRICS")
            return speaking.recv(1 << 16)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_sighup_reads_the_certificate_again(secured, identity):
    node = secured[3]
    said = node.log().count("read the certificate again")
    node.signal(signal.SIGHUP)
    wait_for(lambda: node.log().count("read the certificate again") > said, "the certificate to be read")
    assert node.running
