"""A simulated node's storage: two engines that can lose power, and an observer of what is written.

A *drive* outlives the processes of its node. `open` gives a new process its two engines; `kill` takes them
away and loses nothing (the kernel has every byte); `lose_power` takes unsynced bytes too. A sync has two
halves, `start_sync` and `finish_sync`, because the virtual clock moves in between.

    MemoryDrive   lists of entries (`memory.py`). What no sync covered is lost by whole batches, any number of
                  them from the end of each topic, independently: what the engine promises, without its cost.
    EngineDrive   the real engine (`walrus.wal`) on a simulated disk (`disk.py`), which tears sectors, loses
                  renames and hands out garbage. Slower, and the engine's recovery is part of the test.

Both wrap their engines in `Watched`, which reports every write to the world's judge.

Invariant: `finish_sync` makes durable what had been written when `start_sync` was called, and nothing later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Literal, Protocol, TypeAlias

from walrus.sim.disk import Platter, SimDisk
from walrus.sim.memory import MemoryEngine
from walrus.storage.batch import Batch
from walrus.storage.errors import CorruptionError, DiskFull
from walrus.storage.log import Log
from walrus.storage.port import Storage
from walrus.storage.scan import Hole, records
from walrus.storage.syncing import Syncer
from walrus.wal import Walrus

DATA, META = "user_data", "raft_meta"
"""The two engines of a node, named as their directories are."""

Room: TypeAlias = Literal["", "all", "user_data", "raft_meta", "write", "trim", "delete"]
"""What there is no room for: nothing, everything, one engine, or one kind of write in both engines."""
ROOMS: tuple[Room, ...] = ("all", "user_data", "raft_meta", "write", "trim", "delete")


class Watcher(Protocol):
    """Observes the topics of both engines."""

    def on_write(self, engine: str, name: str, start: int, batch: Batch) -> None:
        """Entries were written at `start`."""

    def on_delete(self, engine: str, name: str) -> None:
        """The topic was deleted."""

    def on_full(self, engine: str, what: str) -> None:
        """There was no room to "write", "trim" or "delete"."""


class Drive(Protocol):
    """One machine's storage, across its node's processes."""

    rotten: set[str]
    """The engines in which a bit has flipped."""

    def open(self, watcher: Watcher | None) -> tuple[Storage, Storage]:
        """Return the data engine and the meta engine of a new process, recovered."""

    def start_sync(self, engine: str) -> None:
        """Begin a sync of everything written to this engine so far."""

    def finish_sync(self, engine: str) -> None:
        """Complete the sync: its writes are durable. Raises `EngineFailed` if a failure was ordered."""

    def kill(self) -> None:
        """The process dies: nothing is lost."""

    def lose_power(self) -> None:
        """The machine loses power and comes back: unsynced writes may be lost."""

    def lengths(self) -> dict[str, int] | None:
        """Return the entries per topic of the data engine as on disk; None if only `open` can tell."""

    def rot(self, name: str, index: int, rng: Random, engine: str = DATA) -> bool:
        """Flip a bit in this durable entry of an engine's topic; False if there is no such entry.

        Only entries that something else on the disk proves durable qualify: no engine can tell whether a
        broken record at the very end is rot or a torn write.
        """

    def fail_sync(self) -> None:
        """Let the next sync of either engine fail."""

    def fill(self, full: Room) -> None:
        """Have no room for this from now on; "" makes room for everything again."""

    def saved(self) -> Drive | None:
        """Return a copy of the whole drive, as for another machine; None if it cannot be copied."""


class Watched:
    """A `Storage` that reports its writes to a `Watcher`."""

    def __init__(self, engine: str, storage: Storage, watcher: Watcher) -> None:
        self._engine, self._storage, self._watcher = engine, storage, watcher
        # Methods that are not watched go straight to the engine, at no extra cost.
        self.read_batch = storage.read_batch
        self.bounds = storage.bounds
        self.topics = storage.topics

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except DiskFull:
            self._watcher.on_full(self._engine, what)
            raise

    def write(self, topic: str, batch: Batch) -> int:
        """See `Storage.write`."""
        with self._doing("write"):
            start = self._storage.write(topic, batch)
        self._watcher.on_write(self._engine, topic, start, batch)
        return start

    def trim(self, topic: str, before: int) -> None:
        """See `Storage.trim`."""
        with self._doing("trim"):
            self._storage.trim(topic, before)

    def delete_topic(self, topic: str) -> None:
        """See `Storage.delete_topic`."""
        with self._doing("delete"):
            self._storage.delete_topic(topic)
        self._watcher.on_delete(self._engine, topic)


def _watched(engines: dict[str, Storage], watcher: Watcher | None) -> tuple[Storage, Storage]:
    data, meta = engines[DATA], engines[META]
    return (data, meta) if watcher is None else (Watched(DATA, data, watcher), Watched(META, meta, watcher))


class MemoryDrive:
    """Two `MemoryEngine`s."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.engines = {DATA: MemoryEngine(), META: MemoryEngine()}
        self.rotten: set[str] = set()

    def open(self, watcher: Watcher | None) -> tuple[Storage, Storage]:
        """See `Drive.open`."""
        self.engines = {name: engine.successor() for name, engine in self.engines.items()}
        return _watched({**self.engines}, watcher)

    def start_sync(self, engine: str) -> None:
        """See `Drive.start_sync`."""
        self.engines[engine].start_sync()

    def finish_sync(self, engine: str) -> None:
        """See `Drive.finish_sync`."""
        self.engines[engine].finish_sync()

    def kill(self) -> None:
        """Keep every byte; `open` makes all of it durable before the node is told of it."""

    def lose_power(self) -> None:
        """See `Drive.lose_power`."""
        for name in sorted(self.engines):
            self.engines[name].lose_power(self._rng.choice)

    def lengths(self) -> dict[str, int] | None:
        """See `Drive.lengths`."""
        return self.engines[DATA].lengths()

    def rot(self, name: str, index: int, rng: Random, engine: str = DATA) -> bool:
        """See `Drive.rot`."""
        flipped = self.engines[engine].rot(name, index)
        self.rotten |= {engine} if flipped else set()
        return flipped

    def fail_sync(self) -> None:
        """See `Drive.fail_sync`."""
        for engine in self.engines.values():
            engine.failing = True

    def fill(self, full: Room) -> None:
        """See `Drive.fill`."""
        for name, engine in self.engines.items():
            engine.full = full if full in ("write", "trim", "delete") else full in ("all", name)

    def saved(self) -> Drive | None:
        """See `Drive.saved`."""
        other = MemoryDrive(self._rng)
        other.engines = {name: engine.copied() for name, engine in self.engines.items()}
        other.rotten = set(self.rotten)
        return other


