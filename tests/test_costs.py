"""What each worker tells of its tests is in the table that is printed at the end."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

from tests.costs import Cost, Measured, table

ONE, OTHER = Cost("a.py::one", "tla", 2.0, 3.0), Cost("b.py::other", "process", 4.0, 30.0)


def worker(*costs: Cost, begun: float) -> Any:
    """A worker that has run these tests."""
    measured, config = Measured(), SimpleNamespace(workeroutput={})
    measured.costs.extend(costs)
    measured.begun = begun
    measured.pytest_sessionfinish(cast("Any", SimpleNamespace(config=config)))
    return config


def test_the_costs_of_all_workers_are_in_the_table() -> None:
    measured = Measured()
    for told in (worker(ONE, begun=10.0), worker(OTHER, begun=20.0)):
        measured.pytest_testnodedown(told)
    lines = list(table(measured.costs, measured.started, dealt=5.0))
    assert lines[2:4] == ["| process | 1 | 4 |", "| tla | 1 | 2 |"]
    assert lines[4:] == [
        "| start, import, collect: each worker | | 30 |",
        "| deal out | | 5 |",
        "| all | 2 | 41 |",
    ]


def test_a_worker_that_died_tells_nothing() -> None:
    measured = Measured()
    measured.pytest_testnodedown(SimpleNamespace())
    assert measured.costs == []


def test_a_test_costs_what_a_child_takes_that_it_waits_for() -> None:
    measured, marks = Measured(), [SimpleNamespace(name="process")]
    item = SimpleNamespace(nodeid="a.py::one", iter_markers=lambda: marks)
    running = measured.pytest_runtest_protocol(cast("Any", item))
    next(running)
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert next(running, None) is None
    (cost,) = measured.costs
    assert (cost.test, cost.kind) == ("a.py::one", "process") and cost.core >= 0.1
