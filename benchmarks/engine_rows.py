"""The rows of the engine's benchmark: what is measured, in which group, against which limit.

A row is a name and a function that takes an empty directory and returns one number in the group's unit. The
function prepares, times its loop, and cleans up nothing: the directory is removed when it returns.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from benchmarks import engine_limits as limits
from benchmarks.engine_peers import PEERS, LiteQueue, LmdbWritemap, Peer, PersistAckQueue, keys
from benchmarks.engine_subjects import Clock, open_subject
from benchmarks.engine_walrus import EventLoop, Subject
from walrus.storage.io_uring import unavailable_because

Kind = Literal["limit", "walrus", "peer"]
BATCH = 1000
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    kind: Kind
    run: Callable[[Path], float]


@dataclass(frozen=True)
class Group:
    """One table: rows in one unit, each also as a multiple of the row named `reference`."""

    key: str
    title: str
    unit: str
    reference: str
    rows: tuple[Row, ...]
    higher_is_better: bool = True
    waits: bool = False
    """Whether a disk, other threads or processes are part of the measurement: then never in CPU time."""


@dataclass(frozen=True)
class Scale:
    """How much work a run does."""

    single: int = 150_000
    batches: int = 500
    synced: int = 500
    synced_batches: int = 100
    mib: int = 128
    read: int = 500_000
    opened: int = 1_000_000
    gib: int = 4
    grown: int = 100_000_000
    threads: int = 16


QUICK = Scale(40_000, 150, 200, 50, 64, 200_000, 200_000, 1, 5_000_000)


@contextmanager
def quiet() -> Iterator[None]:
    """Prevent garbage collection inside a timed loop, for every row."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rate(units: float, loop: Callable[[], object]) -> float:
    """Return units per second of one run of `loop`."""
    with quiet():
        start = Clock.now()
        loop()
        return units / (Clock.now() - start)


def backends() -> list[str]:
    """Return the engine's backends that work here."""
    return ["pwritev", "mmap"] + (["io_uring"] if unavailable_because() is None else [])


def present_peers() -> list[type[Peer]]:
    """Return the peers that are installed."""
    return [peer for peer in PEERS if not peer.missing()]


@contextmanager
def opened(subject: Any) -> Iterator[Any]:
    """Open a subject, and close it at the end of the `with`."""
    try:
        yield subject
    finally:
        subject.close()


def filling(make: Callable[[Path], Any], count: int, payload: bytes) -> Callable[[Path], float]:
    """Return a row function: entries per second of `fill`, each a commit."""

    def run(directory: Path) -> float:
        keys(count)
        with opened(make(directory)) as subject:
            if isinstance(subject, limits.SyncedOverwrite):
                subject.prepare(count * len(payload))
            return rate(count, lambda: subject.fill(count, payload))

    return run


def batching(
    make: Callable[[Path], Any], batches: int, per_batch: int, payload: bytes, units: float
) -> Callable[[Path], float]:
    """Return a row function: units per second of `fill_batches`."""

    def run(directory: Path) -> float:
        keys(batches * per_batch)
        with opened(make(directory)) as subject:
            return rate(units, lambda: subject.fill_batches(batches, per_batch, payload))

    return run


def walrus(backend: str, *, durable: bool) -> Callable[[Path], Subject]:
    """Return a function that opens Walrus."""
    return lambda directory: Subject(directory, durable=durable, backend=backend)


def store(peer: type[Peer], *, durable: bool) -> Callable[[Path], Peer]:
    """Return a function that opens a peer."""
    return lambda directory: peer(directory, durable=durable)


