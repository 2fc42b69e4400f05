"""How three threads hand the interpreter to each other while they append: a table and a picture.

    python -m benchmarks.handover [--svg docs/figures/handover.svg]

Each thread repeats one step as fast as it can and notes the time before each: a `pwrite` of 100 bytes to a
file of its own, a store of 100 bytes into a mapping of its own, or an append of 100 bytes to a topic of its
own of one engine. First one thread does so by itself; a step that takes four times as long as it usually took
there has waited, nearly always for the interpreter.

The picture has a lane for each thread, filled where it works, and of each kind the piece with the most
turns. A system call lets the interpreter go, so the next thread takes it over within microseconds, and the
first waits for the others again; without one a thread keeps it for the 5 ms of `sys.getswitchinterval`.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

from rich.console import Console
from rich.table import Table

from walrus import FsyncSchedule, Walrus

THREADS, BYTES = 3, 100
WAITED = 4
"""A step that takes so many times as long as it usually takes a thread by itself has waited."""
WIDTH, LANE, GAP, LEFT, TOP = 720, 16, 60, 70, 46
INK, SOFT, GRID, WORK = "#1d2327", "#667079", "#dfe3e6", "#2f6fdb"

Step: TypeAlias = Callable[[], object]
Span: TypeAlias = tuple[int, int]


class Lane(NamedTuple):
    """What one thread did: when it worked without waiting, in ns, and how many steps it made."""

    turns: list[Span]
    steps: int


def usual(times: Sequence[int]) -> float:
    """Return how long a step usually takes, given the time before each."""
    return statistics.median(later - time for time, later in pairwise(times))


def turns(times: Sequence[int], alone: float) -> list[Span]:
    """Return from when to when a thread worked, given the time before each step, and what one takes alone.

    >>> turns([0, 1, 2, 3, 40, 41, 42], alone=1)
    [(0, 3), (40, 42)]
    """
    long = WAITED * alone
    found: list[Span] = []
    begin = times[0]
    for before, after in pairwise(times):
        if after - before > long:
            found.append((begin, before))
            begin = after
    return [*found, (begin, times[-1])]


def repeated(steps: Sequence[Step], count: int) -> list[list[int]]:
    """Have a thread repeat each of these steps so often, all at once. Return when each began, in ns."""
    lanes: list[list[int]] = [[] for _ in steps]
    ready = threading.Barrier(len(steps))

    def work(step: Step, times: list[int]) -> None:
        note, now = times.append, time.perf_counter_ns
        ready.wait()
        for _ in range(count):
            note(now())
            step()

    threads = [
        threading.Thread(target=work, args=(step, times)) for step, times in zip(steps, lanes, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lanes


def record(steps: Sequence[Step], count: int) -> list[Lane]:
    """Return what threads do that repeat each of these steps at once."""
    (first,) = repeated(steps[:1], count)
    alone = usual(first)
    return [Lane(turns(times, alone), len(times)) for times in repeated(steps, count)]


@contextmanager
def pwrites(root: Path) -> Iterator[list[Step]]:
    """A `pwrite` to a file of its own for each thread."""
    data = bytes(BYTES)
    files = [os.open(root / f"file{number}", os.O_RDWR | os.O_CREAT) for number in range(THREADS)]
    try:
        yield [lambda file=file: os.pwrite(file, data, 0) for file in files]  # type: ignore[misc]
    finally:
        for file in files:
            os.close(file)


@contextmanager
def stores(root: Path) -> Iterator[list[Step]]:
    """A store into a mapping of its own for each thread."""
    data = bytes(BYTES)
    maps = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(THREADS)]
    try:
        yield [lambda memory=memory: memory.__setitem__(slice(BYTES), data) for memory in maps]  # type: ignore[misc]
    finally:
        for memory in maps:
            memory.close()


@contextmanager
def appends(root: Path) -> Iterator[list[Step]]:
    """An append to a topic of its own for each thread, all of one engine."""
    data = bytes(BYTES)
    with Walrus(root / "wal", fsync=FsyncSchedule.no_fsync(), backend="pwritev") as wal:
        yield [lambda topic=f"topic-{number}": wal.append(topic, data) for number in range(THREADS)]  # type: ignore[misc]


class Kind(NamedTuple):
    """A step that is repeated: how often, and how many ns of that the picture has."""

    made: Callable[[Path], AbstractContextManager[list[Step]]]
    times: int
    shown: int


KINDS = {
    "pwrite": Kind(pwrites, 30_000, 1_500_000),
    "a store into a mapping": Kind(stores, 300_000, 30_000_000),
    "append of the engine (pwritev)": Kind(appends, 30_000, 30_000_000),
}


def window(lanes: Sequence[Lane], most: int) -> Span:
    """Return the piece of at most so many ns in which the most turns begin, while all threads run."""
    begin = max(lane.turns[0][0] for lane in lanes)
    end = min(lane.turns[-1][1] for lane in lanes)
    starts = sorted(start for lane in lanes for start, _ in lane.turns if begin <= start < end)
    long = min(most, end - begin)
    first = max(
        (start for start in starts if start + long <= end),
        key=lambda start: bisect_left(starts, start + long) - bisect_left(starts, start),
        default=begin,
    )
    return first, first + long


def _text(x: float, y: float, text: str, anchor: str = "start", ink: str = SOFT) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" text-anchor="{anchor}">{escape(text)}</text>'


def panel(name: str, lanes: Sequence[Lane]) -> str:
    """Return the lanes of one kind, with the time that they span."""
    begin, end = window(lanes, KINDS[name].shown)
    parts = [_text(0, -8, f"{name}: {(end - begin) / 1e6:.3g} ms", ink=INK)]
    for number, lane in enumerate(lanes):
        y = number * (LANE + 4)
        parts.append(f'<rect x="0" y="{y}" width="{WIDTH}" height="{LANE}" fill="{GRID}"/>')
        parts.append(_text(-8, y + LANE - 4, f"thread {number + 1}", "end"))
        for start, stop in lane.turns:
            left, right = (WIDTH * (at - begin) / (end - begin) for at in (max(start, begin), min(stop, end)))
            if right >= left:
                wide = max(right - left, 0.6)
                parts.append(
                    f'<rect x="{left:.1f}" y="{y}" width="{wide:.1f}" height="{LANE}" fill="{WORK}"/>'
                )
    return "".join(parts)


def picture(found: Mapping[str, Sequence[Lane]]) -> str:
    """Return the SVG: a panel for each kind of step."""
    tall = THREADS * (LANE + 4)
    height, wide = TOP + len(found) * (tall + GAP) - 20, LEFT + WIDTH + 16
    title = f"{THREADS} threads of one interpreter: filled while one works, empty while it waits"
    body = [_text(LEFT, 18, title, ink=INK)]
    for number, (name, lanes) in enumerate(found.items()):
        place = TOP + 14 + number * (tall + GAP)
        body.append(f'<g transform="translate({LEFT} {place})">{panel(name, lanes)}</g>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" width="{wide}" '
        f'height="{height}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" role="img">'
    )
    background = f'<rect width="{wide}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *body, "</svg>", ""])


def table(found: Mapping[str, Sequence[Lane]]) -> Table:
    """Return a row for each kind of step."""
    shown = Table("each thread repeats", "steps in a turn", "us a turn", "k steps a second")
    for name, lanes in found.items():
        spans = [span for lane in lanes for span in lane.turns]
        steps = sum(lane.steps for lane in lanes)
        whole = max(lane.turns[-1][1] for lane in lanes) - min(lane.turns[0][0] for lane in lanes)
        length = statistics.median(stop - start for start, stop in spans) / 1e3
        shown.add_row(name, f"{steps / len(spans):,.1f}", f"{length:,.1f}", f"{steps / whole * 1e6:,.0f}")
    return shown


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--svg", type=Path, help="write the picture here")
    options = parser.parse_args()
    found: dict[str, list[Lane]] = {}
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as directory, kind.made(Path(directory)) as steps:
            found[name] = record(steps, kind.times)
    Console(width=100).print(table(found))
    if options.svg:
        options.svg.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
