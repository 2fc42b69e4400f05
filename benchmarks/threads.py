"""Threads on one engine, each with a topic of its own: appends beside those of one thread.

    python -m benchmarks.threads [--rounds 5] [--entries 60000]

Two tables. The first waits for no sync: 1, 4 and 10 threads on as many topics, each backend, entries of 100
and of 500 to 1,024 bytes, and beside them a loop of plain Python in as many threads, which is what sharing
one interpreter costs before anything is written. The second waits for the sync of each append. A "sync" there
is a sleep of the given length in place of the disk's, in memory: what is measured is the group commit.

Every round does all the rows once; medians. `switches` are voluntary context switches an append (a thread
that waits, for the interpreter or for another thread) and `us` its processor time: these two hold still on a
machine that others use.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from rich.console import Console
from rich.table import Table

from walrus import FsyncSchedule, Walrus
from walrus.storage import mapped, posix

BACKENDS = ("pwritev", "mmap", "io_uring")
THREADS = (1, 4, 10)
RNG = random.Random(1)
ENTRIES = {"100 B": [bytes(100)], "500-1024 B": [bytes(RNG.randrange(500, 1025)) for _ in range(1000)]}


class Row(NamedTuple):
    """The result of one measurement."""

    rate: float  # appends per second
    switches: float
    micros: float


def together(threads: int, count: int, work: Callable[[int, int], None]) -> Row:
    """Run `work(thread, its share of count)` in `threads` threads at once."""
    share = count // threads
    started = [threading.Thread(target=work, args=(number, share)) for number in range(threads)]
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done = share * threads
    return Row(done / seconds, (after.ru_nvcsw - before.ru_nvcsw) / done, cpu / done * 1e6)


def appends(
    backend: str, schedule: FsyncSchedule, threads: int, count: int, entries: list[bytes], root: Path | None
) -> Row:
    """Append `count` entries, by threads with a topic each."""
    with (
        tempfile.TemporaryDirectory(dir=root) as directory,
        Walrus(directory, fsync=schedule, backend=backend) as wal,
    ):

        def work(number: int, share: int) -> None:
            append, topic, sizes = wal.append, f"topic-{number}", len(entries)
            for at in range(share):
                append(topic, entries[at % sizes])

        return together(threads, count, work)


def plain(_: int, share: int) -> None:
    """Run a loop that keeps the interpreter as long as it can."""
    total = 0
    for number in range(share * 20):
        total = (total + number) & 255


def table(title: str, rows: dict[tuple[str, ...], list[Row]], console: Console) -> None:
    """Print the medians, and each rate beside that of one thread in the same round."""
    shown = Table("", "threads", "k/s", "of one thread", "switches", "us", title=title, title_justify="left")
    for (*name, threads), measured in rows.items():
        alone = rows[(*name, "1")]
        ratio = statistics.median(row.rate / one.rate for row, one in zip(measured, alone, strict=True))
        rate, switches, micros = (statistics.median(values) for values in zip(*measured, strict=True))
        shown.add_row(
            ", ".join(name), threads, f"{rate / 1e3:,.1f}", f"{ratio:.2f}", f"{switches:.2f}", f"{micros:.1f}"
        )
    console.print(shown)


def unsynced(rounds: int, count: int, root: Path | None) -> dict[tuple[str, ...], list[Row]]:
    """Measure the first table."""
    rows: dict[tuple[str, ...], list[Row]] = {}
    for _ in range(rounds):
        for threads in THREADS:
            rows.setdefault(("plain Python", str(threads)), []).append(together(threads, count, plain))
            for backend in BACKENDS:
                for size, entries in ENTRIES.items():
                    row = appends(backend, FsyncSchedule.no_fsync(), threads, count, entries, root)
                    rows.setdefault((backend, size, str(threads)), []).append(row)
    return dict(sorted(rows.items(), key=lambda row: row[0][:-1]))


def synced(rounds: int, count: int, micros: int) -> dict[tuple[str, ...], list[Row]]:
    """Measure the second table, with `count` appends per thread."""

    def sleep(fd: int) -> None:
        time.sleep(micros / 1e6)

    rows: dict[tuple[str, ...], list[Row]] = {}
    memory = Path("/dev/shm")
    with (
        mock.patch.object(posix, "sync_descriptor", sleep),
        mock.patch.object(mapped, "sync_descriptor", sleep),
    ):
        for _ in range(rounds):
            for threads in THREADS:
                for backend in ("pwritev", "mmap"):
                    row = appends(
                        backend, FsyncSchedule.sync_each(), threads, count * threads, [bytes(500)],
                        memory if memory.is_dir() else None,
                    )  # fmt: skip
                    rows.setdefault((backend, str(threads)), []).append(row)
    return dict(sorted(rows.items(), key=lambda row: row[0][:-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=60_000, help="appends a measurement, no sync")
    parser.add_argument("--sync", type=int, default=100, help="microseconds of a sync in the second table")
    parser.add_argument(
        "--directory", type=Path, help="on the disk to measure; default the system's for files"
    )
    options = parser.parse_args()
    console = Console(width=100)
    table("no fsync", unsynced(options.rounds, options.entries, options.directory), console)
    table(f"each waits for a sync of {options.sync} us", synced(options.rounds, 500, options.sync), console)


if __name__ == "__main__":
    main()