class EngineDrive:
    """Two real engines on a simulated disk."""

    def __init__(self, rng: Random) -> None:
        self.platter = Platter(rng)
        self.rotten: set[str] = set()
        self._engines: dict[str, Walrus] = {}
        self._headers: set[int] = set()  # of blocks (their lives) in whose header a bit has flipped
        self._syncers: dict[str, Syncer] = {}

    def open(self, watcher: Watcher | None) -> tuple[Storage, Storage]:
        """See `Drive.open`."""
        self._engines = engines = {name: self._engine(name) for name in (DATA, META)}
        self._syncers = {name: engine.syncer() for name, engine in engines.items()}
        return _watched({**engines}, watcher)

    def _engine(self, name: str) -> Walrus:
        disk: SimDisk = self.platter.directory(name)
        return Walrus(disk=disk)

    def start_sync(self, engine: str) -> None:
        """See `Drive.start_sync`."""
        self._syncers[engine].start()

    def finish_sync(self, engine: str) -> None:
        """See `Drive.finish_sync`."""
        self._syncers[engine].finish()

    def kill(self) -> None:
        """See `Drive.kill`."""
        self._engines = {}
        self.platter.kill()

    def lose_power(self) -> None:
        """See `Drive.lose_power`."""
        self._engines = {}
        self.platter.lose_power()

    def lengths(self) -> dict[str, int] | None:
        """Return None: the lengths are not known before recovery."""
        return None

    def rot(self, name: str, index: int, rng: Random, engine: str = DATA) -> bool:
        """See `Drive.rot`. Any bit of the record may flip, its head and its checksum included.

        It flips only while a process runs. Now and then a bit of the block's header flips too, which must do
        no harm at all.
        """
        running = self._engines.get(engine)
        log = running._engine.logs.get(name) if running else None
        if log is None or not log.first <= index < _proven(log):
            return False
        try:
            found = log.block_at(index)
            assert found is not None
            block, end, entries = found
            record = block.locate(log.owner.space.view(block.extent), index - block.head.base, end, entries)
        except (Hole, CorruptionError):
            return False  # there is damage already
        file, start = log.owner.space.file(block.extent.file).name, block.extent.offset + record.offset
        if rng.random() < 0.2 and block.head.life not in self._headers:  # the engine cannot correct two
            self._headers.add(block.head.life)
            bit = rng.randrange(8 * block.head.start - 16)
            self.platter.flip_bit(engine, file, 8 * block.extent.offset + (bit if bit < 48 else bit + 16))
        self.platter.flip_bit(engine, file, start * 8 + rng.randrange(8 * (record.end - record.offset)))
        self.rotten.add(engine)
        return True

    def fail_sync(self) -> None:
        """See `Drive.fail_sync`."""
        self.platter.fail("sync", 5)

    def fill(self, full: Room) -> None:
        """See `Drive.fill`. A simulated disk does not distinguish writes: it is full for all of them."""
        self.platter.capacity = self.platter.used if full else None

    def saved(self) -> Drive | None:
        """See `Drive.saved`."""
        return None


def _proven(log: Log) -> int:
    """Return how many leading entries are durable and proven to be by something else on the disk."""
    proven = 0
    for block in log.blocks:
        base, view = block.head.base, log.owner.space.view(block.extent)
        for record in records(view, block.life, block.head.start, block.extent.size):
            if base + record.position + record.entries <= log.durable_index:
                proven = max(proven, block.head.durable, base + record.durable)
    return proven