def append_groups(scale: Scale) -> Iterator[Group]:
    """Yield groups without syncs: what the path through the engine costs."""
    for size in (100, 1024):
        payload, count = b"x" * size, scale.single if size == 100 else scale.single // 2
        rows = [
            Row("os.pwrite, growing file", "limit", filling(limits.Pwrite, count, payload)),
            Row("os.pwritev, header + payload", "limit", filling(limits.Pwritev, count, payload)),
            Row("os.pwritev, with pack and crc32", "limit", filling(limits.FramedPwritev, count, payload)),
            Row("slice into a mapping", "limit", filling(limits.Mapping, count, payload)),
        ]
        for backend in backends():
            rows.append(
                Row(f"Walrus {backend}", "walrus", filling(walrus(backend, durable=False), count, payload))
            )
        for peer in present_peers():
            work = count // peer.slowness
            rows.append(Row(peer.name, "peer", filling(store(peer, durable=False), work, payload)))
        yield Group(
            f"append-{size}", f"append one at a time, {size} B, no fsync", "/s", rows[0].name, tuple(rows)
        )


def batch_groups(scale: Scale) -> Iterator[Group]:
    """Yield groups of 1,000 entries per commit without syncs; then of entries of 1 MiB."""
    for size in (100, 1024):
        payload, batches = b"x" * size, scale.batches if size == 100 else scale.batches // 4
        units = batches * BATCH
        rows = [
            Row("os.pwrite of each entry", "limit", filling(limits.Pwrite, scale.single, payload)),
            Row("join + os.pwrite", "limit", batching(limits.JoinedPwrite, batches, BATCH, payload, units)),
        ]
        for backend in backends():
            make = walrus(backend, durable=False)
            rows.append(Row(f"Walrus {backend}", "walrus", batching(make, batches, BATCH, payload, units)))
        for peer in present_peers():
            if peer.has_batches:
                make_peer = store(peer, durable=False)
                rows.append(Row(peer.name, "peer", batching(make_peer, batches, BATCH, payload, units)))
        yield Group(
            f"batch-{size}",
            f"append in batches of 1,000, {size} B, no fsync",
            "/s",
            rows[0].name,
            tuple(rows),
        )
    payload, count = os.urandom(MIB), scale.mib
    rows = [Row("os.pwrite of 1 MiB", "limit", filling(limits.Pwrite, count, payload))]
    for backend in backends():
        rows.append(
            Row(
                f"Walrus {backend}",
                "walrus",
                batching(walrus(backend, durable=False), count // 4, 4, payload, count),
            )
        )
    for peer in present_peers():
        if peer.has_batches:
            rows.append(
                Row(peer.name, "peer", batching(store(peer, durable=False), count // 4, 4, payload, count))
            )
    yield Group(
        "large",
        "append 1 MiB entries, 4 a batch, no fsync",
        " MiB/s",
        rows[0].name,
        tuple(rows),
        waits=True,
    )


def durable_groups(scale: Scale) -> Iterator[Group]:
    """Yield groups in which a commit that returned survives a power loss."""
    payload, count = b"x" * 100, scale.synced
    rows = [
        Row("os.pwrite + fdatasync, growing file", "limit", filling(limits.SyncedPwrite, count, payload)),
        Row("os.pwrite + fdatasync, written space", "limit", filling(limits.SyncedOverwrite, count, payload)),
    ]
    for backend in backends():
        rows.append(
            Row(f"Walrus {backend}", "walrus", filling(walrus(backend, durable=True), count, payload))
        )
    for backend in backends():
        rows.append(Row(f"Walrus {backend}, 16 threads", "walrus", threads(backend, scale, payload)))
    for peer in present_peers():
        rows.append(
            Row(
                peer.name,
                "peer",
                filling(store(peer, durable=True), count // 4 if peer.slowness > 10 else count, payload),
            )
        )
    yield Group("durable", "durable, one at a time, 100 B", "/s", rows[0].name, tuple(rows), waits=True)

    batches, units = scale.synced_batches, scale.synced_batches * BATCH
    rows = [
        Row(
            "join + os.pwrite + fdatasync",
            "limit",
            batching(limits.SyncedJoinedPwrite, batches, BATCH, payload, units),
        )
    ]
    for backend in backends():
        make = walrus(backend, durable=True)
        rows.append(Row(f"Walrus {backend}", "walrus", batching(make, batches, BATCH, payload, units)))
    for peer in present_peers():
        if peer.has_batches:
            rows.append(
                Row(peer.name, "peer", batching(store(peer, durable=True), batches, BATCH, payload, units))
            )
    yield Group(
        "durable-batch",
        "durable, batches of 1,000, 100 B",
        "/s",
        rows[0].name,
        tuple(rows),
        waits=True,
    )


def threads(backend: str, scale: Scale, payload: bytes) -> Callable[[Path], float]:
    """Return a row function: many threads, each waiting for its own append (group commit)."""

    def run(directory: Path) -> float:
        with opened(Subject(directory, durable=True, backend=backend)) as subject:
            subject.fill(50, payload)
            each = scale.synced // 4
            return rate(scale.threads * each, lambda: subject.fill_threads(scale.threads, each, payload))

    return run


def loop_group(scale: Scale) -> Group:
    """Compare ways of syncing without blocking: the evidence for the choice of `auto` in a cluster."""
    rows = []
    for backend in backends():
        for writes in (1, 100):
            rows.append(
                Row(f"Walrus {backend}, {writes} writes a turn", "walrus", turning(backend, writes, scale))
            )
    return Group(
        "loop",
        "group commit from an event loop, 100 B writes",
        "/s",
        rows[0].name,
        tuple(rows),
        waits=True,
    )


def turning(backend: str, writes: int, scale: Scale) -> Callable[[Path], float]:
    """Return a row function: writes per second of a loop that has one sync in flight."""

    def run(directory: Path) -> float:
        with opened(EventLoop(directory, backend=backend)) as loop:
            loop.fill_turns(20, writes, b"x" * 100)
            turns = scale.synced if writes == 1 else scale.synced // 2
            return rate(turns * writes, lambda: loop.fill_turns(turns, writes, b"x" * 100))

    return run


def read_group(scale: Scale) -> Group:
    """Read entries in order from the page cache."""
    payload, count = b"x" * 100, scale.read
    rows = [Row("os.pwrite, growing file", "limit", filling(limits.Pwrite, scale.single, payload))]
    titles = {"batch_read": "batch_read_for_topic", "entries": "entries()", "payloads": "payloads()"}
    for how in titles:
        for written in ("batches", "singles"):
            name = f"Walrus {titles[how]}, written in {written}"
            rows.append(Row(name, "walrus", reading(how, written, count)))
    rows.append(Row("Walrus read_next, at least once", "walrus", reading("read_next", "singles", count // 5)))
    for peer in present_peers():
        rows.append(
            Row(f"{peer.name}", "peer", scanning(peer, count // 200 if peer.slowness > 10 else count))
        )
    return Group("read", "read in order, 100 B, warm", "/s", rows[0].name, tuple(rows))


def reading(how: str, written: str, count: int) -> Callable[[Path], float]:
    """Return a row function: entries per second of one way to read all of a topic."""

    def run(directory: Path) -> float:
        payload = b"x" * 100
        with opened(Subject(directory, durable=False, backend="pwritev")) as subject:
            if written == "batches":
                subject.fill_batches(count // BATCH, BATCH, payload)
            else:
                subject.fill(count, payload)
            if how == "read_next":
                return rate(count, lambda: subject.read_next(count))
            return rate(count, getattr(subject, how))

    return run


def queue_group(scale: Scale) -> Group:
    """Compare work queues that hand out and acknowledge one entry at a time, and lose none in a crash."""
    count = scale.read // 50
    rows = [
        Row("Walrus, each position persisted", "walrus", working(counted_each(1), count)),
        Row("Walrus, every 1,000 positions", "walrus", working(counted_each(1000), count)),
    ]
    for peer in (PersistAckQueue, LiteQueue):
        if not peer.missing():
            rows.append(Row(peer.name, "peer", working(store(peer, durable=False), count // 10)))
    return Group("queue", "receive and acknowledge, 100 B, one by one", "/s", rows[0].name, tuple(rows))


def counted_each(persist_every: int) -> Callable[[Path], Subject]:
    """Return a function that opens Walrus so that a crash repeats at most so many acknowledged entries."""
    return lambda directory: Subject(directory, durable=False, backend="pwritev", persist_every=persist_every)


def working(make: Callable[[Path], Any], count: int) -> Callable[[Path], float]:
    """Return a row function: entries per second of `work`."""

    def run(directory: Path) -> float:
        with opened(make(directory)) as subject:
            subject.fill(count, b"x" * 100)
            return rate(count, subject.work)

    return run


def scanning(peer: type[Peer], count: int) -> Callable[[Path], float]:
    """Return a row function: entries per second of a peer's iterator."""

    def run(directory: Path) -> float:
        with opened(peer(directory, durable=False)) as subject:
            if peer.has_batches:
                subject.fill_batches(count // BATCH, BATCH, b"x" * 100)
            else:
                subject.fill(count, b"x" * 100)
            if peer.has_batches:  # the queues consume what they read
                subject.scan()
            return rate(count, subject.scan)

    return run


@dataclass
class Reopening:
    """Logs of 1M entries, made once by a child process and opened as often as asked."""

    home: Path
    entries: int
    made: set[str] = field(default_factory=set)

    def row(self, subject: str, how: str) -> Row:
        """Return the row of one log: milliseconds to open it."""
        name = "Walrus" if subject == "walrus" else subject
        after = "after a clean close" if how == "clean" else "after kill -9"
        kind: Kind = "walrus" if subject == "walrus" else "peer"
        return Row(f"{name}, {after}", kind, lambda _: self.open(subject, how))

    def open(self, subject: str, how: str) -> float:
        """Open a copy (since opening changes it), which is in the page cache like the original."""
        source = self.home / f"{subject}-{how}".replace(" ", "-")
        if source.name not in self.made:
            source.mkdir(parents=True)
            child("fill", subject, str(source), str(self.entries), how)
            self.made.add(source.name)
        copy = self.home / "copy"
        subprocess.run(["cp", "-a", "--sparse=always", str(source), str(copy)], check=True)
        os.sync()
        try:
            with quiet():
                start = perf_counter()
                opened_subject = open_subject(subject, copy)
                elapsed = perf_counter() - start
            opened_subject.close()
        finally:
            shutil.rmtree(copy)
        return elapsed * 1000


def open_group(scale: Scale, home: Path) -> Group:
    """Compare the time to open a log."""
    reopening = Reopening(home / "reopen", scale.opened)
    # LMDB's writemap file is sparse: copying it would be measured, not LMDB.
    peers = [peer for peer in present_peers() if peer.has_batches and peer is not LmdbWritemap]
    names = ["walrus", *(peer.name for peer in peers)]
    rows = tuple(reopening.row(name, how) for how in ("clean", "kill") for name in names)
    return Group(
        "open",
        f"open a log of {scale.opened:,} entries",
        " ms",
        rows[0].name,
        rows,
        higher_is_better=False,
        waits=True,
    )


def child(*arguments: str) -> dict[str, float]:
    """Run `engine_child`; return its JSON, {} if it was killed before it printed any."""
    command = [sys.executable, "-m", "benchmarks.engine_child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, -9):
        raise RuntimeError(f"{' '.join(arguments)}: exit status {done.returncode}\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout) if done.stdout.strip() else {}
    return found


def groups(scale: Scale, home: Path) -> Iterator[Group]:
    """Yield all tables, in the order in which they are printed."""
    yield from append_groups(scale)
    yield from batch_groups(scale)
    yield from durable_groups(scale)
    yield loop_group(scale)
    yield read_group(scale)
    yield queue_group(scale)
    yield open_group(scale, home)
