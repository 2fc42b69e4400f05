"""Walrus in the same loops as the limits and the peers."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from pathlib import Path

from walrus import FsyncSchedule, ReadConsistency, Walrus
from walrus.storage.batch import Batch

TOPIC = "benchmark"
READ_BYTES = 1 << 20


class Subject:
    """An engine opened on a directory, with the loops that are timed."""

    def __init__(self, directory: Path, *, durable: bool, backend: str, persist_every: int = 1000) -> None:
        schedule = FsyncSchedule.sync_each() if durable else FsyncSchedule.no_fsync()
        self.wal = Walrus(
            directory / "walrus",
            consistency=ReadConsistency.at_least_once(persist_every),
            fsync=schedule,
            backend=backend,
        )

    def close(self) -> None:
        """Close cleanly."""
        self.wal.close()

    def fill(self, count: int, payload: bytes) -> None:
        """`append_for_topic`."""
        append = self.wal.append_for_topic
        for _ in range(count):
            append(TOPIC, payload)

    def fill_batches(self, batches: int, per_batch: int, payload: bytes) -> None:
        """`batch_append_for_topic`."""
        append, entries = self.wal.batch_append_for_topic, [payload] * per_batch
        for _ in range(batches):
            append(TOPIC, entries)

    def fill_threads(self, threads: int, count: int, payload: bytes) -> None:
        """Append from several threads at once, `count` entries each."""
        workers = [threading.Thread(target=self.fill, args=(count, payload)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def batch_read(self) -> None:
        """`batch_read_for_topic`, moving the cursor, until nothing is left."""
        read = self.wal.batch_read_for_topic
        while read(TOPIC, max_bytes=READ_BYTES, checkpoint=True):
            pass

    def read_next(self, count: int) -> None:
        """`read_next(checkpoint=True)`."""
        read = self.wal.read_next
        for _ in range(count):
            read(TOPIC, checkpoint=True)

    def entries(self) -> None:
        """`entries()`."""
        deque(self.wal.entries(TOPIC), maxlen=0)

    def work(self) -> None:
        """`receive` and `ack`, one entry at a time."""
        receive, ack = self.wal.receive, self.wal.ack
        while (received := receive(TOPIC)) is not None:
            ack(TOPIC, received)

    def payloads(self) -> None:
        """`payloads()`."""
        deque(self.wal.payloads(TOPIC, start=0), maxlen=0)


class EventLoop:
    """The cluster's group commit: each turn writes what arrived, starts a sync, and waits for the
    descriptor.

    One sync is in flight while the next turn's entries are written, as in a node with `--fsync each`. The
    turn's only work is its writes, so a worker thread that syncs has to share the interpreter with them.
    """

    def __init__(self, directory: Path, *, backend: str) -> None:
        self.wal = Walrus(directory / "walrus", fsync=FsyncSchedule.group_commit(), backend=backend)
        self.syncer = self.wal.syncer()

    def close(self) -> None:
        """Close cleanly."""
        self.wal.close()

    def fill_turns(self, turns: int, writes: int, payload: bytes) -> None:
        """Make `writes` writes per turn, each to its own topic, as from so many connections."""
        wal, syncer, batch = self.wal, self.syncer, Batch.of([payload])
        topics = [f"{TOPIC}/{number}" for number in range(writes)]
        poll = select.poll()
        poll.register(syncer.fileno(), select.POLLIN)
        flying = False
        for _ in range(turns):
            for topic in topics:
                wal.write(topic, batch)
            if flying:
                poll.poll()
                syncer.finish()
            syncer.start()
            flying = True
        poll.poll()
        syncer.finish()


def resident() -> tuple[int, int]:
    """Return this process's memory in bytes: its own (anonymous), and the mapped pages of files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["RssFile"]


def die() -> None:
    """End the process as `kill -9` does."""
    os.kill(os.getpid(), 9)
