"""The commands that a newcomer types first, as processes; and the README's examples, as they stand there."""

from __future__ import annotations

import configparser
import importlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from tests.node.harness import PATIENCE, ROOT, Cluster, Wire, free_ports, wait_for
from walrus.cli.command_line import Console
from walrus.cli.status import Rates, render
from walrus.cluster import ClusterError, LocalCluster, running_nodes, take_down
from walrus.storage.processes import Holder, take_lock

pytestmark = pytest.mark.process

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRON, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_demo_loses_a_node_and_no_line(tmp_path: Path) -> None:
    ended = run("walrus.demo", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "kill -9 of node" in ended.stdout
    rows = dict(re.findall(r"│ ([\w ,]+?) +│ +([\d,]+)", ended.stdout))
    assert rows["lost"] == rows["duplicated"] == "0", "NoDuplicateAppend"
    assert rows["lines"] == rows["acknowledged"] == rows["read back"] == "4,000"
    assert int(rows["sent again, outcome unknown"]) > 0, "what was on its way when the leader died"


def test_the_demo_of_the_queue_loses_workers_and_nodes_and_no_task(tmp_path: Path) -> None:
    ended = run("walrus.demo", "queue", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("kill -9 of worker") == 3 and ended.stdout.count("kill -9 of node") == 2
    assert re.search(r"600 of 600 tasks are done, \d+ of them more than once, 0 lost", ended.stdout), (
        "NothingSkipped: a task was lost"
    )


def test_the_demo_takes_a_file_of_some_length_and_says_so_in_one_line(tmp_path: Path) -> None:
    ended = run("walrus.demo", str(tmp_path / "nothing.log"), cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "nothing.log" in ended.stderr
    (tmp_path / "short.log").write_text("one\ntwo\n")
    ended = run("walrus.demo", str(tmp_path / "short.log"), cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "it takes 1,000" in ended.stderr


def test_a_cluster_in_the_background_serves_until_it_is_taken_down(tmp_path: Path) -> None:
    base = free_ports(6)
    ports = ["--client-port", str(base), "--raft-port", str(base + 3), "--data-dir", str(tmp_path / "data")]
    started = run("walrus.cluster", "--nodes", "3", "--detach", *ports, cwd=tmp_path)
    try:
        assert started.returncode == 0, started.stderr
        with Wire(("127.0.0.1", base)) as wire:
            assert wire.ask(b"REGISTER t") == b"OK"
            assert wire.ask(b"PUT t x") == b"OK"
        again = run("walrus.cluster", "--nodes", "3", "--detach", *ports, cwd=tmp_path)
        assert again.returncode == 1, "it runs already"
        assert "runs already" in again.stderr
        other = run("walrus.cluster", "--detach", *ports[:4], "--data-dir", "other", cwd=tmp_path)
        assert (other.returncode, other.stderr.count("\n")) == (1, 1)
        assert f"port {base} is in use" in other.stderr, (
            "the cluster that is there is not taken for the new one"
        )
        with Wire(("127.0.0.1", base)) as wire:
            assert wire.ask(b"GET t") == b"OK x", "and the second attempt has not hurt it"
    finally:
        down = run("walrus.cluster", "--down", "--data-dir", str(tmp_path / "data"), cwd=tmp_path)
    assert "stopped nodes 1, 2, 3" in down.stderr
    assert running_nodes(tmp_path / "data") == {}
    assert take_down(tmp_path / "data") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_in_the_foreground_shows_a_table_and_stops_cleanly(tmp_path: Path, number: int) -> None:
    base = free_ports(6)
    ports = ["--client-port", str(base), "--raft-port", str(base + 3), "--data-dir", str(tmp_path / "data")]
    command = [sys.executable, "-m", "walrus.cluster", "--nodes", "3", *ports, "--fsync", "none"]
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command, env={**ENVIRON, "FORCE_COLOR": "1"}, stdout=file, stderr=file)
    try:
        wait_for(lambda: "commit" in output.read_text(errors="replace"), "the table")
        wait_for(lambda: "Leader" in output.read_text(errors="replace"), "a leader in it")
    finally:
        process.send_signal(number)
    assert process.wait(PATIENCE) == 0, output.read_text(errors="replace")
    assert "fsync none" in (tmp_path / "data" / "node_2.log").read_text()
    assert running_nodes(tmp_path / "data") == {}


def test_a_cluster_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    for arguments, status, says in (
        (["--nodes", "0"], 2, "--nodes"),
        (["--fsync", "never"], 2, "--fsync"),
        (["--nonsense"], 2, "--nonsense"),
        (["--client-port", "65535"], 2, "--client-port"),
        (["--client-port", "6003", "--raft-port", "6001"], 2, "--client-port"),
        (["--node-id", "7"], 2, "--node-id"),
        (["--bootstrap"], 2, "--bootstrap"),
        (["--data-dir", ""], 2, "--data-dir"),
        (["--data-dir", "/dev/null/data"], 1, "/dev/null"),
    ):
        ended = run("walrus.cluster", "--detach", *arguments, cwd=tmp_path)
        assert (ended.returncode, ended.stderr.count("\n")) == (status, 1), ended.stderr
        assert says in ended.stderr


def test_ctrl_c_before_a_cluster_is_ready_leaves_nothing_behind(tmp_path: Path) -> None:
    base = free_ports(6)
    ports = ["--client-port", str(base), "--raft-port", str(base + 3), "--data-dir", str(tmp_path)]
    for how, status in (([], 0), (["--detach"], 130)):
        command = [sys.executable, "-m", "walrus.cluster", *ports, *how]
        process = subprocess.Popen(command, env=ENVIRON, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: running_nodes(tmp_path), "a first node")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            left = take_down(tmp_path)
        assert process.returncode == status
        assert b"Traceback" not in errors
        assert left == []


def test_taking_down_passes_over_what_is_no_node(tmp_path: Path) -> None:
    (tmp_path / "node_x").mkdir()
    (tmp_path / "node_x" / "lock").touch()
    assert take_down(tmp_path) == []


def test_a_node_that_died_is_started_again_by_the_same_command_and_another_restarted(tmp_path: Path) -> None:
    base = free_ports(6)
    (tmp_path / "walrus.toml").write_text(
        f"[cluster]\nclient-port = {base}\nraft-port = {base + 3}\ndata-dir = 'data'\n"
        "[node]\nfsync = 300\nmax-frame-bytes = 100\n"
    )
    command = ["walrus.cluster", "--detach", "--config", "walrus.toml"]
    try:
        assert run(*command, cwd=tmp_path).returncode == 0
        before = running_nodes(tmp_path / "data")
        os.kill(before[2].pid, signal.SIGKILL)
        wait_for(lambda: 2 not in running_nodes(tmp_path / "data"), "its end")
        again = run(*command, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "starting node 2; running already: nodes 1, 3" in again.stderr
        after = running_nodes(tmp_path / "data")
        assert after.keys() == {1, 2, 3} and (after[1], after[3]) == (before[1], before[3])
        restarted = run("walrus.cluster", "--restart", "2", "--data-dir", "data", cwd=tmp_path)
        assert restarted.returncode == 0 and "node 2 is back" in restarted.stderr
        last = running_nodes(tmp_path / "data")
        assert (last[1], last[3]) == (before[1], before[3]) and last[2] != after[2]
        with Wire(("127.0.0.1", base + 1)) as wire:
            assert wire.ask(b"PUT t " + b"x" * 100).startswith(b"ERR"), "it reads the file as all others do"
            assert wire.ask(b"REGISTER t") == b"OK", "and goes on"
    finally:
        take_down(tmp_path / "data")


def test_a_process_that_only_has_the_pid_of_a_node_is_never_signalled(tmp_path: Path) -> None:
    """Another container's lock, seen through a shared volume: the same number is a stranger here."""
    (tmp_path / "node_1").mkdir()
    lock = take_lock(tmp_path / "node_1" / "lock")
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        name = Holder.parsed(os.pread(lock, 200, 0))
        for start, boot in ((name.start, name.boot), ("1", name.boot), (name.start, "00"), ("", "")):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{stranger.pid} {start} {boot}\n".encode(), 0)
            with pytest.raises(ClusterError, match="that can be named"):
                take_down(tmp_path, patience=0.0)
            down = run("walrus.cluster", "--down", "--data-dir", str(tmp_path), cwd=tmp_path)
            assert (down.returncode, down.stderr.count("\n")) == (1, 1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        os.close(lock)


def test_every_console_script_leads_to_a_function() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = dict(
        line.split(" = ") for line in config["options.entry_points"]["console_scripts"].split("\n") if line
    )
    assert set(scripts) == {"walrus-node", "walrus-cluster", "walrus-cli", "walrus-console"}
    for place in scripts.values():
        module, function = place.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_live_table_fits_a_terminal_of_80_columns() -> None:
    file = io.StringIO()
    row = ["12", "no answer", "1,234", "123,456", "1,234", "100% 1.2T", "12,345,678", "123,456"]
    Console(file=file, width=80).print(render([row] * 3, Text("Walrus")))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) < 80
    assert len(lines) == 1 + 3 + 3 + 1, "no heading or row is broken into two lines"


def test_rates_are_differences_over_time() -> None:
    rates = Rates()
    assert rates.rate(1, 100, 0.0) == 0.0
    assert rates.rate(1, 300, 2.0) == 100.0
    assert rates.rate(1, 5, 3.0) == 0.0, "the node was restarted"


def test_the_readmes_python_example_runs_as_it_stands(cluster: Cluster) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    program = code[1]
    for node in cluster:
        program = program.replace(f"127.0.0.1:{9090 + node.node_id}", "{}:{}".format(*node.client))
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, env=ENVIRON, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "b'one espresso'",
        "[b'one espresso', b'two', b'three', b'four']",
        "b'one espresso'",
    ]


def test_the_readmes_engine_example_runs_as_it_stands(tmp_path: Path) -> None:
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr
    first, every = ended.stdout.splitlines()
    assert first == "Entry(index=0, data=b'one espresso')"
    assert every == "[b'one espresso', b'two', b'three']"
    assert run("walrus.wal", "verify", "wal_files", cwd=tmp_path).returncode == 0


ENDLESS = ("tail", "consume")
"""Subcommands that only Ctrl-C ends; their output shows the first entry before that."""


def test_the_readmes_shell_examples_run_as_they_stand(cluster: Cluster, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (.*\bpython -m walrus\.cli .*)$", text, re.MULTILINE)
    assert len(lines) == 7
    command = "exec {} -m walrus.cli --addr {}:{}".format(sys.executable, *cluster[2].client)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in lines:
        output, subcommand = tmp_path / "output", line.partition("walrus.cli ")[2].split()[0]
        shell = ["bash", "-c", line.replace("python -m walrus.cli", command)]
        with output.open("wb") as file:
            process = subprocess.Popen(shell, cwd=tmp_path, env=environment, stdout=file, stderr=file)
        if subcommand in ENDLESS:
            wait_for(lambda path=output: "espresso" in path.read_text(), line)
            process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == (130 if subcommand in ENDLESS else 0), (line, output.read_text())
        if subcommand == "get":
            assert output.read_text().strip() == "one espresso"


def test_one_node_by_hand_founds_a_cluster_and_the_next_one_joins(tmp_path: Path) -> None:
    base = free_ports(4)
    cluster = LocalCluster(2, tmp_path, client_port=base, raft_port=base + 2)
    cluster.start(1)
    try:
        wait_for(lambda: (cluster.metrics(1) or {}).get("ready"), "a cluster of one")
        cluster.start(2)
        cluster.wait_ready()
    finally:
        statuses = cluster.stop()
    assert statuses == {1: 0, 2: 0}
