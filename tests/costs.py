"""What the tests cost, in seconds of a core: a plugin that prints the table of docs/tests.md.

    pytest -p tests.costs -n 4 --dist worksteal -q

A test costs what its process takes from the start of its setup to the end of its teardown, and what the
processes took that it waited for in that time: nodes, TLC, a browser. Seconds on the clock would not do:
most tests of processes wait, and other work on the machine makes each of them longer. What a module's
fixture takes counts for the first of its tests and for the last.

A worker of pytest-xdist tells its costs when it ends, the process that deals the tests out adds them up.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pytest

from tests.node.harness import nursery

KINDS = ("process", "slow", "tla")
"""Marks; a test that has two of them is of the kind that is named first."""
OTHER, STARTED, DEALT = "all others", "start, import, collect", "deal out"
DEAREST = 40
"""Files and tests that are listed."""


class Cost(NamedTuple):
    """What one test took."""

    test: str
    kind: str
    core: float
    """Seconds of a core."""
    clock: float

    @property
    def file(self) -> str:
        """Where the test is."""
        return self.test.partition("::")[0]


def kind(marks: Collection[str]) -> str:
    """Return the row that a test with these marks belongs to.

    >>> kind(["timeout", "tla", "slow"]), kind(["timeout"])
    ('slow', 'all others')
    """
    return next((each for each in KINDS if each in marks), OTHER)


def sums(costs: Sequence[Cost], by: str) -> list[tuple[str, int, float, float]]:
    """Return (name, tests, seconds of a core, seconds) by an attribute of the tests, the dearest first.

    >>> costs = [Cost("a.py::x", "slow", 1, 2), Cost("b.py::y", "slow", 4, 4), Cost("a.py::z", "tla", 2, 3)]
    >>> sums(costs, "file")
    [('b.py', 1, 4, 4), ('a.py', 2, 3, 5)]
    """
    of = defaultdict(list)
    for cost in costs:
        of[attrgetter(by)(cost)].append(cost)
    rows = [
        (name, len(all_), sum(c.core for c in all_), sum(c.clock for c in all_)) for name, all_ in of.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


def table(costs: Sequence[Cost], started: float, dealt: float) -> Iterator[str]:
    """Yield the lines of the table of docs/tests.md."""
    yield "| kind | tests | seconds of a core |"
    yield "|---|---:|---:|"
    for name, tests, core, _ in sums(costs, "kind"):
        yield f"| {name} | {tests:,} | {core:,.0f} |"
    yield f"| {STARTED}: each worker | | {started:,.0f} |"
    yield f"| {DEALT} | | {dealt:,.0f} |"
    yield f"| all | {len(costs):,} | {sum(cost.core for cost in costs) + started + dealt:,.0f} |"


def dearest(costs: Sequence[Cost]) -> Iterator[str]:
    """Yield the files and the tests that cost most."""
    yield "seconds of a core, seconds, tests, file"
    for name, tests, core, clock in sums(costs, "file")[:DEAREST]:
        yield f"{core:8.1f}{clock:8.1f}{tests:6} {name}"
    yield "seconds of a core, seconds, test"
    for cost in sorted(costs, key=lambda cost: -cost.core)[:DEAREST]:
        yield f"{cost.core:8.1f}{cost.clock:8.1f} {cost.test}"


def used() -> float:
    """Return the seconds of a core that this process took, and those that it has waited for."""
    born = nursery().seconds if nursery.cache_info().currsize else 0.0
    return sum(os.times()[:4]) + born


class Measured:
    """The costs of one process, and those that its workers tell it."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []
        self.started = 0.0
        """By the workers, until they had their tests."""
        self.begun = 0.0

    def pytest_collection_finish(self) -> None:
        """All is imported."""
        self.begun = used()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run a test with its setup and its teardown."""
        core, clock = used(), os.times().elapsed
        result = yield
        marks = [mark.name for mark in item.iter_markers()]
        self.costs.append(Cost(item.nodeid, kind(marks), used() - core, os.times().elapsed - clock))
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker tells its costs."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["costs"] = [self.begun, [tuple(cost) for cost in self.costs]]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended."""
        begun, costs = getattr(node, "workeroutput", {}).get("costs", (0.0, []))
        self.started += begun
        self.costs += [Cost(*cost) for cost in costs]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the costs."""
        own = sum(os.times()[:2])
        dealt, started = (own, self.started) if self.started else (0.0, self.begun)
        for line in [*table(self.costs, started, dealt), "", *dearest(self.costs)]:
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to measure."""
    config.pluginmanager.register(Measured(), "costs")
