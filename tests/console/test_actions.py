"""What a console may do to processes, done to a process that holds a node's lock and is nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import ROOT, wait_for
from walrus.cluster import LocalCluster, running_nodes
from walrus.console.actions import ACTIONS, ActionError, Actions

HOLD = (
    "import pathlib, signal, sys; from walrus.storage.processes import take_lock; "
    "take_lock(pathlib.Path(sys.argv[1])); print('held', flush=True); signal.pause()"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is node 1 below `tmp_path` as far as its lock says."""
    (tmp_path / "node_1").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "node_1" / "lock")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def remember(data_dir: Path, nodes: int = 3) -> None:
    """Leave what `walrus.cluster` leaves."""
    LocalCluster(nodes, data_dir, client_port=1, raft_port=5)._remember()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_node_is_paused_goes_on_and_is_killed(tmp_path: Path, node: subprocess.Popen[str]) -> None:
    actions, stat = Actions(tmp_path), Path(f"/proc/{node.pid}/stat")

    def stopped() -> bool:
        return stat.read_text().rpartition(")")[2].split()[0] == "T"

    assert actions.act("pause", 1) == "SIGSTOP to node 1"
    wait_for(stopped, "the process to stop")
    assert actions.act("resume", 1) == "SIGCONT to node 1"
    wait_for(lambda: not stopped(), "the process to go on")
    assert actions.act("kill", 1) == "SIGKILL to node 1"
    assert node.wait(120) == -signal.SIGKILL
    assert running_nodes(tmp_path) == {}


@pytest.mark.parametrize("action", ["kill", "pause", "resume"])
def test_only_what_holds_a_lock_is_signalled(
    action: str, tmp_path: Path, node: subprocess.Popen[str]
) -> None:
    (tmp_path / "node_2").mkdir()
    (tmp_path / "node_2" / "lock").write_text(f"{node.pid} 1 00\n")
    for stranger in (2, 3):
        with pytest.raises(ActionError, match=f"node {stranger} does not run on this machine"):
            Actions(tmp_path).act(action, stranger)
    assert node.poll() is None


def test_a_node_is_started_as_walrus_cluster_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, ...]] = []
    monkeypatch.setattr(LocalCluster, "start", lambda self, *ids: started.append(ids))
    with pytest.raises(ActionError, match=r"cluster\.json: not as walrus\.cluster writes it"):
        Actions(tmp_path).act("start", 1)
    remember(tmp_path)
    with pytest.raises(ActionError, match="there is no node 4"):
        Actions(tmp_path).act("start", 4)
    assert Actions(tmp_path).act("start", 2) == "node 2 is starting"
    assert started == [(2,)]


def test_a_node_that_runs_is_not_started_twice(tmp_path: Path, node: subprocess.Popen[str]) -> None:
    remember(tmp_path)
    with pytest.raises(ActionError, match="node 1 runs already"):
        Actions(tmp_path).act("start", 1)


def test_a_leave_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walrus.console.actions.LEAVE_PATIENCE", 0.2)
    remember(tmp_path, nodes=1)
    with pytest.raises(ActionError, match="LEAVE 1: "):
        Actions(tmp_path).act("leave", 1)


def test_there_is_no_other_action(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=f"there are {', '.join(ACTIONS)}"):
        Actions(tmp_path).act("format", 1)
