"""Two designs for threads on one engine that were tried, beside the one that was kept.

    python -m benchmarks.thread_designs [--rounds 5] [--sync 100]

`no fsync`: *flat combining*. A thread puts its append into a queue. One that gets the token makes all appends
that are queued, and wakes the threads that wait for them. In the engine each thread appends for itself.

`each waits for a sync`: *several syncs under way*. Up to so many threads sync at once, each what was
appended until then; more of them join the next sync. "own": each thread makes a sync of its own. The engine
has one sync under way (`GroupCommit`). A "sync" is a sleep of the given length, in memory, or the disk's
(`--sync 0`).

All in one process and one run, in turns; medians of thousands of appends a second, of microseconds of
processor time an append, and of voluntary context switches an append. The designs are models: they do not
take care of a thread that an exception cuts, which costs the engine something.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import TypeAlias
from unittest import mock

from rich.console import Console
from rich.table import Table

from benchmarks.threads import Row, together
from walrus import FsyncSchedule, Walrus
from walrus.storage import mapped, posix
from walrus.storage.engine import Engine

BACKENDS = ("pwritev", "mmap")
Appends: TypeAlias = Callable[[str, bytes], object]
Rows: TypeAlias = dict[tuple[str, ...], list[Row]]


class _Queued:
    """An append that waits for a thread to make it."""

    __slots__ = ("data", "gate", "topic")

    def __init__(self, topic: str, data: bytes) -> None:
        self.topic, self.data = topic, data
        self.gate = Lock()
        self.gate.acquire()


class FlatCombining:
    """The thread with the token appends for all that queue."""

    def __init__(self, wal: Walrus) -> None:
        self._append, self._queue, self._token = wal.append, deque[_Queued](), deque([None])

    def append(self, topic: str, data: bytes) -> None:
        """Append, or wait until another thread has."""
        mine = _Queued(topic, data)
        self._queue.append(mine)
        while self._queue:  # also what came after the last look, which no other thread may see
            try:
                self._token.pop()
            except IndexError:
                break  # the thread that has it looks once more when it has given it back
            self._combine()
            self._token.append(None)
        mine.gate.acquire()

    def _combine(self) -> None:
        while self._queue:
            queued = self._queue.popleft()
            self._append(queued.topic, queued.data)
            queued.gate.release()


class _Joined:
    """A thread that waits for a sync, or to lead the next one for `others`."""

    def __init__(self) -> None:
        self.gate = Lock()
        self.gate.acquire()
        self.others: list[_Joined] | None = None


class SeveralSyncs:
    """At most `limit` syncs under way. One that finds as many joins the next."""

    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine, self._limit = engine, limit
        self._mutex = Lock()
        self._under_way = 0
        self._next: list[_Joined] = []

    def commit(self) -> None:
        """Sync, or wait for a sync that begins after this call."""
        mine = _Joined()
        with self._mutex:
            leads = self._under_way < self._limit
            if leads:
                self._under_way += 1
                mine.others = []
            else:
                self._next.append(mine)
        if not leads:
            mine.gate.acquire()
        if mine.others is not None:
            self._lead(mine.others)

    def _lead(self, others: list[_Joined]) -> None:
        plan = self._engine.begin_sync()
        for file in plan.files:
            file.sync()
        self._engine.finish_sync(plan, None)
        with self._mutex:
            following, self._next = self._next, []
            self._under_way -= not following
        if following:
            following[0].others = following[1:]
            following[0].gate.release()
        for other in others:
            other.gate.release()


def _work(append: Appends, data: bytes) -> Callable[[int, int], None]:
    def work(number: int, share: int) -> None:
        topic = f"topic-{number}"
        for _ in range(share):
            append(topic, data)

    return work


def unsynced(rounds: int, count: int) -> Rows:
    """Measure appends that wait for no sync, with and without flat combining."""
    designs: dict[str, Callable[[Walrus], Appends]] = {
        "each for itself": lambda wal: wal.append,
        "flat combining": lambda wal: FlatCombining(wal).append,
    }
    rows: Rows = {}
    for backend, size, threads in [
        (b, s, t) for b in BACKENDS for s in (100, 750) for t in (1, 4, 10)
    ] * rounds:
        for name, made in designs.items():
            with (
                tempfile.TemporaryDirectory() as directory,
                Walrus(directory, fsync=FsyncSchedule.no_fsync(), backend=backend) as wal,
            ):
                row = together(threads, count, _work(made(wal), bytes(size)))
            rows.setdefault((backend, f"{size} B", name, str(threads)), []).append(row)
    return rows


def synced(rounds: int, count: int, micros: int) -> Rows:
    """Measure appends that each wait for a sync, with one sync under way and with several."""
    designs: dict[str, int] = {"one (GroupCommit)": 0, "two": 2, "three": 3, "own": 1_000}
    rows: Rows = {}

    def sleep(fd: int) -> None:
        time.sleep(micros / 1e6)

    memory = Path("/dev/shm")
    root = memory if micros and memory.is_dir() else None
    with ExitStack() as stack:
        for module in (posix, mapped) if micros else ():
            stack.enter_context(mock.patch.object(module, "sync_descriptor", sleep))
        for backend, threads in [(b, t) for b in BACKENDS for t in (4, 10, 16)] * rounds:
            for name, limit in designs.items():
                with (
                    tempfile.TemporaryDirectory(dir=root) as directory,
                    Walrus(directory, fsync=FsyncSchedule.sync_each(), backend=backend) as wal,
                ):
                    if limit:
                        wal._commit = SeveralSyncs(wal._engine, limit).commit
                    row = together(threads, count * threads, _work(wal.append, bytes(500)))
                rows.setdefault((backend, name, str(threads)), []).append(row)
    return rows


def table(title: str, rows: Rows, console: Console) -> None:
    """Print the medians."""
    shown = Table("", "threads", "k/s", "us", "switches", title=title, title_justify="left")
    for (*name, threads), measured in sorted(rows.items(), key=lambda row: (*row[0][:-2], int(row[0][-1]))):
        rate, switches, micros = (statistics.median(values) for values in zip(*measured, strict=True))
        shown.add_row(", ".join(name), threads, f"{rate / 1e3:,.1f}", f"{micros:.1f}", f"{switches:.2f}")
    console.print(shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=40_000, help="appends a measurement, no sync")
    parser.add_argument("--sync", type=int, default=100, help="microseconds of a sync; 0: the disk's")
    options = parser.parse_args()
    console = Console(width=100)
    table("no fsync", unsynced(options.rounds, options.entries), console)
    of = f"of {options.sync} us" if options.sync else "of the disk"
    table(f"each waits for a sync {of}", synced(options.rounds, 300, options.sync), console)


if __name__ == "__main__":
    main()
