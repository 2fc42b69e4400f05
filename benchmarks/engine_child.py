"""Measurements that need a process of their own: one that is killed, and one whose memory is looked at.

python -m benchmarks.engine_child fill SUBJECT DIRECTORY ENTRIES clean|kill
python -m benchmarks.engine_child memory DIRECTORY GIB
python -m benchmarks.engine_child growth DIRECTORY ENTRIES wall|cpu
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

from benchmarks.engine_subjects import Clock, open_subject
from benchmarks.engine_walrus import TOPIC, Subject, die, resident
from walrus.storage.record import OVERHEAD

PAYLOAD = b"x" * 100


def fill(subject: str, directory: Path, entries: int, how: str) -> None:
    """Write a log of `entries` entries, then close it or kill this process."""
    store = open_subject(subject, directory)
    store.fill_batches(entries // 1000, 1000, PAYLOAD)
    if how == "kill":
        die()
    store.close()


def memory(directory: Path, gib: int) -> dict[str, float]:
    """Return the memory that `gib` GiB of 1 KiB entries leave, appended and read, and 4M small ones."""
    subject = Subject(directory, durable=False, backend="pwritev")
    subject.fill_batches(4, 1000, bytes(1024))
    subject.payloads()
    before, _ = resident()
    for _ in range(gib):
        subject.fill_batches(1024, 1024, bytes(1024))
    appended, _ = resident()
    subject.payloads()
    read_back, mapped = resident()
    entries, small = 4_000_000, bytes(8)
    start, _ = resident()
    subject.fill_batches(entries // 1000, 1000, small)
    index = resident()[0] - start
    subject.close()
    return {
        "appending adds MB": (appended - before) / 1e6,
        "reading back adds MB": (read_back - before) / 1e6,
        "mapped file pages MB": mapped / 1e6,
        "index bytes per entry": max(0, index) / entries,
    }


def growth(directory: Path, entries: int) -> dict[str, float]:
    """Return nanoseconds per append: in a short and in a long log, over one and over a thousand topics.

    Also of a bare `os.pwrite` to one place and to a thousand places in turn, as the cost of that alone.
    """
    subjects = {
        name: Subject(directory / name, durable=False, backend="pwritev")
        for name in ("short", "long", "many")
    }
    subjects["short"].fill(1000, PAYLOAD)
    subjects["long"].fill_batches(entries // 2000, 2000, bytes(8))
    topics = [f"topic-{number}" for number in range(1000)]
    for topic in topics:
        subjects["many"].wal.append_for_topic(topic, PAYLOAD)
    bare = Places(directory)
    loops: dict[str, Callable[[], float]] = {
        "short": lambda: timed_appends(subjects["short"], [TOPIC] * 20_000),
        "long": lambda: timed_appends(subjects["long"], [TOPIC] * 20_000),
        "one topic": lambda: timed_appends(subjects["short"], [TOPIC] * 20_000),
        "many": lambda: timed_appends(subjects["many"], topics * 20),
        "bare, one place": lambda: bare.timed_writes([0] * 20_000),
        "bare, many places": lambda: bare.timed_writes(list(range(1000)) * 20),
    }
    costs: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(15):
        for name, loop in loops.items():
            costs[name].append(loop())
    for subject in subjects.values():
        subject.close()
    return {name: statistics.median(values) for name, values in costs.items()}


def timed_appends(subject: Subject, topics: list[str]) -> float:
    """Return nanoseconds per append to these topics in turn."""
    append = subject.wal.append_for_topic
    start = Clock.now()
    for topic in topics:
        append(topic, PAYLOAD)
    return (Clock.now() - start) / len(topics) * 1e9


class Places:
    """A preallocated file with a thousand places, each of which grows like a topic."""

    STRIDE = 64 << 10

    def __init__(self, directory: Path) -> None:
        self.fd = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self.fd, 0, 1000 * self.STRIDE)

    def timed_writes(self, places: list[int]) -> float:
        """Return nanoseconds per write of a record's length to these places in turn."""
        pwrite, fd, record = os.pwrite, self.fd, bytes(len(PAYLOAD) + OVERHEAD)
        ends = [place * self.STRIDE for place in range(1000)]
        start = Clock.now()
        for place in places:
            offset = ends[place]
            pwrite(fd, record, offset)
            ends[place] = offset + len(record)
        return (Clock.now() - start) / len(places) * 1e9


def main(arguments: list[str]) -> None:
    """Run the command (see the usage in the module's docstring); print the results as JSON."""
    match arguments:
        case ["fill", subject, directory, entries, how]:
            fill(subject, Path(directory), int(entries), how)
        case ["memory", directory, gib]:
            print(json.dumps(memory(Path(directory), int(gib))))
        case ["growth", directory, entries, clock]:
            Clock.now = staticmethod(thread_time if clock == "cpu" else perf_counter)
            print(json.dumps(growth(Path(directory), int(entries))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
