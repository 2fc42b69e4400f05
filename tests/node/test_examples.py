"""Every program in examples/ runs, against real nodes, and does what its page says."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.harness import CALM, ROOT, Cluster, Launcher

pytestmark = pytest.mark.process

EXAMPLES = ROOT / "examples"
MAX_LINES = 150


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    launcher = Launcher(tmp_path_factory.mktemp("cluster"))
    yield launcher(flags=[*CALM, "--fsync", "none"], env={"WALRUS_MAX_SEGMENT_ENTRIES": "150"})
    launcher.close()


def start(cluster: Cluster, name: str, *arguments: str, addressed: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    for node in cluster:
        command += ["--addr", "{}:{}".format(*node.client)] if addressed else []
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def run(cluster: Cluster, name: str, *arguments: str) -> str:
    """One example to its end; what it printed."""
    out, err = (process := start(cluster, name, *arguments)).communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    return out


def test_event_streaming(cluster: Cluster) -> None:
    said = run(cluster, "event_streaming", "--count", "300")
    billed, replayed = re.findall(r"([\d,]+) cents", said)
    assert billed == replayed
    assert "search: 300 orders of 7 customers\nbilling reads on: 0 new orders\n" in said


def test_log_aggregation_also_a_second_time(cluster: Cluster, tmp_path: Path) -> None:
    for number, service in enumerate(("db", "mail", "web")):
        (tmp_path / service).mkdir()
        lines = [f"{n} {'ERROR' if n % 50 == number else 'ok'}\n" for n in range(400)]
        (tmp_path / service / "a.log").write_text("".join(lines) + "half a li")
    first = run(cluster, "log_aggregation", str(tmp_path))
    assert "db/a.log: 400 lines" in first
    for service in ("db", "mail", "web"):
        assert f"example.logs.{service}: 8 errors, 3 segments" in first
    assert run(cluster, "log_aggregation", str(tmp_path)) == first, "nothing is written twice"


def test_work_queue(cluster: Cluster) -> None:
    said = run(cluster, "work_queue", "--count", "40").splitlines()
    assert said == ["39 of 40 tasks are done, 0 lost, 1 worker died", "dead letters: ['task 13']"]


def test_time_series(cluster: Cluster) -> None:
    said = run(cluster, "time_series", "--count", "1000").splitlines()
    for line, below in (said[:2], said[2:]):
        assert len(set(line.split()[1]) & set("▁▂▃▄▅▆▇█")) >= 6, "a curve"
        left, first = map(int, re.findall(r"(\d+) of 1000 points, the first segment is (\d+)", below)[0])
        assert 400 <= left <= 600 and first > 1, "old segments are gone"


def test_database_replication_with_kills(cluster: Cluster, tmp_path: Path) -> None:
    primary, replica, rng = str(tmp_path / "primary.db"), str(tmp_path / "replica.db"), random.Random(1)
    programs = (("write", primary, "--count", "80"), ("send", primary), ("apply", replica))
    for _ in range(2):
        processes = [start(cluster, "sqlite_replication", *words) for words in programs]
        for process in processes[1:]:
            try:
                process.wait(rng.uniform(0.3, 1.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
    run(cluster, "sqlite_replication", "send", primary)
    run(cluster, "sqlite_replication", "apply", replica)
    accounts = [
        sqlite3.connect(file).execute("SELECT * FROM accounts ORDER BY name").fetchall()
        for file in (primary, replica)
    ]
    assert accounts[0] == accounts[1] and len(accounts[0]) == 17
    assert sum(cents for _, cents in accounts[0]) == 2 * sum(range(80))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_on_the_page(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert f"(../examples/{path.name})" in (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert f'"{path.stem}"' in Path(__file__).read_text(encoding="utf-8"), "a test runs it"
