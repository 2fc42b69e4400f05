"""A real node whose clients need tokens: who is served, who is refused, and what a stranger can cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import PATIENCE, ROOT, Cluster, Launcher, wait_for
from walrus import AsyncClient, Client, Forbidden, Unauthenticated, auth
from walrus.credentials import drawn
from walrus.protocol import encode_request

pytestmark = pytest.mark.process


class Guarded:
    """Two nodes with a secret, and tokens for clients."""

    def __init__(self, cluster: Cluster, file: Path) -> None:
        self.cluster, self.file = cluster, file
        self.tokens = {
            "boss": auth.add(file, "boss", ["read", "write", "admin"], []),
            "billing": auth.add(file, "billing", ["read", "write"], ["orders.*"]),
            "reader": auth.add(file, "reader", ["read"], []),
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.cluster.client_ports[1]}"

    def client(self, name: str) -> Client:
        return Client(self.address, timeout=PATIENCE, token=self.tokens[name])

    def reread(self) -> None:
        """Have both nodes read the file again, and wait until they have."""
        said = "read the identities of clients again"
        before = [node.log().count(said) for node in self.cluster]
        for node in self.cluster:
            node.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: all(node.log().count(said) > n for node, n in zip(self.cluster, before, strict=True)),
            "the nodes to read the file",
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    path = tmp_path_factory.mktemp("auth")
    auth.secret(path / "secret")
    with contextlib.closing(Launcher(path)) as launch:
        cluster = launch.prepare(nodes=2)
        found = Guarded(cluster, path / "clients")
        for node in cluster:
            node.arguments += ["--auth-file", str(found.file), "--cluster-secret-file", str(path / "secret")]
            node.forked = False  # what `ps` shows is looked at
            node.start()
        wait_for(lambda: all("connected to node" in node.log() for node in cluster), "both nodes to serve")
        with found.client("boss") as boss:
            for topic in ("orders.eu", "salaries"):
                boss.register(topic)
        yield found


def test_roles_and_topics_count(guarded: Guarded) -> None:
    with guarded.client("billing") as billing, guarded.client("reader") as reader:
        billing.put("orders.eu", b"one")
        assert reader.get("orders.eu") == b"one"
        for refused in (
            lambda: billing.put("salaries", b"x"),
            lambda: billing.get("salaries"),
            lambda: billing.register("orders.us"),
            lambda: billing.leave(2),
            lambda: reader.put("orders.eu", b"x"),
            lambda: reader.delete("orders.eu"),
        ):
            with pytest.raises(Forbidden) as said:
                refused()
            assert "\n" not in str(said.value)
        assert reader.get("salaries") is None, "nothing was written"


def test_both_clients_and_the_command_line_take_the_token(guarded: Guarded, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("WALRUS_TOKEN", raising=False)

    async def aside() -> None:
        async with AsyncClient(guarded.address, timeout=PATIENCE, token=guarded.tokens["boss"]) as client:
            assert await client.topics() == ["orders.eu", "salaries"]
        async with AsyncClient(guarded.address, timeout=PATIENCE, token=drawn()) as client:
            with pytest.raises(Unauthenticated):
                await asyncio.gather(client.topics(), client.topics())

    asyncio.run(aside())
    command = [sys.executable, "-m", "walrus.cli", "--addr", guarded.address, "topics"]
    token = tmp_path / "token"
    token.write_text(guarded.tokens["boss"])
    token.chmod(0o600)
    named = subprocess.run([*command, "--token-file", str(token)], cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE, check=False)  # fmt: skip
    assert named.returncode == 0 and "salaries" in named.stdout, named.stderr
    absent = subprocess.run([*command, "--token-file", "absent"], cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE, check=False)  # fmt: skip
    assert absent.returncode == 2 and "absent: No such file" in absent.stderr
    for environ, status in (({"WALRUS_TOKEN_FILE": str(token)}, 0), ({}, 1)):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
            check=False, env={**os.environ, **environ})  # fmt: skip
        assert ended.returncode == status, ended.stderr
        assert ("salaries" in ended.stdout) if not status else ("WALRUS_TOKEN_FILE" in ended.stderr)


def test_a_client_without_a_good_token_learns_so_and_writes_nothing(guarded: Guarded) -> None:
    with guarded.client("boss") as boss:
        before = list(boss.entries("orders.eu"))
    with Client(guarded.address, timeout=PATIENCE, token="") as client, pytest.raises(Unauthenticated):
        client.put("orders.eu", b"x")
    with Client(guarded.address, timeout=PATIENCE, token=drawn()) as client:
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="no identity has this token"):
                client.put("orders.eu", b"x")
    with guarded.client("boss") as boss:
        assert list(boss.entries("orders.eu")) == before


def talk(guarded: Guarded, data: bytes, patience: float = PATIENCE) -> bytes:
    """Send bytes as they are, and read until the node closes; what was said until then."""
    port, said = guarded.cluster.client_ports[1], b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while piece := raw.recv(1 << 16):
                said += piece
    return said


SHAPES = [b"wrong" * 10, b"k" * 60_000, b"k" * (1 << 20), b"two words", b"\xff" * 40]


@pytest.mark.parametrize("token", SHAPES, ids=["wrong", "long", "a megabyte", "two words", "no text"])
def test_no_token_of_any_shape_does_more_than_a_wrong_one(guarded: Guarded, token: bytes) -> None:
    """What was pipelined behind it is refused, and a good token behind it is not looked at."""
    good = encode_request(b"AUTH " + guarded.tokens["boss"].encode())
    put = encode_request(b"PUT orders.eu smuggled")
    wrong = encode_request(b"AUTH " + token)
    if token in SHAPES[:2]:
        said = talk(guarded, wrong + good + put)
        assert said.count(b"ERR unauthenticated") == 3 and b"\x00OK" not in said
    else:  # no AUTH at all: the connection stays a stranger's
        said = talk(guarded, wrong + put)
        assert said.count(b"ERR") == 2 and b"\x00OK" not in said


def test_half_an_auth_and_silence_keeps_no_client_out(guarded: Guarded) -> None:
    """Of connections without an identity the oldest makes room; how long one may take is tested elsewhere."""
    half = encode_request(b"AUTH " + guarded.tokens["boss"].encode())[:-5]
    with contextlib.ExitStack() as stack:
        raws = []
        for _ in range(300):
            port = guarded.cluster.client_ports[1]
            raws.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)))
            raws[-1].sendall(half)
        with guarded.client("boss") as boss:
            assert boss.topics() == ["orders.eu", "salaries"]
        with contextlib.suppress(ConnectionResetError):
            assert raws[0].recv(1) == b"", "the oldest was dropped"


def test_a_token_that_is_taken_back_ends_its_connections(guarded: Guarded) -> None:
    token = auth.add(guarded.file, "guest", ["read"], [])
    guarded.reread()
    with Client(guarded.address, timeout=PATIENCE, token=token) as guest:
        assert guest.topics() == ["orders.eu", "salaries"]
        auth.remove(guarded.file, "guest")
        guarded.reread()
        with pytest.raises(Unauthenticated):
            guest.topics()
    guarded.file.write_text(guarded.file.read_text() + "half a line\n")
    said = "the identities of clients stay as they were"
    guarded.cluster[1].process.send_signal(signal.SIGHUP)
    wait_for(lambda: said in guarded.cluster[1].log(), "the node to say that the file is wrong")
    with guarded.client("boss") as boss:
        assert boss.topics() == ["orders.eu", "salaries"]
    guarded.file.write_text(guarded.file.read_text().replace("half a line\n", ""))


def test_no_token_and_no_secret_is_in_a_log_or_in_ps(guarded: Guarded) -> None:
    secret = (guarded.file.parent / "secret").read_text().strip()
    for node in guarded.cluster:
        commands = Path(f"/proc/{node.process.pid}/cmdline").read_bytes().decode()
        for hidden in (*guarded.tokens.values(), secret):
            assert hidden not in node.log() and hidden not in commands


def test_a_node_with_another_secret_is_not_taken_in(guarded: Guarded, tmp_path: Path) -> None:
    auth.secret(tmp_path / "other")
    command = [sys.executable, "-m", "walrus.node", "--node-id", "9", "--data-dir", str(tmp_path / "data")]
    command += ["--join", f"127.0.0.1:{guarded.cluster.raft_ports[1]}", "--join-timeout", "8"]
    command += ["--raft-port", "1", "--client-port", "2", "--cluster-secret-file", str(tmp_path / "other")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1 and "does not know the cluster's secret" in ended.stderr
