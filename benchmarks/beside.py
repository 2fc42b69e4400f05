"""Measures several subjects under the same loads, round by round, and makes the table.

A round starts each subject anew, alone and in an empty directory, puts it under each load for a while, and
stops it; the order rotates from round to round. A ratio is to Walrus with the same promise (nothing is
synced before the answer, or everything) in the same round; the table has the median, the minimum and the
maximum.

The client is one thread that waits on all its connections at once and sends as many requests as were
answered. All that it knows of a server is how requests look and how answers end (`cluster_subjects.Line`).
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich import box
from rich.table import Table

from benchmarks.cluster_subjects import PATIENCE, PeerError, Subject

REFERENCES: Final = {False: "Walrus, --fsync 200", True: "Walrus, --fsync each"}
"""The subject that ratios refer to, by whether the answer waits for a sync."""


class Load(NamedTuple):
    """The number of connections, and the number of requests in flight on each."""

    what: str
    connections: int
    in_flight: int


LOADS: Final = (
    Load("one at a time", 1, 1),
    Load("8 connections", 8, 1),
    Load("100 in flight", 1, 100),
)


def drive(subject: Subject, load: Load, seconds: float) -> tuple[int, float]:
    """Put the subject under a load; return (answers, answers per second). Raises PeerError."""
    done = 0
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(load.connections):
            line = subject.line()
            selector.register(stack.enter_context(line.socket), selectors.EVENT_READ, line)
        begin = now = time.perf_counter()
        for key in list(selector.get_map().values()):
            key.data.ask(load.in_flight)
        while now - begin < seconds:
            ready = selector.select(PATIENCE)
            if not ready:
                raise PeerError(f"{subject.name} does not answer")
            for key, _ in ready:
                if count := key.data.take():
                    done += count
                    key.data.ask(count)
            now = time.perf_counter()
    return done, done / (now - begin)


def one_round(subject: Subject, directory: Path, seconds: float) -> dict[str, float]:
    """Start the subject, put it under all loads, check that it has what it acknowledged, and stop it."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        subject.start(directory)
        answered, _ = drive(subject, LOADS[-1], seconds / 4)  # warm up
        rates = {}
        for load in LOADS:
            count, rates[load.what] = drive(subject, load, seconds)
            answered += count
        stored = subject.stored()
        if stored is not None and stored < answered:
            raise PeerError(f"{subject.name} answered {answered} entries and has {stored}")
        return rates
    finally:
        subject.stop()
        shutil.rmtree(directory, ignore_errors=True)


def measure(
    subjects: Sequence[Subject], directory: Path, rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the rates of all rounds by subject and load; and the missing subjects, with the reason."""
    figures: dict[str, Any] = {"missing": [subject.missing() for subject in subjects if subject.missing()]}
    there = [subject for subject in subjects if not subject.missing()]
    figures["subjects"] = {
        subject.name: {
            "copies": subject.copies,
            "synced": subject.synced,
            "durable": subject.durable,
            "rates": {load.what: [] for load in LOADS},
        }
        for subject in there
    }
    for number in range(rounds):
        turn = number % len(there)
        for subject in [*there[turn:], *there[:turn]]:
            progress(f"{subject.name}, round {number + 1} of {rounds}")
            for load, rate in one_round(subject, directory, seconds).items():
                figures["subjects"][subject.name]["rates"][load].append(rate)
    return figures


def thousands(rates: Sequence[float]) -> str:
    """Format the median, in thousands."""
    rate = statistics.median(rates) / 1000
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def ratio(rates: Sequence[float], references: Sequence[float]) -> str:
    """Format the median of the rounds' ratios, with minimum and maximum."""
    ratios = [rate / reference for rate, reference in zip(rates, references, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def tables(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Yield a table for each promise, and a line for each missing subject."""
    for durable, reference in REFERENCES.items():
        promise = "synced before the answer" if durable else "the answer waits for no sync"
        table = Table(title=f"Entries of 100 bytes, {promise}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("", "copies", "synced"):
            table.add_column(column, no_wrap=True)
        for column in ("k/s", "of Walrus"):
            table.add_column(column, justify="right", no_wrap=True)
        against = figures["subjects"][reference]["rates"]
        for load in LOADS:
            table.add_row(f"[bold]{load.what}")
            for name, found in figures["subjects"].items():
                if found["durable"] is durable:
                    rates = found["rates"][load.what]
                    cells = (thousands(rates), ratio(rates, against[load.what]))
                    table.add_row(f"  {name}", found["copies"], found["synced"], *cells)
        yield table
    yield from figures["missing"]
