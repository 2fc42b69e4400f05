"""A forked node is a process of its own: what it is told by its parent is how it ended, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.node.harness import Launcher, nursery, wait_for
from tests.node.nursery import Born

pytestmark = pytest.mark.process


def test_it_ends_with_the_status_of_a_process(launch: Launcher) -> None:
    before = nursery().seconds
    cluster = launch.prepare(nodes=1)
    assert cluster[1].start("--nonsense").wait() == 2
    assert "walrus-node: " in cluster[1].log() and "--nonsense" in cluster[1].log()
    cluster.start()
    assert isinstance(cluster[1].process, Born), "it was forked"
    with pytest.raises(subprocess.TimeoutExpired):
        cluster[1].process.wait(0)
    assert cluster[1].terminate() == 0
    cluster[1].start().signal(signal.SIGKILL)
    assert cluster[1].wait() == -signal.SIGKILL
    cluster[1].process.send_signal(signal.SIGKILL)  # it is gone already
    assert nursery().seconds > before


def test_it_has_its_own_start_numbers_ids_and_environment(launch: Launcher) -> None:
    begun = time.time()
    one, other = launch(nodes=1, env={"WALRUS_LOG": "warning"}), launch(nodes=1)
    told = [cluster[1].metrics() for cluster in (one, other)]
    assert {found["pid"] for found in told} == {one[1].pid, other[1].pid}
    assert all(found["started_at"] > begun for found in told)
    assert told[0]["cluster_id"] != told[1]["cluster_id"]
    assert " INFO " in other[1].log() and " INFO " not in one[1].log()


def test_a_node_with_other_code_is_started_anew(launch: Launcher) -> None:
    cluster = launch.prepare(nodes=1, env={"PYTHONOPTIMIZE": "1"})
    assert isinstance(cluster[1].start().process, subprocess.Popen)
    cluster[1].kill()
    cluster = launch.prepare(nodes=1)
    cluster[1].patch = "print('patched', flush=True)"
    assert isinstance(cluster[1].start().process, subprocess.Popen)
    wait_for(lambda: "patched" in cluster[1].log(), "its patch to run")
